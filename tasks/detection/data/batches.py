"""Training batches that depend on seed and step alone: a run that is resumed sees what it would have seen."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from simsiam_eval.images.decode import UnreadableImage, image_size, open_image
from simsiam_eval.runtime.machine import usable_cores
from simsiam_eval.runtime.signals import ignore_stop_signals
from tasks.detection.data.dataset import DetectionSet, LabeledImage

Item = tuple[Tensor, dict[str, Tensor]] | str


class TrainingImages(Dataset):
    """Item (row, flip) -> image (3,H,W) uint8 with torchvision's target, or the reason why it cannot be read.

    A reason, not an exception: DataLoader would hand that on as a traceback of another process.
    """

    def __init__(self, data: DetectionSet, masks: bool) -> None:
        self.images, self.masks = data.images, masks

    def __getitem__(self, key: tuple[int, bool]) -> Item:
        row, flip = key
        pixels = read_pixels(self.images[row])
        if isinstance(pixels, str):
            return pixels
        target = _target(self.images[row], self.masks)
        if flip:
            width = pixels.shape[2]
            pixels = pixels.flip(2)
            target["boxes"][:, [0, 2]] = width - target["boxes"][:, [2, 0]]
            if "masks" in target:
                target["masks"] = target["masks"].flip(2)
        return pixels, target


class TestImages(Dataset):
    """Item row -> (row, image (3,H,W) uint8 or the reason why it cannot be read)."""

    def __init__(self, data: DetectionSet, rows: range) -> None:
        self.images, self.rows = data.images, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> tuple[int, Tensor | str]:
        return self.rows[place], read_pixels(self.images[self.rows[place]])


def read_pixels(image: LabeledImage) -> Tensor | str:
    """(3,H,W) uint8, or a clause with the reason why not."""
    try:
        pixels = torch.tensor(open_image(image.path).pixels()).permute(2, 0, 1).contiguous()
    except UnreadableImage as error:
        return f"the image {image.path} cannot be read ({error})"
    return wrong_size(image, pixels.shape[2], pixels.shape[1]) or pixels


def unusable(image: LabeledImage) -> str:
    """A clause with the reason why the image cannot be used, as far as its header tells; empty where it can."""
    try:
        return wrong_size(image, *image_size(image.path)) and wrong_size(image, *_decoded_size(image.path))
    except UnreadableImage as error:
        return f"the image {image.path} cannot be read ({error})"


def _decoded_size(path: Path) -> tuple[int, int]:
    opened = open_image(path)
    return opened.width, opened.height


def wrong_size(image: LabeledImage, width: int, height: int) -> str:
    """A clause where the image's own size is not that of its annotations."""
    if (width, height) == (image.width, image.height):
        return ""
    return f"the image {image.path} is {width}x{height}, but its annotations are of {image.width}x{image.height}"


def _target(image: LabeledImage, masks: bool) -> dict[str, Tensor]:
    target = {
        "boxes": torch.tensor([one.corners for one in image.annotations], dtype=torch.float32),
        "labels": torch.tensor([one.label + 1 for one in image.annotations]),
    }
    if masks:
        shapes = [binary_mask(one.segmentation, image.height, image.width) for one in image.annotations]
        target["masks"] = torch.from_numpy(np.stack(shapes))
    return target


def binary_mask(segmentation: Any, height: int, width: int) -> np.ndarray:
    """(height, width) uint8 of polygons or RLE."""
    from pycocotools import mask

    if isinstance(segmentation, list):
        encoded = mask.merge(mask.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        encoded = mask.frPyObjects(segmentation, height, width)
    else:
        encoded = segmentation
    return np.ascontiguousarray(mask.decode(encoded))


class Order:
    """Which images each step takes: permutation after permutation, one half of them flipped, from the seed.

    >>> order = Order(images=5, batch=2, seed=0)
    >>> sorted(row for step in range(5) for row, _ in order.step(step))
    [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    """

    def __init__(self, images: int, batch: int, seed: int) -> None:
        self.images, self.batch, self.seed = images, batch, seed
        self._permutation = lru_cache(maxsize=2)(self._draw)

    def _draw(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.seed, 0, epoch)).permutation(self.images)

    def step(self, number: int) -> list[tuple[int, bool]]:
        """(row, flip) of each image of the whole batch."""
        chosen = []
        for place in range(number * self.batch, (number + 1) * self.batch):
            row = self._permutation(place // self.images)[place % self.images]
            chosen.append((int(row), bool(np.random.default_rng((self.seed, 1, place)).random() < 0.5)))
        return chosen


class _Steps(Sampler):
    """One process's keys, step by step: drawn when they are asked for, as a schedule can be of millions of images."""

    def __init__(self, order: Order, share: slice, steps: range) -> None:
        self.order, self.share, self.steps = order, share, steps

    def __iter__(self) -> Iterator[list[tuple[int, bool]]]:
        return (self.order.step(number)[self.share] for number in self.steps)

    def __len__(self) -> int:
        return len(self.steps)


def training_batches(
    data: DetectionSet, masks: bool, order: Order, share: slice, steps: range, workers: int | None
) -> Iterator[list[Item]]:
    """This process's part of each step's batch."""
    return iter(
        DataLoader(
            TrainingImages(data, masks),
            batch_sampler=_Steps(order, share, steps),
            num_workers=worker_count(workers),
            collate_fn=list,
            worker_init_fn=ignore_stop_signals,
        )
    )


def worker_count(workers: int | None) -> int:
    """Of --workers: one per core, at most 16."""
    return min(16, usable_cores()) if workers is None else workers
