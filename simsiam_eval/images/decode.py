"""Decode image files of any color mode to RGB pixels."""

from __future__ import annotations

import errno
import io
import logging
import os
import stat
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from simsiam_eval.errors import DataError

try:
    import simplejpeg
except ImportError:  # no wheel for this machine; Pillow decodes everything
    simplejpeg = None

# Both cases are handled here: too many pixels are an error, and an unreadable orientation is ignored.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", message="Corrupt EXIF data", module="PIL")

# Pillow logs an error for each TIFF of more channels than it reads; the exception that follows says the same.
logging.getLogger("PIL.TiffImagePlugin").setLevel(logging.CRITICAL)

JPEG_SCALES = (8, 4, 2, 1)  # factors by which the inverse DCT shrinks a side at no cost
NUMPY_MAGIC = b"\x93NUMPY"
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # TIFF and BigTIFF of both byte orders
_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap height and width
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

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self.pixels(), dtype=dtype)


class DecodedImage(OpenedImage):
    """An image in memory: (height,width,3) uint8, or (height,width,C) float32 of selected channels."""

    def __init__(self, pixels: NDArray[Any]) -> None:
        self._pixels = np.ascontiguousarray(pixels)
        self.height, self.width = pixels.shape[:2]

    def reduced(self, max_factor: float) -> tuple[NDArray[Any], int]:
        return self._pixels, 1


class _Jpeg(OpenedImage):
    def __init__(self, file: bytes, header: JpegImageFile) -> None:
        self._file, self._size, self._mode = file, header.size, header.mode
        self._orientation = header.getexif().get(ExifTags.Base.Orientation, 1)
        self.width, self.height = self._size[::-1] if self._orientation in _SIDEWAYS else self._size

    def reduced(self, max_factor: float) -> tuple[NDArray[np.uint8], int]:
        factor = next(scale for scale in JPEG_SCALES if scale <= max(max_factor, 1))
        pixels = None
        if self._mode in ("RGB", "L") and self._orientation not in range(2, 9):
            pixels = _turbo_pixels(self._file, -(-self.height // factor), -(-self.width // factor), factor)
        return _pillow_pixels(self._file, factor) if pixels is None else pixels, factor


def open_image(file: bytes | str | os.PathLike[str]) -> OpenedImage:
    """Open an image, given as a path or as the bytes of a file; its pixels are 8-bit RGB.

    EXIF orientation is applied; 16-bit gray is scaled, not clipped; transparency is put on white; gray, palette and CMYK
    are converted. A JPEG, which can be decoded at a reduced size, is decoded on request; other formats at once.

    Raises:
        UnreadableImage: missing, empty, truncated, not an image, a single pixel (a tracking pixel), or larger than
            Pillow's limit for decompression bombs. Damage that only the JPEG decoder notices is raised when it decodes.
        DataError: as `read_file`.
    """
    with unreadable_if_fails():
        data = file if isinstance(file, bytes) else read_file(file)
        with _open_known(data) as image:
            if image.size == (1, 1):
                raise UnreadableImage("a single pixel")
            if isinstance(image, JpegImageFile):
                return _Jpeg(data, image)
            image.load()
            return DecodedImage(np.array(to_rgb(ImageOps.exif_transpose(image))))


def _open_known(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data))
    except UnidentifiedImageError as error:
        if not data.startswith((NUMPY_MAGIC, *TIFF_MAGIC)):
            raise
        raise UnreadableImage("an array or a TIFF image that is not RGB or gray; it requires --channels") from error


def read_file(path: str | os.PathLike[str]) -> bytes:
    """The bytes of an image file.

    Raises:
        UnreadableImage: missing, not permitted, or not a regular file (a FIFO would never end).
        DataError: the system cannot read it (a lost network share, too many open files), which must not be recorded as an
            unreadable image.
    """
    with _regular_file(path) as file:
        return file.read()


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(width, height) of an image file as displayed, from its header alone: much faster than decoding.

    Raises:
        UnreadableImage, DataError: as `read_file`; UnreadableImage also for a header that Pillow does not know.
    """
    with _regular_file(path) as file, unreadable_if_fails(), Image.open(file) as image:
        # PngImageFile.getexif decodes the whole image to find an orientation at its end; Pillow rotates TIFFs itself.
        orientation = 1 if image.format == "TIFF" else Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
        return image.size[::-1] if orientation in _SIDEWAYS else image.size


@contextmanager
def _regular_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    try:
        with open(path, "rb", opener=_open_nonblocking) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise UnreadableImage("not a regular file")
            yield file
    except FileNotFoundError as error:
        raise UnreadableImage("no such file") from error
    except OSError as error:
        if error.errno in _SYSTEM_ERRORS:
            raise DataError(
                f"{os.fspath(path)} cannot be read now ({error.strerror}); fix this and rerun the command."
            ) from error
        raise UnreadableImage((error.strerror or str(error)).lower()) from error


def _open_nonblocking(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _turbo_pixels(file: bytes, height: int, width: int, factor: int) -> NDArray[np.uint8] | None:
    """Pillow's pixels in less time (benchmarks/results/decode_speed.md); None: Pillow must decode it or name the damage."""
    if simplejpeg is None:
        return None
    try:
        pixels = simplejpeg.decode_jpeg(file, "RGB", min_height=height, min_width=width, min_factor=factor)
    except ValueError:  # also for damage that Pillow tolerates
        return None
    return pixels if pixels.shape == (height, width, 3) else None


def _pillow_pixels(file: bytes, factor: int) -> NDArray[np.uint8]:
    with unreadable_if_fails(), Image.open(io.BytesIO(file)) as image:
        if factor > 1:
            image.draft(None, (image.width // factor, image.height // factor))
        image.load()
        return np.array(to_rgb(ImageOps.exif_transpose(image)))


@contextmanager
def unreadable_if_fails() -> Iterator[None]:
    """Turn every exception of a decoder into UnreadableImage."""
    try:
        yield
    except (UnreadableImage, DataError):
        raise
    except FileNotFoundError as error:
        raise UnreadableImage("no such file") from error
    except Image.DecompressionBombError as error:
        raise UnreadableImage(f"too many pixels: {error}") from error
    except UnidentifiedImageError as error:
        raise UnreadableImage("not an image that Pillow can read, or empty") from error
    except OSError as error:
        raise UnreadableImage(error.strerror or str(error)) from error
    except Exception as error:  # decoders raise anything on damaged files
        raise UnreadableImage(f"{type(error).__name__}: {error}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB of any mode; wider gray is scaled, and transparency put on white."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image, dtype=np.float64)
        gray = Image.fromarray(np.clip(values / _full_scale(image.mode, values) * 255 + 0.5, 0, 255).astype(np.uint8))
        if isinstance(transparent := image.info.get("transparency"), int):  # a gray value
            gray.paste(255, mask=Image.fromarray(np.where(values == transparent, 255, 0).astype(np.uint8)))
        return gray.convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def _full_scale(mode: str, values: NDArray[np.float64]) -> float:
    """The value of white: 65535 for 16 bits; guessed from the largest value for wider integers and floats."""
    largest = float(values.max(initial=0))
    if mode.startswith("I;16") or largest > 255:
        return 65535.0
    return 1.0 if mode == "F" and largest <= 1 else 255.0
