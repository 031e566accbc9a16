"""Image files -> RGB, whatever mode they were stored in."""

from __future__ import annotations

import errno
import io
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
except ImportError:  # no wheel for this machine: Pillow alone
    simplejpeg = None

# Both are dealt with here: too many pixels are an error, and an orientation that cannot be read is none.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", message="Corrupt EXIF data", module="PIL")

JPEG_SCALES = (8, 4, 2, 1)  # what the inverse DCT divides a side by at no cost
_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap height and width


# What says nothing about the file.
_OF_THE_SYSTEM = {getattr(errno, name) for name in ("EIO", "ESTALE", "EMFILE", "ENFILE", "ETIMEDOUT", "ENOMEM", "EAGAIN",
                                                    "EHOSTDOWN", "EHOSTUNREACH", "ENOTCONN", "EREMOTEIO")
                  if hasattr(errno, name)}  # fmt: skip


class UnreadableImage(Exception):
    """An image that cannot be decoded; the message is the reason."""


class OpenedImage(ABC):
    """An image whose size is known and whose pixels are made when they are asked for.

    Attributes:
        height, width: in pixels, as a viewer shows it (EXIF orientation applied).
    """

    height: int
    width: int

    @abstractmethod
    def reduced(self, most: float) -> tuple[NDArray[np.uint8], int]:
        """The pixels of the image, made smaller where the codec does that while it decodes.

        Args:
            most: how many times smaller the sides may be; 1 and less: not at all.

        Returns:
            (ceil(height / factor), ceil(width / factor), 3) uint8, and the factor: a pixel is the mean of factor x factor.

        Raises:
            UnreadableImage: it cannot be decoded.
        """

    def pixels(self) -> NDArray[np.uint8]:
        """(height,width,3) uint8, RGB. Raises as `reduced` does."""
        return self.reduced(1)[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self.pixels(), dtype=dtype)


class DecodedImage(OpenedImage):
    """An image in memory: (height,width,3) uint8."""

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        self._pixels = np.ascontiguousarray(pixels)
        self.height, self.width = pixels.shape[:2]

    def reduced(self, most: float) -> tuple[NDArray[np.uint8], int]:
        return self._pixels, 1


class _Jpeg(OpenedImage):
    def __init__(self, file: bytes, header: JpegImageFile) -> None:
        self._file, self._size, self._mode = file, header.size, header.mode
        self._orientation = header.getexif().get(ExifTags.Base.Orientation, 1)
        self.width, self.height = self._size[::-1] if self._orientation in _SIDEWAYS else self._size

    def reduced(self, most: float) -> tuple[NDArray[np.uint8], int]:
        factor = next(scale for scale in JPEG_SCALES if scale <= max(most, 1))
        pixels = None
        if self._mode in ("RGB", "L") and self._orientation not in range(2, 9):
            pixels = _turbo_pixels(self._file, -(-self.height // factor), -(-self.width // factor), factor)
        return _pillow_pixels(self._file, factor) if pixels is None else pixels, factor


def open_image(file: bytes | str | os.PathLike[str]) -> OpenedImage:
    """Open an image (a path or the bytes of a file), to be had as 8-bit RGB.

    EXIF orientation is applied; 16-bit gray is scaled, not clipped; a transparent image lies on white, as viewers show it;
    gray, palette and CMYK are converted. JPEG, the codec that can decode to a smaller size, is decoded when the pixels are
    asked for, every other at once.

    Raises:
        UnreadableImage: missing, empty, truncated, not an image, a single pixel (as trackers are), or too large to be meant
            (Pillow's bomb limit). What only the decoder of a JPEG can see is raised when it decodes.
    """
    with _reasons():
        data = file if isinstance(file, bytes) else read_file(file)
        with Image.open(io.BytesIO(data)) as image:
            if image.size == (1, 1):
                raise UnreadableImage("a single pixel")
            if isinstance(image, JpegImageFile):
                return _Jpeg(data, image)
            image.load()
            return DecodedImage(np.array(to_rgb(ImageOps.exif_transpose(image))))


def read_file(path: str | os.PathLike[str]) -> bytes:
    """The bytes of an image file.

    Raises:
        UnreadableImage: it is missing, may not be read, or is no regular file (a FIFO would never end).
        DataError: the system fails to read it (a network share that is gone, too many open files): no image's fault, and
            not to be written down as one.
    """
    with _regular_file(path) as file:
        return file.read()


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(width, height) of an image file as a viewer shows it, from its header alone: a fraction of the time of decoding.

    Raises:
        As `read_file`, and UnreadableImage where it has no header that Pillow knows.
    """
    with _regular_file(path) as file, _reasons(), Image.open(file) as image:
        # PNG's own getexif decodes the image to find an orientation at its end; TIFFs are turned by Pillow itself.
        orientation = 1 if image.format == "TIFF" else Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
        return image.size[::-1] if orientation in _SIDEWAYS else image.size


@contextmanager
def _regular_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise UnreadableImage("not a regular file")
            yield file
    except FileNotFoundError as error:
        raise UnreadableImage("no such file") from error
    except OSError as error:
        if error.errno in _OF_THE_SYSTEM:
            raise DataError(
                f"{os.fspath(path)} cannot be read now ({error.strerror}): mend that and give the same command again."
            ) from error
        raise UnreadableImage((error.strerror or str(error)).lower()) from error


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _turbo_pixels(file: bytes, height: int, width: int, factor: int) -> NDArray[np.uint8] | None:
    """The same pixels as Pillow's in less time (benchmarks/results/decode_speed.md); None: Pillow shall read it, or say why
    it cannot be read."""
    if simplejpeg is None:
        return None
    try:
        pixels = simplejpeg.decode_jpeg(file, "RGB", min_height=height, min_width=width, min_factor=factor)
    except ValueError:  # also where the damage is such that Pillow reads on
        return None
    return pixels if pixels.shape == (height, width, 3) else None


def _pillow_pixels(file: bytes, factor: int) -> NDArray[np.uint8]:
    with _reasons(), Image.open(io.BytesIO(file)) as image:
        if factor > 1:
            image.draft(None, (image.width // factor, image.height // factor))
        image.load()
        return np.array(to_rgb(ImageOps.exif_transpose(image)))


@contextmanager
def _reasons() -> Iterator[None]:
    """Whatever goes wrong becomes UnreadableImage."""
    try:
        yield
    except (UnreadableImage, DataError):
        raise
    except FileNotFoundError as error:
        raise UnreadableImage("no such file") from error
    except Image.DecompressionBombError as error:
        raise UnreadableImage(f"too many pixels: {error}") from error
    except UnidentifiedImageError as error:
        raise UnreadableImage("not an image that Pillow knows, or empty") from error
    except OSError as error:
        raise UnreadableImage(error.strerror or str(error)) from error
    except Exception as error:  # a decoder meets a damaged file with whatever its author thought of
        raise UnreadableImage(f"{type(error).__name__}: {error}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image, dtype=np.float64)
        gray = Image.fromarray(np.clip(values / _full_scale(image.mode, values) * 255 + 0.5, 0, 255).astype(np.uint8))
        if isinstance(clear := image.info.get("transparency"), int):  # the gray value that is not there
            gray.paste(255, mask=Image.fromarray(np.where(values == clear, 255, 0).astype(np.uint8)))
        return gray.convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def _full_scale(mode: str, values: NDArray[np.float64]) -> float:
    """What value is white: 65535 of 16 bits; of wider whole numbers and floats, which have no rule, by the largest there."""
    most = float(values.max(initial=0))
    if mode.startswith("I;16") or most > 255:
        return 65535.0
    return 1.0 if mode == "F" and most <= 1 else 255.0
