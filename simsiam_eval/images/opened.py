"""An image whose size is known, and the errors of images that cannot be read."""

from __future__ import annotations

import errno
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from simsiam_eval.errors import DataError
from simsiam_eval.files.unicode_names import other_form_hint
from simsiam_eval.images.formats import is_regular, open_nonblocking
from simsiam_eval.images.intensity import Intensity

# Errors of the system, which say nothing about the file.
_SYSTEM_ERRORS = {getattr(errno, name) for name in ("EIO", "ESTALE", "EMFILE", "ENFILE", "ETIMEDOUT", "ENOMEM", "EAGAIN",
                                                    "EHOSTDOWN", "EHOSTUNREACH", "ENOTCONN", "EREMOTEIO")
                  if hasattr(errno, name)}  # fmt: skip


class UnreadableImage(Exception):
    """An image that cannot be decoded; the message is the reason."""


class OpenedImage(ABC):
    """An image whose size is known, and whose pixels are decoded on request.

    Attributes:
        height, width: in pixels, as displayed (EXIF orientation applied).
    """

    height: int
    width: int

    @abstractmethod
    def reduced(self, max_factor: float) -> tuple[NDArray[np.uint8], int]:
        """The pixels, at a reduced size if the codec can decode to one.

        Args:
            max_factor: by how much the sides may shrink; 1 or less: not at all.

        Returns:
            (ceil(height / factor), ceil(width / factor), 3) uint8, and the factor; a pixel is the mean of factor x factor.

        Raises:
            UnreadableImage: it cannot be decoded.
        """

    def pixels(self) -> NDArray[np.uint8]:
        """(height,width,3) uint8, RGB. Raises as `reduced` does."""
        return self.reduced(1)[0]

    def scaled(self, intensity: Intensity) -> OpenedImage:
        """The image with these values of black and white; 8-bit images are the same with any."""
        return self

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self.pixels(), dtype=dtype)


class DecodedImage(OpenedImage):
    """An image in memory: (height,width,3) uint8, or (height,width,C) float32 of selected channels."""

    def __init__(self, pixels: NDArray[Any]) -> None:
        self._pixels = np.ascontiguousarray(pixels)
        self.height, self.width = pixels.shape[:2]

    def reduced(self, max_factor: float) -> tuple[NDArray[Any], int]:
        return self._pixels, 1


def read_file(path: str | os.PathLike[str]) -> bytes:
    """The bytes of an image file.

    Raises:
        UnreadableImage: missing, not permitted, or not a regular file (a FIFO would never end).
        DataError: the system cannot read it (a lost network share, too many open files), which must not be recorded as an
            unreadable image.
    """
    with regular_file(path) as file:
        return file.read()


@contextmanager
def regular_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """An image file, open for reading. Raises as `read_file`."""
    try:
        with open(path, "rb", opener=open_nonblocking) as file:
            if not is_regular(file):
                raise UnreadableImage("not a regular file")
            yield file
    except FileNotFoundError as error:
        raise UnreadableImage(_missing(error)) from error
    except OSError as error:
        if error.errno in _SYSTEM_ERRORS:
            raise DataError(
                f"{os.fspath(path)} cannot be read now ({error.strerror}); fix this and rerun the command."
            ) from error
        raise UnreadableImage((error.strerror or str(error)).lower()) from error


@contextmanager
def unreadable_if_fails() -> Iterator[None]:
    """Turn every exception of a decoder into UnreadableImage."""
    try:
        yield
    except (UnreadableImage, DataError):
        raise
    except FileNotFoundError as error:
        raise UnreadableImage(_missing(error)) from error
    except Image.DecompressionBombError as error:
        raise UnreadableImage(f"too many pixels: {str(error).partition(',')[0]}") from error
    except UnidentifiedImageError as error:
        raise UnreadableImage("not an image that Pillow can read, or empty") from error
    except OSError as error:
        raise UnreadableImage(error.strerror or str(error)) from error
    except Exception as error:  # decoders raise anything on damaged files
        raise UnreadableImage(f"{type(error).__name__}: {error}") from error


def _missing(error: FileNotFoundError) -> str:
    hint = other_form_hint(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else ""
    return f"no such file exists{hint}" if hint else "no such file"
