"""Batches of two views.

The views of an image depend only on seed, epoch, step and its position in the batch, not on the number of processes or
workers or on interruptions of the run.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from pretrain.views.augment import Views, crop_resident
from pretrain.views.parameters import ViewParameters, ViewRecipe, boxes, draw
from simsiam_eval.errors import DataError, UsageError
from simsiam_eval.extraction.blocks import explain_killed_workers
from simsiam_eval.images.crops import crop_image
from simsiam_eval.images.intensity import Intensity
from simsiam_eval.images.opened import OpenedImage, UnreadableImage
from simsiam_eval.images.preprocess import MARGIN, Preprocessing
from simsiam_eval.runtime.machine import worker_count
from simsiam_eval.runtime.processes import Processes
from simsiam_eval.runtime.progress import say
from simsiam_eval.runtime.signals import ignore_stop_signals
from simsiam_eval.sources.base import ArraySource, ImageSource

PREFETCHED = 2  # batches per worker: one of 256 views of 224 px takes 154 MB
_MAX_RESIDENT_BYTES = 1 << 30
_MAX_RESIDENT_SIDE = 128  # pixels; larger images are rarely all of one size


class Batch(NamedTuple):
    """Two views (B,3,S,S) float32, normalized, on the device; B is this process's part of the batch."""

    view1: torch.Tensor
    view2: torch.Tensor


_Cropped = tuple[list[torch.Tensor], tuple[ViewParameters, ViewParameters]]  # of both views


class Schedule:
    """Which images a step takes, and the parameters of their views.

    An epoch is a permutation of all rows, without its incomplete last batch.

    Args:
        rows: number of images.
        batch_size: images per step, of all processes.
        part: this process's part of a batch.
    """

    def __init__(self, rows: int, batch_size: int, recipe: ViewRecipe, seed: int, part: slice) -> None:
        self._rows, self._batch_size, self._recipe, self._seed, self._part = rows, batch_size, recipe, seed, part
        self.steps = rows // batch_size
        self._order: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))

    def rows(self, epoch: int, step: int) -> NDArray[np.int64]:
        """(B,) rows of this process's part of the batch."""
        if self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng([self._seed, epoch, 0]).permutation(self._rows))
        size = self._batch_size
        return self._order[1][step * size : (step + 1) * size][self._part]

    def parameters(self, epoch: int, step: int) -> tuple[ViewParameters, ViewParameters]:
        """Of both views of this process's part; those of the whole batch are drawn, whatever the number of processes."""
        rng = np.random.default_rng([self._seed, epoch, step + 1])
        first, second = (draw(self._recipe, rng, self._batch_size) for _ in range(2))
        return first[self._part], second[self._part]


class Loader:
    """The batches of a run, from any step on.

    Images of one small size are decoded once and stay on the device as uint8 (`resident`); others are decoded by workers,
    once for both crops, and arrive as uint8 crops. Everything after the crop runs on the device, on a GPU in a stream of
    its own. An unreadable image is replaced by the next readable one of its batch.

    Attributes:
        waited: seconds that `batches` has waited for decoding.
        unreadable: row -> reason, of the images that could not be read so far.

    Args:
        recipe: of the random parameters.
        preprocessing: its mean and std normalize the views; its intensity scales images of more than 8 bits.
        batch_size: images per step, of all processes together.
        image_size: side of a view in pixels.
        seed: of the order of images and of the parameters.
        accumulate: number of parts that a process's batch is computed in.
        workers: decoding processes; None for one per core, up to 16.
        resident: whether to keep all pixels on the device; None: where it is possible.
        decode: full, or scaled for large JPEGs.
        strict: whether an unreadable image is an error.
        compiled: whether views are compiled, on a GPU.

    Raises:
        DataError: there are fewer images than one batch; with `strict`, an image is unreadable.
        UsageError: the batch cannot be divided by the processes and `accumulate`; `resident` is impossible.
    """

    def __init__(
        self,
        source: ImageSource,
        recipe: ViewRecipe,
        preprocessing: Preprocessing,
        processes: Processes,
        *,
        batch_size: int,
        image_size: int,
        seed: int = 0,
        accumulate: int = 1,
        workers: int | None = None,
        resident: bool | None = None,
        decode: str = "full",
        strict: bool = False,
        compiled: bool = False,
    ) -> None:
        _check_batch(source, batch_size, processes.world, accumulate)
        self._source, self._size, self._workers = source, image_size, workers
        self._intensity = preprocessing.intensity
        self._scaled, self._strict, self._device = decode == "scaled", strict, processes.device
        self._compiled = compiled and self._device.type == "cuda"
        self._augment = Views(preprocessing.mean, preprocessing.std, self._compiled).augment
        self._is_main = processes.main
        self.schedule = Schedule(len(source), batch_size, recipe, seed, processes.share(batch_size))
        self.waited, self.unreadable = 0.0, dict[int, str]()
        self._pixels: torch.Tensor | None = None
        if resident is not False:
            self._load_resident(required=resident is True)

    def __len__(self) -> int:
        """Number of steps per epoch."""
        return self.schedule.steps

    @property
    def resident(self) -> bool:
        """Whether the images are on the device."""
        return self._pixels is not None

    def batches(self, first: int, last: int) -> Iterator[Batch]:
        """The batches of steps `first` to `last` - 1 of the whole run."""
        steps = range(first, last)
        cropped = self._resident_crops(steps) if self._pixels is not None else self._timed(self._worker_crops(steps))
        return self._prefetched(cropped) if self._device.type == "cuda" else map(self._views, cropped)

    def _resident_crops(self, steps: range) -> Iterator[_Cropped]:
        assert self._pixels is not None
        height, width = self._pixels.shape[2:]
        for step in steps:
            epoch_and_step = divmod(step, len(self))
            rows = self.schedule.rows(*epoch_and_step)
            self._note_unreadable({int(row): self.unreadable[row] for row in rows if row in self.unreadable}, len(rows))
            is_readable = np.array([row not in self.unreadable for row in rows])
            shown = torch.from_numpy(rows[_replacements(is_readable)]).to(self._device, non_blocking=True)
            parameters = self.schedule.parameters(*epoch_and_step)
            crops = [
                crop_resident(self._pixels, shown, boxes(view, height, width), self._size, self._compiled)
                for view in parameters
            ]
            yield crops, parameters

    def _worker_crops(self, steps: range) -> Iterator[_Cropped]:
        workers = worker_count(self._workers, self._source.in_memory)
        pinned = self._device.type == "cuda"
        loader: DataLoader[Any] = DataLoader(
            _Crops(self._source, self._intensity, self.schedule, self._size, self._scaled),  # type: ignore[arg-type]
            batch_size=None,
            sampler=steps,  # of the whole run: no pause between epochs
            num_workers=workers,
            pin_memory=pinned,
            prefetch_factor=PREFETCHED if workers else None,
            worker_init_fn=ignore_stop_signals,
            generator=torch.Generator(),  # worker seeds, unused here, must not be drawn from the global generator
        )
        with explain_killed_workers():
            for step, batch in zip(steps, loader, strict=True):
                if isinstance(batch, DataError):
                    raise batch
                *crops, reasons = batch
                self._note_unreadable(reasons, len(crops[0]))
                parameters = self.schedule.parameters(*divmod(step, len(self)))
                yield [crop.to(self._device, non_blocking=pinned) for crop in crops], parameters

    def _views(self, cropped: _Cropped) -> Batch:
        return Batch(*(self._augment(crops, parameters) for crops, parameters in zip(*cropped, strict=True)))

    def _timed(self, batches: Iterator[_Cropped]) -> Iterator[_Cropped]:
        while True:
            started = time.perf_counter()
            cropped = next(batches, None)
            self.waited += time.perf_counter() - started
            if cropped is None:
                return
            yield cropped

    def _prefetched(self, batches: Iterator[_Cropped]) -> Iterator[Batch]:
        """The next batch is copied, cropped and augmented on a side stream while the device works on this one."""
        side = torch.cuda.Stream(self._device)
        side.wait_stream(torch.cuda.current_stream(self._device))

        def prepare() -> Batch | None:
            with torch.cuda.stream(side):
                cropped = next(batches, None)
                return None if cropped is None else self._views(cropped)

        batch = prepare()
        while batch is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_stream(side)
            for view in batch:
                view.record_stream(current)
            yield batch  # the caller has queued its step on the device when this resumes
            batch = prepare()

    def _note_unreadable(self, reasons: dict[int, str], rows: int) -> None:
        if len(reasons) == rows:
            raise DataError(
                f"No image in a batch of {self._source.spec} could be read: {next(iter(reasons.values()))}."
            )
        for row, reason in reasons.items():
            name = self._source.id(row)
            if self._strict:
                raise DataError(
                    f"Image {name} (row {row}) could not be read: {reason}. Without --strict it would be skipped."
                )
            # Every process has all resident pixels, and the main process reports them; else each reports its own part.
            if row not in self.unreadable and (self._is_main or self._pixels is None):
                say(f"skipped {name} (row {row}): {reason}")
            self.unreadable[row] = reason

    def _load_resident(self, required: bool) -> None:
        pixels, reasons = resident_pixels(self._source, self._intensity)
        if pixels is None:
            if required:
                raise UsageError(
                    "--resident requires images of one size, at most 128 pixels a side and 1 GiB in total."
                )
            return
        self._pixels = pixels.to(self._device)
        self._note_unreadable(reasons, len(self._source))


def _check_batch(source: ImageSource, batch_size: int, processes: int, accumulate: int) -> None:
    if len(source) < batch_size:
        raise DataError(
            f"{source.spec} has {len(source)} images, fewer than one batch of {batch_size}: use a smaller --batch-size."
        )
    parts = f"{processes} processes and --accumulate {accumulate}"
    if batch_size % (processes * accumulate):
        raise UsageError(f"--batch-size {batch_size} cannot be divided equally among {parts}.")
    if batch_size < 2 * processes * accumulate:
        raise UsageError(f"--batch-size {batch_size} leaves one image to each of {parts}; BN requires two.")


class _Crops:
    """Map-style dataset for DataLoader workers: step of the run -> both crops (B,3,S,S) uint8, and unreadable rows."""

    def __init__(self, source: ImageSource, intensity: Intensity, schedule: Schedule, size: int, scaled: bool) -> None:
        self.source, self.intensity, self.schedule, self.size, self.scaled = source, intensity, schedule, size, scaled

    def __getitem__(self, step: int) -> tuple[torch.Tensor, torch.Tensor, dict[int, str]] | DataError:
        epoch_and_step = divmod(step, self.schedule.steps)
        rows, parameters = self.schedule.rows(*epoch_and_step), self.schedule.parameters(*epoch_and_step)
        crops = torch.zeros((2, len(rows), 3, self.size, self.size), dtype=torch.uint8)
        reasons: dict[int, str] = {}
        for position, row in enumerate(rows):
            try:
                image = self.source.opened(int(row), None, self.intensity)
                crops[:, position] = self._both(image, [view[position : position + 1] for view in parameters])
            except UnreadableImage as error:
                reasons[int(row)] = str(error)
            except DataError as error:  # a worker's exception would arrive as a traceback
                return error
        if reasons and len(reasons) < len(rows):
            crops = crops[:, torch.from_numpy(_replacements(np.array([int(row) not in reasons for row in rows])))]
        return crops[0], crops[1], reasons

    def _both(self, image: OpenedImage, parameters: Sequence[ViewParameters]) -> torch.Tensor:
        """(2,3,S,S) uint8: two crops of one decoding, at the smallest scale at which both have enough pixels."""
        both = [boxes(view, image.height, image.width)[0] for view in parameters]
        min_side = min(int(box[2:].min()) for box in both)
        pixels, factor = image.reduced(min_side / (MARGIN * self.size) if self.scaled else 1)
        return torch.stack([crop_image(pixels, box, self.size, factor) for box in both])


def _replacements(is_readable: NDArray[np.bool_]) -> NDArray[np.int64]:
    """For each position of a batch the position whose image it shows: itself, or the next readable one.

    >>> _replacements(np.array([True, False, True, False])).tolist()
    [0, 2, 2, 0]
    """
    readable = np.flatnonzero(is_readable)
    return readable[np.searchsorted(readable, np.arange(len(is_readable))) % len(readable)]


def resident_pixels(source: ImageSource, intensity: Intensity) -> tuple[torch.Tensor | None, dict[int, str]]:
    """All images of a source, if they are of one size and small enough; unreadable ones are black.

    Returns:
        (N,3,H,W) uint8 or None, and row -> reason of the unreadable images.
    """
    if isinstance(source, ArraySource) and source.pixels.dtype == np.uint8 and source.pixels.shape[3:] == (3,):
        return torch.from_numpy(source.pixels).permute(0, 3, 1, 2).contiguous(), {}
    reasons: dict[int, str] = {}

    def decode(row: int) -> NDArray[np.uint8] | None:
        try:
            return source.opened(row, None, intensity).pixels()
        except UnreadableImage as error:
            reasons[row] = str(error)
            return None

    first = next((image for image in map(decode, range(min(100, len(source)))) if image is not None), None)
    if first is None or max(first.shape) > _MAX_RESIDENT_SIDE or first.nbytes * len(source) > _MAX_RESIDENT_BYTES:
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
