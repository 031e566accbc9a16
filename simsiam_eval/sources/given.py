"""Images passed from Python: Pillow images, arrays, paths."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from simsiam_eval.images.decode import OpenedImage
from simsiam_eval.images.transform import as_opened_image
from simsiam_eval.sources.base import ImageSource, as_utf8


class GivenImages(ImageSource):
    """Images without labels, in the order given; the id of a path is the path, of another image its index.

    Args:
        images: N of what `as_opened_image` takes.
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

    def _content_hashes(self) -> Iterator[bytes]:
        return (hashlib.sha256(self.image(row).pixels().tobytes()).digest() for row in range(len(self)))
