"""Batches of two views. What an image becomes depends on seed, epoch, step and its place in the batch only: not on how many
processes or workers there are, nor on where the run was stopped."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from pretrain.settings import PretrainSettings
from pretrain.views.augment import ViewParameters, Views, boxes, crop_resident, draw
from simsiam_eval.errors import DataError, UsageError
from simsiam_eval.extraction.blocks import lost_workers_named
from simsiam_eval.images.crops import crop_image
from simsiam_eval.images.decode import OpenedImage, UnreadableImage
from simsiam_eval.images.preprocess import MARGIN, Preprocessing
from simsiam_eval.runtime.machine import worker_count
from simsiam_eval.runtime.processes import Processes
from simsiam_eval.runtime.progress import say
from simsiam_eval.runtime.signals import ignore_stop_signals
from simsiam_eval.sources.base import ArraySource, ImageSource

PREFETCHED = 2  # batches of a worker that wait: of 256 views of 224 px one is 154 MB
_RESIDENT_BYTES = 1 << 30
_RESIDENT_SIDE = 128  # pixels; larger images are seldom of one size


class Batch(NamedTuple):
    """Two views (B,3,S,S) float32, normalized, on the device; B is this process's part of the batch."""

    view1: torch.Tensor
    view2: torch.Tensor


class Schedule:
    """Which images a step takes, and the parameters of their views.

    An epoch is a permutation of all rows, its incomplete last batch dropped.
    """

    def __init__(self, rows: int, settings: PretrainSettings, processes: Processes) -> None:
        self._rows, self._settings = rows, settings
        self._share = processes.share(settings.batch_size)
        self.steps = rows // settings.batch_size
        self._order: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))

    def rows(self, epoch: int, step: int) -> NDArray[np.int64]:
        """(B,) rows of this process's part of the batch."""
        if self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng([self._settings.seed, epoch, 0]).permutation(self._rows))
        size = self._settings.batch_size
        return self._order[1][step * size : (step + 1) * size][self._share]

    def parameters(self, epoch: int, step: int) -> tuple[ViewParameters, ViewParameters]:
        """Of both views of this process's part: the whole batch's are drawn, whatever the number of processes."""
        rng = np.random.default_rng([self._settings.seed, epoch, step + 1])
        first, second = (draw(self._settings, rng, self._settings.batch_size) for _ in range(2))
        return first[self._share], second[self._share]


class Loader:
    """The batches of a run, from wherever it is.

    Images of one small size are decoded once and stay on the device as uint8 (`resident`); all others are decoded by
    workers, once for both crops, and arrive as uint8 crops. Everything after the crop runs on the device, on a stream of
    its own where that is a GPU. An unreadable image's place is taken by the next readable one of its batch.

    Attributes:
        waited: seconds that `batches` has kept its caller waiting for decoding.
        unreadable: row -> why, of the images that could not be read so far.

    Raises:
        DataError: fewer images than one batch; with `strict`, an unreadable image.
        UsageError: a batch that the processes and `accumulate` do not divide; `resident` on images that cannot be.
    """

    def __init__(
        self, source: ImageSource, settings: PretrainSettings, processes: Processes, preprocessing: Preprocessing
    ) -> None:
        if len(source) < settings.batch_size:
            raise DataError(
                f"{source.spec} has {len(source)} images, fewer than one batch of {settings.batch_size}: "
                "give a smaller --batch-size."
            )
        if settings.batch_size % (processes.world * settings.accumulate):
            raise UsageError(
                f"--batch-size {settings.batch_size} cannot be cut into equal parts for {processes.world} processes "
                f"and --accumulate {settings.accumulate}."
            )
        if settings.batch_size < 2 * processes.world * settings.accumulate:
            raise UsageError(
                f"--batch-size {settings.batch_size} leaves one image to each of {processes.world} processes and "
                f"--accumulate {settings.accumulate}: BN needs two."
            )
        self._source, self._settings, self._device = source, settings, processes.device
        self._compiled = self._device.type == "cuda" and settings.compile != "off" and settings.epochs > 0
        self._augment = Views(preprocessing.mean, preprocessing.std, self._compiled).augment
        self._quiet = not processes.main
        self.schedule = Schedule(len(source), settings, processes)
        self.waited, self.unreadable = 0.0, dict[int, str]()
        self._pixels: torch.Tensor | None = None
        if settings.resident is not False:
            self._hold_resident(required=settings.resident is True)

    def __len__(self) -> int:
        """Steps of an epoch."""
        return self.schedule.steps

    @property
    def resident(self) -> bool:
        """Whether the images are held on the device."""
        return self._pixels is not None

    def batches(self, first: int, last: int) -> Iterator[Batch]:
        """The batches of the steps `first` to `last` - 1, counted over the whole run."""
        steps = range(first, last)
        cropped = self._resident_crops(steps) if self._pixels is not None else self._timed(self._worker_crops(steps))
        return self._prefetched(cropped) if self._device.type == "cuda" else map(self._views, cropped)

    def _resident_crops(self, steps: range) -> Iterator[Any]:
        assert self._pixels is not None
        height, width = self._pixels.shape[2:]
        side = self._settings.image_size
        for number in steps:
            at = divmod(number, len(self))
            rows = self.schedule.rows(*at)
            self._note({int(row): self.unreadable[row] for row in rows if row in self.unreadable}, len(rows))
            readable = np.array([row not in self.unreadable for row in rows])
            where = torch.from_numpy(rows[_replacements(readable)]).to(self._device, non_blocking=True)
            parameters = self.schedule.parameters(*at)
            crops = []
            for one in parameters:
                crops.append(crop_resident(self._pixels, where, boxes(one, height, width), side, self._compiled))
            yield crops, parameters

    def _worker_crops(self, steps: range) -> Iterator[Any]:
        workers = worker_count(self._settings.workers, self._source.in_memory)
        pinned = self._device.type == "cuda"
        crops = _Crops(self._source, self.schedule, self._settings)
        loader: DataLoader[Any] = DataLoader(
            crops,  # type: ignore[arg-type]
            batch_size=None,
            sampler=steps,  # the whole run's: no pause between epochs
            num_workers=workers,
            pin_memory=pinned,
            prefetch_factor=PREFETCHED if workers else None,
            worker_init_fn=ignore_stop_signals,
            generator=torch.Generator(),  # the worker seeds, of no use here, are not to come from the global one
        )
        with lost_workers_named():
            found = zip(steps, loader, strict=True)
            yield from self._sent(found, pinned)

    def _sent(self, found: Iterator[Any], pinned: bool) -> Iterator[Any]:
        for number, batch in found:
            if isinstance(batch, DataError):
                raise batch
            first, second, reasons = batch
            self._note(reasons, len(first))
            parameters = self.schedule.parameters(*divmod(number, len(self)))
            yield [one.to(self._device, non_blocking=pinned) for one in (first, second)], parameters

    def _views(self, cropped: Any) -> Batch:
        crops, parameters = cropped
        return Batch(*(self._augment(crop, one) for crop, one in zip(crops, parameters, strict=True)))

    def _timed(self, cropped: Iterator[Any]) -> Iterator[Any]:
        while True:
            started = time.perf_counter()
            one = next(cropped, None)
            self.waited += time.perf_counter() - started
            if one is None:
                return
            yield one

    def _prefetched(self, cropped: Iterator[Any]) -> Iterator[Batch]:
        """The next batch is copied, cropped and augmented on a side stream while the device works on this one."""
        side = torch.cuda.Stream(self._device)
        side.wait_stream(torch.cuda.current_stream(self._device))

        def prepared() -> Batch | None:
            with torch.cuda.stream(side):
                one = next(cropped, None)
                return None if one is None else self._views(one)

        batch = prepared()
        while batch is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_stream(side)
            for view in batch:
                view.record_stream(current)
            yield batch  # the caller's step is queued on the device when this comes back
            batch = prepared()

    def _note(self, reasons: dict[int, str], rows: int) -> None:
        if len(reasons) == rows:
            raise DataError(
                f"No image of a whole batch of {self._source.spec} could be read: {next(iter(reasons.values()))}."
            )
        for row, reason in reasons.items():
            name = self._source.id(row)
            if self._settings.strict:
                raise DataError(
                    f"Image {name} (row {row}) could not be read: {reason}; without --strict it is skipped."
                )
            # Of resident pixels each process has all, and one says it; else each has its own part.
            if row not in self.unreadable and not (self._quiet and self._pixels is not None):
                say(f"skipped {name} (row {row}): {reason}")
            self.unreadable[row] = reason

    def _hold_resident(self, required: bool) -> None:
        pixels, reasons = resident_pixels(self._source)
        if pixels is None:
            if required:
                raise UsageError("--resident needs images of one size, at most 128 pixels a side and 1 GiB in all.")
            return
        self._pixels = pixels.to(self._device)
        self._note(reasons, len(self._source))


class _Crops:
    """Map-style dataset for DataLoader workers: number of a step -> both crops (B,3,S,S) uint8, and what was unreadable."""

    def __init__(self, source: ImageSource, schedule: Schedule, settings: PretrainSettings) -> None:
        self.source, self.schedule = source, schedule
        self.side, self.scaled = settings.image_size, settings.decode == "scaled"

    def __getitem__(self, number: int) -> tuple[torch.Tensor, torch.Tensor, dict[int, str]] | DataError:
        at = divmod(number, self.schedule.steps)
        rows, parameters = self.schedule.rows(*at), self.schedule.parameters(*at)
        crops = torch.zeros((2, len(rows), 3, self.side, self.side), dtype=torch.uint8)
        reasons: dict[int, str] = {}
        for place, row in enumerate(rows):
            try:
                image = self.source.image(int(row))
                crops[:, place] = self._both(image, [one[place : place + 1] for one in parameters])
            except UnreadableImage as error:
                reasons[int(row)] = str(error)
            except DataError as error:  # a worker's exception would arrive as a traceback
                return error
        if reasons and len(reasons) < len(rows):
            crops = crops[:, torch.from_numpy(_replacements(np.array([int(row) not in reasons for row in rows])))]
        return crops[0], crops[1], reasons

    def _both(self, image: OpenedImage, parameters: Sequence[ViewParameters]) -> torch.Tensor:
        """(2,3,S,S) uint8: two crops of one decoding, at the smallest scale at which neither lacks pixels."""
        found = [boxes(one, image.height, image.width)[0] for one in parameters]
        least = min(int(box[2:].min()) for box in found)
        pixels, factor = image.reduced(least / (MARGIN * self.side) if self.scaled else 1)
        return torch.stack([crop_image(pixels, box, self.side, factor) for box in found])


def _replacements(readable: NDArray[np.bool_]) -> NDArray[np.int64]:
    """For each place of a batch the place whose image it shows: itself, or the next readable one."""
    places = np.flatnonzero(readable)
    return places[np.searchsorted(places, np.arange(len(readable))) % len(places)]


def resident_pixels(source: ImageSource) -> tuple[torch.Tensor | None, dict[int, str]]:
    """All images of a source as (N,3,H,W) uint8, unreadable ones black, and why they are; None where they are not of one
    size, or too large to be held."""
    if isinstance(source, ArraySource):
        return torch.from_numpy(source.pixels).permute(0, 3, 1, 2).contiguous(), {}
    reasons: dict[int, str] = {}

    def decode(row: int) -> NDArray[np.uint8] | None:
        try:
            return source.image(row).pixels()
        except UnreadableImage as error:
            reasons[row] = str(error)
            return None

    first = next((image for image in map(decode, range(min(100, len(source)))) if image is not None), None)
    if first is None or max(first.shape) > _RESIDENT_SIDE or first.nbytes * len(source) > _RESIDENT_BYTES:
        return None, {}
    pixels = torch.zeros((len(source), *first.shape), dtype=torch.uint8)
    with ThreadPoolExecutor() as pool:
        for row, image in enumerate(pool.map(decode, range(len(source)))):
            if image is not None and image.shape != first.shape:
                pool.shutdown(cancel_futures=True)
                return None, {}
            if image is not None:
                pixels[row] = torch.tensor(image)
    return pixels.permute(0, 3, 1, 2).contiguous(), reasons
