"""Decode image files of any color mode to RGB pixels."""

from __future__ import annotations

import io
import logging
import os
import warnings
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from simsiam_eval.errors import DataError
from simsiam_eval.images.formats import JPEG_MAGIC, NUMPY_MAGIC, TIFF_MAGIC, is_heif, register_heif
from simsiam_eval.images.opened import (
    DecodedImage,
    OpenedImage,
    UnreadableImage,
    read_file,
    regular_file,
    unreadable_if_fails,
)
from simsiam_eval.images.pillow_channels import is_deep_color_png
from simsiam_eval.images.stated import (
    PHOTOMETRIC,
    WHITE_IS_ZERO,
    bits_per_sample,
    pillow_tag,
    png_range,
    stored_type,
    tiff_nodata,
    tiff_range,
)
from simsiam_eval.images.stored import read_stored, rgb_or_gray
from simsiam_eval.images.tiff import upright
from simsiam_eval.images.wide import DeepColorImage, WideImage

try:
    import simplejpeg
except ImportError:  # no wheel for this machine; Pillow decodes everything
    simplejpeg = None

# Pillow's warnings are of no use here: too many pixels are an error, and the decoder finds damage.
warnings.filterwarnings("ignore", module="PIL")
# Pillow logs an error for each TIFF of more channels than it reads; the exception that follows says the same.
logging.getLogger("PIL.TiffImagePlugin").setLevel(logging.CRITICAL)

JPEG_SCALES = (8, 4, 2, 1)  # factors by which the inverse DCT shrinks a side at no cost
_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap height and width
_PREFIX = 32  # bytes that show whether a file may have more than 8 bits


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

    EXIF orientation is applied; transparency is put on white; gray, palette, CMYK and CIELAB are converted; of several
    pictures or frames, the first is read. An image of more than 8 bits is a `WideImage`. A JPEG, which can be decoded at a
    reduced size, is decoded on request; other formats at once.

    Raises:
        UnreadableImage: missing, empty, truncated, not an image, a single pixel (a tracking pixel), or larger than
            Pillow's limit for decompression bombs. Damage that only the JPEG decoder notices is raised when it decodes.
        DataError: as `read_file`.
    """
    with unreadable_if_fails():
        data = file if isinstance(file, bytes) else read_file(file)
        image = _pillow_image(data)
        if image is None:
            return _wide_array(data)
        with image:
            if image.size == (1, 1):
                raise UnreadableImage("a single pixel")
            if isinstance(image, JpegImageFile):
                return _Jpeg(data, image)
            return _wide_image(image, data) if _is_wide(image, data) else open_pillow(image)


def open_pillow(image: Image.Image) -> OpenedImage:
    """An image of Pillow, as `open_image` opens its file, unless it is a color image of more than 8 bits."""
    if _is_wide(image, b"") and image.mode not in ("LA", "RGB", "RGBA"):
        return _wide_image(image, b"")
    image.load()
    return DecodedImage(np.array(to_rgb(ImageOps.exif_transpose(image))))


def open_wide(file: bytes | str | os.PathLike[str]) -> WideImage | None:
    """An image whose values have more than 8 bits; None for others, of which only the header is read.

    Raises:
        UnreadableImage, DataError: as `open_image`.
    """
    if isinstance(file, bytes):
        return _wide_or_none(file)
    with regular_file(file) as opened:
        start = opened.read(_PREFIX)
        if start.startswith(JPEG_MAGIC):
            return None
        opened.seek(0)
        if not start.startswith((NUMPY_MAGIC, *TIFF_MAGIC)):
            with unreadable_if_fails(), _identified(opened) as image:
                if not _is_wide(image, start):
                    return None
            opened.seek(0)
        return _wide_or_none(opened.read())


def _wide_or_none(data: bytes) -> WideImage | None:
    with unreadable_if_fails():
        if data.startswith(JPEG_MAGIC):
            return None
        image = _pillow_image(data)
        if image is not None and not _is_wide(image, data):
            return None
        opened = _wide_array(data) if image is None else _wide_image(image, data)
        return opened if isinstance(opened, WideImage) else None


def _pillow_image(data: bytes) -> Image.Image | None:
    """The image, as Pillow opens it; None for an array or a TIFF of a type that Pillow does not read."""
    try:
        return _identified(io.BytesIO(data))
    except UnidentifiedImageError:
        if not data.startswith((NUMPY_MAGIC, *TIFF_MAGIC)):
            if is_heif(data):
                raise UnreadableImage("HEIC requires pillow-heif: pip install pillow-heif") from None
            raise
        return None


def _identified(file: Any) -> Image.Image:
    try:
        return Image.open(file)
    except UnidentifiedImageError:
        start = file.seek(0) or file.read(_PREFIX)
        if not (is_heif(start) and register_heif()):
            raise
        file.seek(0)
        return Image.open(file)


def _is_wide(image: Image.Image, data: bytes) -> bool:
    return (
        image.mode in ("I", "F")
        or image.mode.startswith("I;16")
        or is_deep_color_png(data)
        or (image.format == "TIFF" and image.mode in ("LA", "RGB", "RGBA") and bits_per_sample(image) > 8)
    )


def _wide_image(image: Image.Image, data: bytes) -> WideImage:
    tag, bits = pillow_tag(image), bits_per_sample(image)
    stated = tiff_range(tag, bits) if image.format == "TIFF" else png_range(data)
    if image.mode in ("LA", "RGB", "RGBA"):
        orientation = _orientation(image)
        pixels = np.array(to_rgb(ImageOps.exif_transpose(image)))
        return DeepColorImage(pixels, partial(_deep_color, data, orientation), stated)
    upright_image = ImageOps.exif_transpose(image)
    transparent = image.info.get("transparency")
    return WideImage(
        stored_type(image, np.asarray(upright_image)),
        stated,
        tiff_nodata(tag),
        transparent if isinstance(transparent, int) else None,
        inverted=image.format == "TIFF" and tag(PHOTOMETRIC) == WHITE_IS_ZERO,
    )


def _deep_color(data: bytes, orientation: int) -> NDArray[Any]:
    pixels = read_stored(data).pixels
    return upright(pixels, orientation) if is_deep_color_png(data) else pixels  # that of TIFF is applied already


def _wide_array(data: bytes) -> OpenedImage:
    try:
        stored = read_stored(data)
    except DataError as error:  # a package is missing, which concerns this image only
        raise UnreadableImage(str(error)) from error
    return rgb_or_gray(stored)


def _orientation(image: Image.Image) -> int:
    # PngImageFile.getexif decodes the whole image to find an orientation at its end; Pillow rotates TIFFs itself.
    return 1 if image.format == "TIFF" else Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)


def image_size(file: bytes | str | os.PathLike[str]) -> tuple[int, int]:
    """(width, height) of an image as displayed, given as a path or as the bytes of a file; from its header alone, which is
    much faster than decoding.

    Raises:
        UnreadableImage, DataError: as `read_file`; UnreadableImage also for a header that Pillow does not know.
    """
    width, height, _ = image_header(file)
    return width, height


def image_header(file: bytes | str | os.PathLike[str]) -> tuple[int, int, int]:
    """`image_size`, and the EXIF orientation: 1 without one. Raises as `image_size`."""
    opening = nullcontext(io.BytesIO(file)) if isinstance(file, bytes) else regular_file(file)
    with opening as opened, unreadable_if_fails(), _identified(opened) as image:
        width, height = image.size[::-1] if _orientation(image) in _SIDEWAYS else image.size
        return width, height, Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)


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


def to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB of an image with 8 bits per channel in any mode; transparency is put on white."""
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")  # type: ignore[return-value]
    return image.convert("RGB")
