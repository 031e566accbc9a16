"""What an image file says about its values: black and white, the value of no data, and their type."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from simsiam_eval.images.formats import PNG_MAGIC
from simsiam_eval.images.intensity import Range

BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLES_PER_PIXEL, SAMPLE_FORMAT = 258, 262, 277, 339
_RANGE_TAGS = ((340, 341), (280, 281))  # (S)MinSampleValue and (S)MaxSampleValue: of any type, of integers
_GDAL_NODATA = 42113
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB = 0, 1, 2
_UNSIGNED = 1

Tag = Callable[[int], Any]  # the value of a TIFF tag, None without it


def tiff_range(tag: Tag, bits: int) -> Range | None:
    """Black and white of a TIFF image, by its tags or its number of bits; None if it does not say them."""
    for low_tag, high_tag in _RANGE_TAGS:
        low, high = _number(tag(low_tag)), _number(tag(high_tag))
        if high is not None and math.isfinite(high) and (low or 0) < high:
            return low or 0.0, high
    return (0.0, float(2**bits - 1)) if 8 < bits < 16 else None


def tiff_nodata(tag: Tag) -> float | None:
    """The value of pixels without data, as GDAL writes it; NaN for NaN, None if the file names none."""
    text = tag(_GDAL_NODATA)
    try:
        return None if text is None else float(str(text).strip("\0 "))
    except ValueError:
        return None


def pillow_tag(image: Image.Image) -> Tag:
    """The tags of an image that Pillow has opened; none of other formats than TIFF."""
    tags = getattr(image, "tag_v2", None) or {}
    return lambda number: tags.get(number)


def bits_per_sample(image: Image.Image) -> int:
    """The largest number of bits per sample of a TIFF image that Pillow has opened; 8 of other formats."""
    bits = pillow_tag(image)(BITS_PER_SAMPLE)
    return max(bits) if isinstance(bits, tuple) else int(bits or 8)


def png_range(data: bytes) -> Range | None:
    """Black and white of a PNG of 16 bits, if its chunk sBIT says that fewer are significant.

    A writer that follows the standard scales such values to 16 bits, so this holds only where no value is larger.
    """
    position = len(PNG_MAGIC)
    while data.startswith(PNG_MAGIC) and position + 8 <= len(data):
        length, name = struct.unpack(">I4s", data[position : position + 8])
        if name == b"sBIT" and length:
            bits = max(data[position + 8 : position + 8 + min(length, 3)])
            return (0.0, float(2**bits - 1)) if 8 < bits < 16 else None
        if name in (b"IDAT", b"IEND"):
            return None
        position += length + 12
    return None


def stored_type(image: Image.Image, values: NDArray[Any]) -> NDArray[Any]:
    """The values of a gray image as their file has them: Pillow reads unsigned integers as signed, and 16 bits as 32."""
    if image.mode != "I":
        return values
    if image.format in ("PNG", "PPM"):  # 16 bits, those of PPM scaled to 65535
        return values.astype(np.uint16)
    tag, bits = pillow_tag(image), bits_per_sample(image)
    form = tag(SAMPLE_FORMAT) or (_UNSIGNED,)
    if bits == 32 and form[0] == _UNSIGNED:
        return values.view(np.uint32)
    return values.astype(np.int16) if bits == 16 and form[0] == 2 else values


def _number(value: Any) -> float | None:
    if isinstance(value, tuple | list):
        value = max(value, default=None)
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):
        return None
