"""Training batches that depend only on seed and step, so that a resumed run has the same batches."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from simsiam_eval.runtime.machine import worker_count
from simsiam_eval.runtime.signals import ignore_stop_signals
from tasks.detection.data.dataset import DetectionDataset, LabeledImage
from tasks.detection.data.images import ImageProblem, read_pixels
from tasks.detection.data.masks import binary_mask

# An image (3,H,W) uint8 with torchvision's target, or why the image cannot be used.
TrainingItem = tuple[Tensor, dict[str, Tensor]] | ImageProblem


class TrainingImages(Dataset):
    """Item (row, flip) -> image (3,H,W) uint8 with torchvision's target, or an ImageProblem."""

    def __init__(self, data: DetectionDataset, masks: bool) -> None:
        self.images, self.masks = data.images, masks

    def __getitem__(self, key: tuple[int, bool]) -> TrainingItem:
        row, flip = key
        pixels = read_pixels(self.images[row])
        if isinstance(pixels, ImageProblem):
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
    """Item index -> (row, image (3,H,W) uint8 or an ImageProblem), for the given rows of the dataset."""

    def __init__(self, data: DetectionDataset, rows: range) -> None:
        self.images, self.rows = data.images, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[int, Tensor | ImageProblem]:
        return self.rows[index], read_pixels(self.images.without_objects(self.rows[index]))


def _target(image: LabeledImage, masks: bool) -> dict[str, Tensor]:
    """boxes (K,4) as corners, labels (K,) from 1 (0 is the background), and masks (K,H,W) if requested."""
    target = {
        "boxes": torch.tensor([obj.corners for obj in image.annotations], dtype=torch.float32),
        "labels": torch.tensor([obj.label + 1 for obj in image.annotations]),
    }
    if masks:
        bitmaps = []
        for obj in image.annotations:
            assert obj.segmentation is not None  # check_training_set drops the objects without one
            bitmaps.append(binary_mask(obj.segmentation, image.height, image.width))
        target["masks"] = torch.from_numpy(np.stack(bitmaps))
    return target


class SampleOrder:
    """The images of each step: one permutation after another, each image flipped with probability 1/2, from the seed.

    >>> order = SampleOrder(images=5, batch=2, seed=0)
    >>> sorted(row for step in range(5) for row, _ in order.step(step))
    [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    """

    def __init__(self, images: int, batch: int, seed: int) -> None:
        self.images, self.batch, self.seed = images, batch, seed
        self._permutation = lru_cache(maxsize=2)(self._draw_permutation)

    def _draw_permutation(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.seed, 0, epoch)).permutation(self.images)

    def step(self, step: int) -> list[tuple[int, bool]]:
        """(row, flip) of each image in the batch of all processes together."""
        samples = []
        for position in range(step * self.batch, (step + 1) * self.batch):
            row = self._permutation(position // self.images)[position % self.images]
            flip = np.random.default_rng((self.seed, 1, position)).random() < 0.5
            samples.append((int(row), bool(flip)))
        return samples


class _BatchSampler(Sampler):
    """This process's (row, flip) pairs of each step, drawn lazily: a schedule can have millions of images."""

    def __init__(self, order: SampleOrder, share: slice, steps: range) -> None:
        self.order, self.share, self.steps = order, share, steps

    def __iter__(self) -> Iterator[list[tuple[int, bool]]]:
        return (self.order.step(step)[self.share] for step in self.steps)

    def __len__(self) -> int:
        return len(self.steps)


def training_batches(
    data: DetectionDataset, masks: bool, order: SampleOrder, share: slice, steps: range, workers: int | None
) -> Iterator[list[TrainingItem]]:
    """This process's share of the batch of each step."""
    return iter(
        DataLoader(
            TrainingImages(data, masks),
            batch_sampler=_BatchSampler(order, share, steps),
            num_workers=worker_count(workers),
            collate_fn=list,
            worker_init_fn=ignore_stop_signals,
        )
    )
