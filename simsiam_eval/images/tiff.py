"""Read the channels of a TIFF file, by Pillow where it reads them without a loss, else by tifffile."""

from __future__ import annotations

import io
import logging
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from simsiam_eval.errors import DataError
from simsiam_eval.images.formats import TIFF_MAGIC
from simsiam_eval.images.intensity import Range
from simsiam_eval.images.opened import UnreadableImage
from simsiam_eval.images.pillow_channels import pillow_channels
from simsiam_eval.images.stated import (
    BITS_PER_SAMPLE,
    BLACK_IS_ZERO,
    PHOTOMETRIC,
    RGB,
    SAMPLE_FORMAT,
    SAMPLES_PER_PIXEL,
    Tag,
    bits_per_sample,
    pillow_tag,
    tiff_nodata,
    tiff_range,
)

_UNNAMED = "QYX"  # tifffile's letters for the axes of an array that was written without them
_SLICES = {"Z": "slices of a volume", "T": "time steps"}


def is_tiff(data: bytes) -> bool:
    """Whether the bytes of a file start like TIFF."""
    return data.startswith(TIFF_MAGIC)


_Tiff = tuple[NDArray[Any], str | None, Range | None, float | None]


def read_tiff(data: bytes) -> _Tiff:
    """The channels of the only image of a TIFF file: samples of a pixel, or pages.

    Returns:
        (H,W,C) of the file's type, and "last" (for an array that tifffile has written without saying its axes, its three
        axes, and None); black and white where the file says them; the value of no data.

    Raises:
        UnreadableImage: it is damaged, or has several images, slices, or no channels of their own.
        DataError: tifffile or imagecodecs is needed and missing.
    """
    return _by_pillow(data) or _by_tifffile(data)


def _by_pillow(data: bytes) -> _Tiff | None:
    """None where Pillow cannot read the file, would lose bits, or sees only the first of several pages."""
    try:
        image = Image.open(io.BytesIO(data))
    except (OSError, ValueError, SyntaxError):
        return None
    with image:
        tags: Any = image.tag_v2  # type: ignore[attr-defined]
        bits, form = set(tags.get(BITS_PER_SAMPLE, (1,))), set(tags.get(SAMPLE_FORMAT, (1,)))
        single = (
            image.mode in ("1", "L", "P")
            or (image.mode.startswith("I;16") and bits == {16} and tags.get(PHOTOMETRIC) == BLACK_IS_ZERO)
            or (image.mode == "F" and bits == {32} and form == {3})
        )
        several = image.mode in ("LA", "RGB", "RGBA") and bits == {8}
        kept = several or (single and tags.get(SAMPLES_PER_PIXEL, 1) == 1)
        if not kept or getattr(image, "n_frames", 1) != 1:
            return None
        return pillow_channels(image), "last", *_facts(pillow_tag(image), bits_per_sample(image))


def _facts(tag: Tag, bits: int) -> tuple[Range | None, float | None]:
    return tiff_range(tag, bits), tiff_nodata(tag)


def _by_tifffile(data: bytes) -> _Tiff:
    try:
        import tifffile
    except ImportError as error:
        raise DataError(
            'TIFF images of several channels or of this type require tifffile: pip install "simsiam-eval[tiff]".'
        ) from error
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # damage is an error, or it does not matter
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        if not file.series:
            raise UnreadableImage("a TIFF file without an image, or damaged")
        others = [series for series in file.series[1:] if not _is_secondary(series.keyframe)]
        if others:
            raise UnreadableImage(f"the file has {1 + len(others)} images of different sizes or types; expected one")
        series = file.series[0]
        page = series.keyframe
        if page.photometric not in (BLACK_IS_ZERO, RGB):
            kind = getattr(page.photometric, "name", page.photometric)  # a number where tifffile knows no name
            raise UnreadableImage(f"values of the kind {kind}; expected MINISBLACK (gray or bands) or RGB")
        if page.imagewidth * page.imagelength > 2 * (Image.MAX_IMAGE_PIXELS or math.inf):
            raise UnreadableImage(f"too many pixels: {page.imagelength} x {page.imagewidth}")
        pixels = _pixels_of(series)
        facts = _facts(page.tags.valueof, page.bitspersample)
        if series.axes == _UNNAMED:
            return pixels, None, *facts
        orientation = int(page.tags.valueof(ExifTags.Base.Orientation, 1))
        return upright(_channels_last(pixels, series.axes), orientation), "last", *facts


def _pixels_of(series: Any) -> NDArray[Any]:
    try:
        return np.asarray(series.asarray())
    except ValueError as error:
        if "imagecodecs" not in str(error):
            raise
        raise DataError(
            f"TIFF images compressed by {series.keyframe.compression.name} require imagecodecs: "
            'pip install "simsiam-eval[tiff]".'
        ) from error


def _is_secondary(page: Any) -> bool:
    """Whether a page is an overview or a mask of another."""
    return bool(page.is_reduced or page.is_mask)


def _channels_last(pixels: NDArray[Any], axes: str) -> NDArray[Any]:
    """(H,W,C) from an array whose axes have tifffile's letters."""
    kept = [index for index, length in enumerate(pixels.shape) if length > 1 or axes[index] in "YX"]
    names = "".join(axes[index] for index in kept)
    pixels = pixels.reshape([pixels.shape[index] for index in kept])
    for letter, what in _SLICES.items():
        if letter in names:
            raise UnreadableImage(f"the file has {pixels.shape[names.index(letter)]} {what}; expected one image")
    if names == "YX":
        return pixels[:, :, None]
    if len(names) != 3 or not {"Y", "X"} <= set(names):
        raise UnreadableImage(f"the file has the axes {axes} of shape {pixels.shape}; expected channels, height, width")
    return pixels if names.startswith("YX") else np.moveaxis(pixels, 0, -1)


def upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """The image as displayed, from one stored with an EXIF orientation."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels
