"""Images of a source -> blocks of rows, decoded and cropped, as an encoder takes them one after the other."""

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
from simsiam_eval.images.decode import DecodedImage, UnreadableImage
from simsiam_eval.images.preprocess import Preprocessing
from simsiam_eval.runtime.machine import worker_count
from simsiam_eval.runtime.signals import ignore_stop_signals

# As many processes as were asked for are no mistake to be told of by a warning with paths.
warnings.filterwarnings("ignore", message="This DataLoader will create", module="torch")

if TYPE_CHECKING:
    from simsiam_eval.sources.base import ImageSource

T = TypeVar("T")

_AT_ONCE = 256  # images in forward passes at the same time: 2.7 GB of a ResNet-50's at 224 px
_AHEAD = 16  # threads that decode blocks for which no core is free yet

# Of an augmented view: torchvision's RandomResizedCrop and flip, as the linear protocol trains on them.
VIEWS: dict[str, Any] = {"scale": [0.08, 1.0], "ratio": list(RATIO), "flip": 0.5}


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a source, prepared for the encoder but for the normalization.

    Attributes:
        rows: which.
        pixels: (B,1+V,3,H,W) uint8: the center crop and V augmented views; zeros where the image could not be read, and
            where the last block has fewer than B rows.
        reasons: row -> why it could not be read.
    """

    rows: range
    pixels: torch.Tensor
    reasons: dict[int, str]

    def pin_memory(self) -> Block:
        """What DataLoader asks for, so that a GPU need not be waited for."""
        return Block(self.rows, self.pixels.pin_memory(), self.reasons)


@dataclass(frozen=True)
class Blocks:
    """The source cut into blocks of `size` rows, as a map-style dataset for DataLoader workers.

    Attributes:
        rows: of the source.
        starts: the first row of each block.
        views: augmented ones of each image, drawn by `seed` and the row.
        center_crop: whether blocks hold it; zeros otherwise.
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
        """The block, or what stops the work: a worker's exception would arrive as a traceback."""
        start, side = int(self.starts[index]), self.preprocessing.crop
        rows = range(start, min(start + self.size, self.rows.stop))
        pixels = torch.zeros((self.size, 1 + self.views, 3, side, side), dtype=torch.uint8)
        reasons = {}
        for place, found in enumerate(map(self._crops, rows)):
            if isinstance(found, UnreadableImage):
                reasons[rows[place]] = str(found)
            elif isinstance(found, DataError):
                return found
            else:
                pixels[place] = found
        return Block(rows, pixels, reasons)

    def _crops(self, row: int) -> torch.Tensor | UnreadableImage | DataError:
        """(1+V,3,S,S) uint8, or what was raised instead."""
        side = self.preprocessing.crop
        pixels = torch.zeros((1 + self.views, 3, side, side), dtype=torch.uint8)
        try:
            image = self.source.image(row)
            if self.views:
                whole = image.pixels()
                pixels[1:] = self._augmented(whole, row)
                if self.preprocessing.decode == "full":
                    image = DecodedImage(whole)  # decoded once for all; a scaled center crop has its own decoding
            if self.center_crop:
                pixels[0] = self.preprocessing.pixels(image)
        except (UnreadableImage, DataError) as error:
            return error
        return pixels

    def _augmented(self, image: NDArray[np.uint8], row: int) -> torch.Tensor:
        """(V,3,S,S) uint8: random crops of an image, some mirrored; the same for the same seed and row."""
        rng, side = np.random.default_rng([self.seed, row]), self.preprocessing.crop
        boxes = crop_boxes(draw_crops(rng, self.views, VIEWS["scale"][0]), *image.shape[:2])
        views = torch.stack([crop_image(image, box, side) for box in boxes])
        mirrored = torch.from_numpy(rng.random(self.views) < VIEWS["flip"])
        views[mirrored] = views[mirrored].flip(3)
        return views


def read_blocks(blocks: Blocks, workers: int | None, device: torch.device) -> Iterator[Block]:
    """The blocks in order, for an encoder on `device`.

    Args:
        workers: processes that decode ahead; None: as `worker_count` says.

    Raises:
        DataError: a source that fails, a worker that was killed.
    """
    loader: DataLoader[Any] = DataLoader(
        blocks,  # type: ignore[arg-type]
        batch_size=None,
        num_workers=worker_count(workers, blocks.source.in_memory),
        pin_memory=device.type == "cuda",
        worker_init_fn=ignore_stop_signals,
        generator=torch.Generator(),  # the worker seeds, of no use here, are not to come from the global one
    )
    with lost_workers_named():
        for block in loader:
            if isinstance(block, DataError):
                raise block
            yield block


def map_blocks(blocks: Blocks, compute: Callable[[Block], T]) -> Generator[T]:
    """`compute` of the blocks, in order, several at a time, on as many cores as torch may use.

    A core that makes all of a block waits for no other after every layer, and what it works on stays in its own cache
    (benchmarks/results/extract_blocks.md). Blocks so large that memory would not hold one for each core share the cores. As
    many threads again, up to `_AHEAD`, decode meanwhile or wait for the disk.

    A thread that begins meanwhile has fewer threads of torch's than it would have before or after; the caller's own are
    left alone.

    Raises:
        DataError: a source that fails. Whatever `compute` raises.
    """
    cores = torch.get_num_threads()
    several = min(cores, max(1, _AT_ONCE // blocks.size))
    threads = several + min(several, _AHEAD)
    at_work, stopped = threading.Semaphore(several), threading.Event()

    def computed(index: int) -> T:
        block = blocks[index]
        if isinstance(block, DataError):
            raise block
        with at_work:
            if stopped.is_set():
                raise CancelledError
            return compute(block)

    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(cores // several,))
    waiting: deque[Future[T]] = deque()
    try:
        for index in range(len(blocks)):
            waiting.append(pool.submit(computed, index))
            if len(waiting) > 2 * threads:  # so that a slow block at the head keeps none idle
                yield waiting[0].result()
                waiting.popleft()
        while waiting:
            yield waiting[0].result()
            waiting.popleft()
    finally:
        stopped.set()
        left = [one for one in waiting if not one.cancel()]
        while not all(one.done() for one in left):
            # Not for a second Ctrl-C either: a program that ends while torch computes in a thread is aborted.
            with suppress(BaseException):
                wait(left)
        pool.shutdown()
        torch.set_num_threads(cores)


@contextmanager
def lost_workers_named() -> Iterator[None]:
    """A decoding process that was killed is one sentence, not a traceback."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error) and "Pin memory thread" not in str(error):
            raise
        raise DataError(
            "A decoding process was killed, often for want of memory (also of /dev/shm): give fewer --workers or a smaller "
            "batch, and the same command again."
        ) from error
