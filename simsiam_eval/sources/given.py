"""Images passed from Python: Pillow images, arrays, paths."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from simsiam_eval.images.opened import OpenedImage
from simsiam_eval.images.stored import StoredImage
from simsiam_eval.images.transform import as_opened_image, as_stored_image, is_rgb_or_gray
from simsiam_eval.images.wide import WideImage
from simsiam_eval.sources.base import ImageSource, as_utf8, as_wide


def as_images(images: Any, argument: str) -> Sequence[Any]:
    """Images as a sequence: one image becomes a sequence of one, an iterable becomes a list.

    Args:
        argument: name of the argument, for the message.

    Raises:
        TypeError: neither an image nor an iterable.

    >>> as_images("a.png", "images"), as_images(iter(["a.png", "b.png"]), "images")
    (['a.png'], ['a.png', 'b.png'])
    """
    if isinstance(images, str | os.PathLike | bytes | Image.Image | OpenedImage):
        return [images]
    if isinstance(images, np.ndarray):
        if images.dtype.kind in "OU":  # paths
            return images.ravel().tolist()
        return images if images.ndim == 4 else [images]  # type: ignore[return-value]  # an array is no Sequence
    if isinstance(images, Sequence):
        return images
    if isinstance(images, Iterable):
        return list(images)
    raise TypeError(f"{argument} must be an image or an iterable of images, got {type(images).__name__}")


class GivenImages(ImageSource):
    """Images without labels, in the order given; the id of a path is the path, of another image its index.

    Args:
        images: N of what `as_opened_image` or `as_stored_image` takes.
    """

    in_memory = True

    def __init__(self, images: Sequence[Any]) -> None:
        super().__init__("images given from Python", np.full(len(images), -1, dtype=np.int64), None)
        self._images = images

    def id(self, row: int) -> str:
        image = self._images[row]
        return as_utf8(os.fspath(image)) if isinstance(image, str | os.PathLike) else f"image {row}"

    def image(self, row: int) -> OpenedImage:
        return as_opened_image(self._images[row])

    def wide(self, row: int) -> WideImage | None:
        return as_wide(self.image(row)) if is_rgb_or_gray(self._images[row]) else None

    def stored(self, row: int) -> StoredImage:
        return as_stored_image(self._images[row])

    def _content_hashes(self) -> Iterator[bytes]:
        return (hashlib.sha256(self._pixels(row).tobytes()).digest() for row in range(len(self)))

    def _pixels(self, row: int) -> NDArray[Any]:
        image = self._images[row]
        if isinstance(image, np.ndarray) or not is_rgb_or_gray(image):
            return self.stored(row).pixels
        opened = self.image(row)
        return self.stored(row).pixels if isinstance(opened, WideImage) else opened.pixels()
