"""Images with any number of channels and any type of values, as they are stored."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from simsiam_eval.images.channels import ChannelSelection
from simsiam_eval.images.formats import NUMPY_MAGIC
from simsiam_eval.images.intensity import Intensity, Range
from simsiam_eval.images.opened import DecodedImage, OpenedImage, UnreadableImage, unreadable_if_fails
from simsiam_eval.images.pillow_channels import is_deep_color_png, pillow_channels, png_channels
from simsiam_eval.images.stated import png_range
from simsiam_eval.images.tiff import is_tiff, read_tiff
from simsiam_eval.images.wide import WideImage, known_range, scaled_values
from simsiam_eval.wording import counted

_FEWEST_PIXELS = 32  # a shorter axis is that of the channels, if the other one that could be is not shorter


class OtherChannels(UnreadableImage):
    """An image whose channels or values are not those that `--channels` describes."""


@dataclass(frozen=True)
class StoredImage:
    """The pixels of an image as they are stored.

    Attributes:
        pixels: (H,W), (H,W,C) or (C,H,W) of numbers.
        axis: "last" or "first", where the file says which axis the channels are; None: it does not.
        stated: black and white, where the file says them.
        nodata: the value of pixels without data; NaN for NaN.
    """

    pixels: NDArray[Any]
    axis: str | None = None
    stated: Range | None = None
    nodata: float | None = None


def read_stored(data: bytes) -> StoredImage:
    """The image in the bytes of a file: TIFF, .npy, or what Pillow reads without a loss.

    EXIF orientation is applied, and palettes become RGB or RGBA.

    Raises:
        UnreadableImage: it cannot be decoded, or its values are not those of channels (CMYK, slices of a volume).
        DataError: a package is missing.
    """
    with unreadable_if_fails():
        if data.startswith(NUMPY_MAGIC):
            return StoredImage(np.load(io.BytesIO(data), allow_pickle=False))
        if is_tiff(data):
            return StoredImage(*read_tiff(data))
        if is_deep_color_png(data):
            return StoredImage(png_channels(data), "last", png_range(data))
        with Image.open(io.BytesIO(data)) as image:
            return StoredImage(pillow_channels(image), "last", png_range(data))


def rgb_or_gray(stored: StoredImage) -> OpenedImage:
    """An array (H,W), or (H,W,C) or (C,H,W) of one or three channels, as an image.

    Raises:
        UnreadableImage: it has another shape, or no numbers.
    """
    pixels = stored.pixels
    if stored.axis != "last" and pixels.ndim == 3 and pixels.shape[2] not in (1, 3) and pixels.shape[0] in (1, 3):
        pixels = pixels.transpose(1, 2, 0)
    if pixels.dtype.kind not in "buif":
        raise UnreadableImage(f"the values are {pixels.dtype}; expected integers or floats")
    if not pixels.size or pixels.shape[2:] not in ((), (1,), (3,)) or pixels.ndim < 2:
        several = " (an array of several images is the source arrays:FILE)" if pixels.ndim > 2 else ""
        raise UnreadableImage(
            f"an array of shape {pixels.shape} and type {pixels.dtype.name} that is not RGB or gray; it requires --channels"
            f"{several}"
        )
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * 255
    if pixels.dtype != np.uint8:
        return WideImage(pixels, stored.stated, stored.nodata)
    return DecodedImage(np.broadcast_to(pixels.reshape(*pixels.shape[:2], -1), (*pixels.shape[:2], 3)))


def selected(stored: StoredImage, selection: ChannelSelection, intensity: Intensity) -> NDArray[np.float32]:
    """The chosen channels of an image, scaled so that black is 0 and white is 1.

    Returns:
        (H,W,C) float32: from 0 to 1, unless values are darker than black or brighter than white.

    Raises:
        OtherChannels: the image has other channels, or it is unclear which axis they are.
        UnreadableImage: values are NaN or infinite, or their scale is unknown.
    """
    pixels = chosen_channels(stored, selection)
    scaled = scaled_values(pixels, known_range(intensity, pixels), stored.nodata, clip=False)
    with np.errstate(over="ignore"):
        return scaled.astype(np.float32)


def chosen_channels(stored: StoredImage, selection: ChannelSelection) -> NDArray[Any]:
    """The chosen channels (H,W,C) of an image, as they are stored.

    Raises:
        OtherChannels: as `selected`.
    """
    pixels = _channels_last(stored, selection)
    if pixels.dtype.kind not in "uif":
        raise OtherChannels(f"the values are {pixels.dtype}; expected integers or floats")
    count = pixels.shape[2]
    if selection.indices is None:
        if count != selection.count:
            raise OtherChannels(f"the image has {_shown(pixels)}, but --channels expects {selection.channels}")
        return pixels
    if count <= max(selection.indices):
        raise OtherChannels(
            f"the image has {_shown(pixels)}, but --channels {selection.channels} needs {max(selection.indices) + 1}"
        )
    return pixels[:, :, list(selection.indices)]


def _channels_last(stored: StoredImage, selection: ChannelSelection) -> NDArray[Any]:
    pixels = stored.pixels
    if pixels.ndim == 2:
        return pixels[:, :, None]
    if pixels.ndim != 3 or not pixels.size:
        raise OtherChannels(f"an array of shape {pixels.shape}; expected (H,W), (H,W,C) or (C,H,W)")
    axis = stored.axis or selection.channel_axis or _clear_axis(pixels.shape, selection.count)
    if axis is None:
        raise OtherChannels(
            f"an array of shape {pixels.shape} can be (H,W,C) or (C,H,W); say with --channel-axis whether the channels "
            "are first or last"
        )
    return pixels if axis == "last" else pixels.transpose(1, 2, 0)


def _clear_axis(shape: tuple[int, ...], count: int | None) -> str | None:
    """Which axis the channels are: the only one of the expected length, else the only short one; None: unclear.

    >>> _clear_axis((4, 64, 64), 4), _clear_axis((64, 64, 13), None), _clear_axis((28, 28, 4), None)
    ('first', 'last', None)
    """
    for fits in (lambda length: length == count, lambda length: length < _FEWEST_PIXELS):
        axes = [axis for axis, length in (("first", shape[0]), ("last", shape[2])) if fits(length)]
        if axes:
            return axes[0] if len(axes) == 1 else None
    return None


def _shown(pixels: NDArray[Any]) -> str:
    height, width, count = pixels.shape
    return f"{counted(count, 'channel')} ({height} x {width} pixels)"
