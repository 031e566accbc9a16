"""Blocks of consecutive images, decoded and cropped for an encoder by worker processes or by threads."""

from __future__ import annotations

import threading
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from simsiam_eval.errors import DataError
from simsiam_eval.images.crops import RATIO, crop_boxes, crop_image, draw_crops
from simsiam_eval.images.opened import DecodedImage, UnreadableImage
from simsiam_eval.images.preprocess import Preprocessing
from simsiam_eval.runtime.machine import worker_count
from simsiam_eval.runtime.signals import ignore_stop_signals

# DataLoader warns about more workers than cores; their number is the user's decision.
warnings.filterwarnings("ignore", message="This DataLoader will create", module="torch")

if TYPE_CHECKING:
    from simsiam_eval.sources.base import ImageSource

T = TypeVar("T")

_MAX_CONCURRENT_IMAGES = 256  # in all forward passes together: 2.7 GB of activations of a ResNet-50 at 224 px
_MAX_DECODING_THREADS = 16  # in addition to one thread per forward pass

# Augmentation of views: torchvision's RandomResizedCrop and horizontal flip, as in the linear evaluation protocol.
VIEWS: dict[str, Any] = {"scale": [0.08, 1.0], "ratio": list(RATIO), "flip": 0.5}


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a source, preprocessed except for the normalization.

    Attributes:
        rows: row numbers.
        pixels: (B,1+V,C,H,W) of the preprocessing's `pixel_type`: the center crop and V augmented views; zeros
            for unreadable images, and as padding if the block has fewer than B rows.
        reasons: row -> why its image could not be read.
    """

    rows: range
    pixels: torch.Tensor
    reasons: dict[int, str]

    def pin_memory(self) -> Block:
        """A copy in pinned memory, which a GPU reads asynchronously; called by DataLoader."""
        return Block(self.rows, self.pixels.pin_memory(), self.reasons)


@dataclass(frozen=True)
class Blocks:
    """Blocks of `size` rows of a source, as a map-style dataset for DataLoader.

    Attributes:
        rows: the rows of the source that are extracted.
        starts: the first row of each block.
        views: number of augmented views per image, drawn from `seed` and the row.
        center_crop: whether to compute the center crop; zeros otherwise.
    """

    source: ImageSource
    preprocessing: Preprocessing
    rows: range
    starts: Sequence[int] | NDArray[np.int64]
    size: int
    views: int
    center_crop: bool
    seed: int

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> Block | DataError:
        """The block, or the error that ends the extraction: if a worker raised it, it would arrive as a traceback."""
        start = int(self.starts[index])
        rows = range(start, min(start + self.size, self.rows.stop))
        pixels = torch.zeros((self.size, *self._shape), dtype=self.preprocessing.pixel_type)
        reasons = {}
        for row, crops in zip(rows, map(self._crops, rows), strict=True):
            if isinstance(crops, UnreadableImage):
                reasons[row] = str(crops)
            elif isinstance(crops, DataError):
                return crops
            else:
                pixels[row - start] = crops
        return Block(rows, pixels, reasons)

    @property
    def _shape(self) -> tuple[int, int, int, int]:
        side = self.preprocessing.crop
        return 1 + self.views, self.preprocessing.channels, side, side

    def _crops(self, row: int) -> torch.Tensor | UnreadableImage | DataError:
        """(1+V,C,S,S), or the error that reading the image raised."""
        pixels = torch.zeros(self._shape, dtype=self.preprocessing.pixel_type)
        try:
            image = self.source.opened(row, self.preprocessing.selection, self.preprocessing.intensity)
            if self.views:
                full_image = self.preprocessing.in_channels(image.pixels())
                pixels[1:] = self._augmented_views(full_image, row)
                if self.preprocessing.decode == "full":
                    image = DecodedImage(full_image)  # reused for the center crop; scaled decoding decodes it again
            if self.center_crop:
                pixels[0] = self.preprocessing.pixels(image)
        except (UnreadableImage, DataError) as error:
            return error
        return pixels

    def _augmented_views(self, image: NDArray[Any], row: int) -> torch.Tensor:
        """(V,C,S,S): randomly cropped and flipped; the same for the same seed and row."""
        rng, side = np.random.default_rng([self.seed, row]), self.preprocessing.crop
        boxes = crop_boxes(draw_crops(rng, self.views, VIEWS["scale"][0]), *image.shape[:2])
        views = torch.stack([crop_image(image, box, side) for box in boxes])
        flipped = torch.from_numpy(rng.random(self.views) < VIEWS["flip"])
        views[flipped] = views[flipped].flip(3)
        return views


def read_blocks(blocks: Blocks, workers: int | None, device: torch.device) -> Iterator[Block]:
    """Decode blocks in worker processes; yields them in order.

    Args:
        workers: number of decoding processes; None: as `worker_count` chooses.
        device: of the encoder; blocks for a GPU are in pinned memory.

    Raises:
        DataError: the source failed, or a worker was killed.
    """
    loader: DataLoader[Any] = DataLoader(
        blocks,  # type: ignore[arg-type]
        batch_size=None,
        num_workers=worker_count(workers, blocks.source.in_memory),
        pin_memory=device.type == "cuda",
        worker_init_fn=ignore_stop_signals,
        generator=torch.Generator(),  # draws worker seeds, which nothing uses, without advancing the global generator
    )
    with explain_killed_workers():
        for block in loader:
            if isinstance(block, DataError):
                raise block
            yield block


def map_blocks(blocks: Blocks, compute: Callable[[Block], T]) -> Generator[T]:
    """Apply `compute` to the blocks, one block per core that torch may use; yields the results in order.

    A core that computes a whole block does not wait for the others after every layer, and its data stay in its own cache
    (benchmarks/results/extract_blocks.md). If memory would not hold one block per core, several cores share a block. The
    same number of further threads, up to `_MAX_DECODING_THREADS`, decode the next blocks or wait for the disk.

    While this runs, threads that start elsewhere get a smaller number of torch threads; the caller keeps its own.

    Raises:
        DataError: the source failed. Whatever `compute` raises.
    """
    cores = torch.get_num_threads()
    concurrent = min(cores, max(1, _MAX_CONCURRENT_IMAGES // blocks.size))
    threads = concurrent + min(concurrent, _MAX_DECODING_THREADS)
    compute_slots, stopped = threading.Semaphore(concurrent), threading.Event()

    def decode_and_compute(index: int) -> T:
        block = blocks[index]
        if isinstance(block, DataError):
            raise block
        with compute_slots:
            if stopped.is_set():
                raise CancelledError
            return compute(block)

    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(cores // concurrent,))
    futures: deque[Future[T]] = deque()
    try:
        for index in range(len(blocks)):
            futures.append(pool.submit(decode_and_compute, index))
            if len(futures) > 2 * threads:  # enough to keep all threads busy behind a slow first block
                yield futures[0].result()
                futures.popleft()
        while futures:
            yield futures[0].result()
            futures.popleft()
    finally:
        stopped.set()
        running = [future for future in futures if not future.cancel()]
        while not all(future.done() for future in running):
            # Even a second Ctrl-C must wait: a program that ends while torch computes in a thread is aborted.
            with suppress(BaseException):
                wait(running)
        pool.shutdown()
        torch.set_num_threads(cores)


@contextmanager
def explain_killed_workers() -> Iterator[None]:
    """Turn DataLoader's error about a killed worker into a DataError that says what to do."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error) and "Pin memory thread" not in str(error):
            raise
        raise DataError(
            "A decoding process was killed, usually because memory (or /dev/shm) ran out: rerun the command with fewer "
            "--workers or a smaller batch."
        ) from error
