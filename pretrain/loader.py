"""Batches of two views, the same for any number of workers: what an image becomes depends on seed, epoch and row only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from pretrain.recipe import PretrainSettings
from pretrain.views import Views
from simsiam_eval.errors import DataError
from simsiam_eval.extraction import worker_count
from simsiam_eval.images import UnreadableImage
from simsiam_eval.sources.base import ImageSource


@dataclass(frozen=True)
class Batch:
    view1: torch.Tensor  # (B,3,S,S) uint8
    view2: torch.Tensor
    unreadable: dict[int, str]  # row -> why


class _Pairs:
    """Map-style data set: (epoch, row) -> two views, or why there are none."""

    def __init__(self, source: ImageSource, views: Views, seed: int) -> None:
        self.source, self.views, self.seed = source, views, seed

    def __getitem__(self, key: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor] | tuple[int, str]:
        epoch, row = key
        try:
            image = self.source.image(row)
        except UnreadableImage as error:
            return row, str(error)
        rng = np.random.default_rng([self.seed, epoch, row])
        first, second = (self.views.apply(image, self.views.draw(rng, *image.size)) for _ in range(2))
        return first, second


class _Shuffled:
    """Batches of (epoch, row) in a new order every epoch; an incomplete last batch is dropped."""

    def __init__(self, rows: int, batch_size: int, seed: int) -> None:
        self.rows, self.batch_size, self.seed, self.epoch = rows, batch_size, seed, 0

    def __len__(self) -> int:
        return self.rows // self.batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return self._of(self.epoch)  # read now: the iterator is of this epoch, whenever it is used

    def _of(self, epoch: int) -> Iterator[list[tuple[int, int]]]:
        order = np.random.default_rng([self.seed, epoch]).permutation(self.rows)
        for start in range(len(self)):
            rows = order[start * self.batch_size : (start + 1) * self.batch_size]
            yield [(epoch, int(row)) for row in rows]


def _collate(pairs: list[tuple[torch.Tensor, torch.Tensor] | tuple[int, str]]) -> Batch:
    good = [pair for pair in pairs if isinstance(pair[0], torch.Tensor)]
    bad = dict(pair for pair in pairs if not isinstance(pair[0], torch.Tensor))
    empty = torch.empty((0, 3, 1, 1), dtype=torch.uint8)
    first, second = (torch.stack(list(views)) for views in zip(*good, strict=True)) if good else (empty, empty)  # type: ignore[arg-type]
    return Batch(first, second, bad)  # type: ignore[arg-type]


class Loader:
    """Epochs of batches; an unreadable image makes its batch smaller.

    Raises:
        DataError: fewer images than one batch.
    """

    def __init__(self, source: ImageSource, settings: PretrainSettings, pin_memory: bool) -> None:
        if len(source) < settings.batch_size:
            raise DataError(
                f"{source.spec} has {len(source)} images, fewer than one batch of {settings.batch_size}: "
                "give a smaller --batch-size."
            )
        self.batches = _Shuffled(len(source), settings.batch_size, settings.seed)
        workers = worker_count(settings.workers, source)
        self._loader: DataLoader[Any] = DataLoader(
            _Pairs(source, Views(settings), settings.seed),  # type: ignore[arg-type]
            batch_sampler=self.batches,  # type: ignore[arg-type]
            collate_fn=_collate,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=pin_memory,
            generator=torch.Generator().manual_seed(settings.seed),
        )

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        self.batches.epoch = epoch
        return iter(self._loader)
