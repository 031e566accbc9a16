"""Features of uploaded images: one encoder for all requests, which computes waiting images together."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import DecompressionBombError

from simsiam_eval.errors import DataError
from simsiam_eval.extraction.options import ExtractionOptions
from simsiam_eval.extraction.plan import extraction_like
from simsiam_eval.images.decode import image_size
from simsiam_eval.images.opened import UnreadableImage
from simsiam_eval.images.preprocess import Preprocessing
from simsiam_eval.sources.given import GivenImages
from tasks.serve.rejected import Rejected

if TYPE_CHECKING:
    from simsiam_eval.encoders.choice import EncoderChoice
    from simsiam_eval.extraction.inference import FeatureModel
    from simsiam_eval.features.table import ImageTable

_BATCH = {"cpu": 8, "cuda": 64}  # images that are computed together


def prepared_image(data: bytes, preprocessing: Preprocessing, max_pixels: float) -> torch.Tensor:
    """The bytes of an image file -> (C,S,S), prepared as `extract` prepares the same file.

    Args:
        max_pixels: of an image that is decoded; a small file may hold many.

    Raises:
        Rejected: it is no image, damaged, too large, or has other channels than the gallery's images.
    """
    try:
        _reject_many_pixels(data, max_pixels)
        image = GivenImages([data]).opened(0, preprocessing.selection, preprocessing.intensity)
        return preprocessing.pixels(image)
    except (UnreadableImage, DataError) as error:
        raise Rejected(422, f"The image cannot be read: {str(error).rstrip('.')}.") from error


def _reject_many_pixels(data: bytes, max_pixels: float) -> None:
    decodes = f"this server decodes at most {max_pixels / 1e6:g} million"
    try:
        width, height = image_size(data)
    except UnreadableImage as error:
        if isinstance(error.__cause__, DecompressionBombError):
            raise Rejected(413, f"The image has too many pixels; {decodes}.") from error
        return  # an array or TIFF that Pillow does not know: its decoder has a limit, or says what is wrong
    if width * height > max_pixels:
        raise Rejected(413, f"The image has {width} x {height} pixels; {decodes}.")


class Embedder:
    """The gallery's encoder, used by several threads.

    Each thread computes whatever images are waiting, at most a batch, in one forward pass: features do not depend on which
    images are computed together, and the queue is served in order.

    Args:
        images: of the gallery, whose preprocessing, layer, pooling and precision the features get.
        choice: the encoder, which must be the gallery's.
        threads: number of threads; on a GPU one is used.
        torch_threads: of torch, for each of them.

    Raises:
        UsageError, DataError: the checkpoint is not the gallery's encoder, or its preprocessing is not recorded.
    """

    def __init__(
        self, images: ImageTable, choice: EncoderChoice, device: torch.device, threads: int, torch_threads: int
    ) -> None:
        source = GivenImages([])
        extraction = extraction_like(images.attributes, images.name, choice, source, ExtractionOptions(), device)
        self.preprocessing = extraction.preprocessing
        self.width: int = extraction.encoder.width
        if self.width != images.width:
            raise DataError(f"{images.name} has {images.width} features per row and its encoder {self.width}.")
        self._model: FeatureModel = extraction.model
        self._batch = _BATCH[device.type]
        self._queue: queue.SimpleQueue[tuple[torch.Tensor, Future[NDArray[np.float32]]] | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, args=(torch_threads,), name=f"encoder-{number}", daemon=True)
            for number in range(threads if device.type == "cpu" else 1)
        ]
        for thread in self._threads:
            thread.start()
        side = self.preprocessing.crop
        pixels = torch.zeros((self.preprocessing.channels, side, side), dtype=self.preprocessing.pixel_type)
        self.submit(pixels).result()  # the first pass initializes libraries

    def submit(self, pixels: torch.Tensor) -> Future[NDArray[np.float32]]:
        """The features (D,) float32 of an image from `prepared_image`, when they are computed."""
        future: Future[NDArray[np.float32]] = Future()
        self._queue.put((pixels, future))
        return future

    def close(self) -> None:
        """End the threads after the images that are waiting."""
        self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self, torch_threads: int) -> None:
        torch.set_num_threads(torch_threads)
        while batch := self._next_batch():
            futures = [future for _, future in batch if future.set_running_or_notify_cancel()]
            try:
                features = self._model(torch.stack([pixels for pixels, _ in batch]))[0]
            except Exception as error:
                _fail(futures, error)
            else:
                for (_, future), row in zip(batch, features, strict=True):
                    if not future.cancelled():
                        future.set_result(row)

    def _next_batch(self) -> list[Any]:
        """The images that are waiting, at least one; [] at the end."""
        batch = [self._queue.get()]
        while batch[-1] is not None and len(batch) < self._batch:
            try:
                batch.append(self._queue.get_nowait())
            except queue.Empty:
                break
        if batch[-1] is None:
            self._queue.put(None)  # for the other threads, and this one's next call
            batch.pop()
        return batch


def _fail(futures: Sequence[Future[NDArray[np.float32]]], error: Exception) -> None:
    for future in futures:
        future.set_exception(error)
