"""The channels of an image that Pillow reads, without a conversion of their values."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from simsiam_eval.errors import DataError
from simsiam_eval.images.formats import PNG_MAGIC
from simsiam_eval.images.opened import UnreadableImage
from simsiam_eval.images.stated import stored_type


def pillow_channels(image: Image.Image) -> NDArray[Any]:
    """(H,W,C) of an image of Pillow, without a conversion of its values.

    Raises:
        UnreadableImage: its color mode has no channels of their own.
    """
    tiles: Any = getattr(image, "tile", None)
    if image.format == "PPM" and image.mode == "RGB" and tiles and tiles[0].codec_name != "raw":
        raise UnreadableImage(
            "color of more than 8 bits in a PPM file, which Pillow reads with 8; store it as PNG or TIFF"
        )
    image.load()
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA" if image.mode == "PA" or "transparency" in image.info else "RGB")
    elif image.mode == "1":
        image = image.convert("L")
    elif image.mode not in ("L", "LA", "RGB", "RGBA", "I", "F") and not image.mode.startswith("I;16"):
        raise UnreadableImage(f"color mode {image.mode} has no channels that could be chosen; convert it to RGB")
    pixels = stored_type(image, np.array(ImageOps.exif_transpose(image)))
    return pixels.reshape(*pixels.shape[:2], -1)


def is_deep_color_png(data: bytes) -> bool:
    """Whether a file is a PNG of 16 bits per channel and several channels, which Pillow reads with 8 bits."""
    return data.startswith(PNG_MAGIC) and data[24:26] in (b"\x10\x02", b"\x10\x04", b"\x10\x06")


def png_channels(data: bytes) -> NDArray[np.uint16]:
    """(H,W,C) of a PNG of 16 bits per channel.

    Raises:
        DataError: imagecodecs is missing.
    """
    try:
        from imagecodecs import png_decode
    except ImportError as error:
        raise DataError(
            'PNG images with 16-bit color require imagecodecs: pip install "simsiam-eval[tiff]".'
        ) from error
    return np.asarray(png_decode(data))
