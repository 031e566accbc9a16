"""Views per second on the CPU: the reference pipeline (one PIL image at a time) and ours (a batch at a time).

Both return a normalized float32 batch. 32 px: images of 32 x 32 pixels in memory; the reference converts each to a PIL
image, as torchvision's CIFAR10 does. 224 px: decoded photographs of 500 x 375, as PIL images for the reference and as
arrays for ours. One core: one process, one thread. All cores: a DataLoader with one worker per core; ours at 32 px runs
in threads of the main process instead.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from PIL import Image, ImageFilter
from report import write_table
from sklearn.datasets import load_sample_images
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from pretrain.build import view_recipe
from pretrain.settings import PretrainSettings
from pretrain.views.augment import Views, crop_resident
from pretrain.views.parameters import ViewParameters, boxes, draw
from simsiam_eval.images.crops import crop_image
from simsiam_eval.vocabulary import IMAGENET_MEAN, IMAGENET_STD

BATCH = {32: 512, 224: 64}
HEIGHT, WIDTH = 375, 500


class Blur:
    def __call__(self, image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))


def reference_transform(size: int) -> Callable:
    steps = [
        transforms.RandomResizedCrop(size, scale=(0.2, 1.0)),
        transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
        transforms.RandomGrayscale(p=0.2),
        *([transforms.RandomApply([Blur()], p=0.5)] if size == 224 else []),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
    ]
    return transforms.Compose(steps)


class ReferenceViews(Dataset):
    """Maps a row to one view."""

    def __init__(self, images: list, size: int, count: int) -> None:
        self.images, self.count, self.transform = images, count, reference_transform(size)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> torch.Tensor:
        image = self.images[row % len(self.images)]
        return self.transform(Image.fromarray(image) if isinstance(image, np.ndarray) else image)


class OurViews(Dataset):
    """Maps the (rows, parameters) of a batch to its views."""

    def __init__(self, images: list, size: int) -> None:
        self.images, self.size = [np.asarray(image) for image in images], size
        self.views = Views(IMAGENET_MEAN, IMAGENET_STD)

    def __getitem__(self, batch: tuple[np.ndarray, ViewParameters]) -> torch.Tensor:
        rows, parameters = batch
        images = [self.images[row] for row in rows]
        crop_boxes = boxes(parameters, *np.array([image.shape[:2] for image in images]).T)
        crops = [crop_image(image, box, self.size) for image, box in zip(images, crop_boxes, strict=True)]
        return self.views.augment(torch.stack(crops), parameters)


class Batches:
    """Batches of (rows, parameters), redrawn every epoch."""

    def __init__(self, size: int, images: int, count: int) -> None:
        self.images = images
        preset = "cifar10" if size == 32 else "imagenet"
        self.recipe = view_recipe(PretrainSettings(data="none", out="none", preset=preset))  # type: ignore[arg-type]
        self.count, self.batch, self.rng = count, BATCH[size], np.random.default_rng(0)

    def __iter__(self) -> Iterator[list]:
        for _ in range(self.count // self.batch):
            rows = self.rng.integers(self.images, size=self.batch)
            yield [(rows, draw(self.recipe, self.rng, self.batch))]


def first_item(batch: list) -> object:
    return batch[0]


def reference(size: int, images: list, count: int, workers: int) -> Callable[[], None]:
    loader = DataLoader(
        ReferenceViews(images, size, count), BATCH[size], num_workers=workers, persistent_workers=workers > 0
    )

    def run() -> None:
        assert sum(len(views) for views in loader) == count

    return run


def ours(size: int, images: list, count: int, workers: int) -> Callable[[], None]:
    batches = Batches(size, len(images), count)
    if size == 32:
        views, resident = Views(IMAGENET_MEAN, IMAGENET_STD), torch.from_numpy(np.stack(images))
        resident = resident.permute(0, 3, 1, 2).contiguous()

        def run_resident() -> None:
            for [(rows, parameters)] in batches:
                crops = crop_resident(resident, torch.from_numpy(rows), boxes(parameters, size, size), size)
                views.augment(crops, parameters)

        return run_resident

    loader = DataLoader(
        OurViews(images, size),
        batch_sampler=batches,
        collate_fn=first_item,
        num_workers=workers,
        persistent_workers=workers > 0,
    )

    def run() -> None:
        assert sum(len(views) for views in loader) == count

    return run


def make_images(size: int) -> list:
    """Arrays of 32 x 32 pixels, or PIL images of 500 x 375, from two photographs."""
    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    if size == 224:
        return [photo.resize((WIDTH, HEIGHT)) for photo in photos] * 8
    rng = np.random.default_rng(0)
    corners = [(int(rng.integers(500)), int(rng.integers(280))) for _ in range(1000)]
    return [
        np.asarray(photos[index % 2].crop((x, y, x + 128, y + 128)).resize((32, 32)))
        for index, (x, y) in enumerate(corners)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=9, help="Number of repetitions.")
    parser.add_argument("--batches", type=int, default=6, help="Batches per repetition.")
    args = parser.parse_args()
    all_cores = os.sched_getaffinity(0)
    rows = []
    for size in BATCH:
        images, count = make_images(size), args.batches * BATCH[size]
        for cores in sorted({1, len(all_cores)}):
            os.sched_setaffinity(0, set(list(all_cores)[:cores]))
            torch.set_num_threads(cores)
            workers = 0 if cores == 1 else cores
            runs = [make(size, images, count, workers) for make in (reference, ours)]
            seconds: list[list[float]] = [[], []]
            for repetition in range(args.repetitions + 1):
                for run, measured in zip(runs, seconds, strict=True):
                    started = time.perf_counter()
                    run()
                    if repetition:  # the first repetition starts the workers
                        measured.append(time.perf_counter() - started)
            speeds = [sorted(count / elapsed for elapsed in measured) for measured in seconds]
            medians = [statistics.median(rates) for rates in speeds]
            cells = [
                f"{median:.0f} ({rates[0]:.0f} to {rates[-1]:.0f})"
                for median, rates in zip(medians, speeds, strict=True)
            ]
            rows.append([str(size), str(cores), *cells, f"{medians[1] / medians[0]:.1f}"])
            print(rows[-1], flush=True)
    os.sched_setaffinity(0, all_cores)
    write_table(
        "views_speed",
        "Views per second on the CPU",
        ("side, px", "cores", "reference (PIL)", "ours", "ratio"),
        rows,
        [
            f"Medians (lowest to highest) of {args.repetitions} repetitions of {args.batches} batches "
            f"({BATCH[32]} views at 32 px, {BATCH[224]} at 224 px), alternating; decoding excluded. "
            f"Load average at start: {LOAD:.2f}.",
        ],
    )


LOAD = os.getloadavg()[0]

if __name__ == "__main__":
    main()
