"""Images with any number of channels and any type of values, as they are stored."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from simsiam_eval.images.channels import ChannelSelection
from simsiam_eval.images.decode import NUMPY_MAGIC, UnreadableImage, unreadable_if_fails
from simsiam_eval.images.pillow_channels import is_deep_color_png, pillow_channels, png_channels
from simsiam_eval.images.tiff import is_tiff, read_tiff
from simsiam_eval.wording import counted

_FULL_SCALE = {"uint8": 255.0, "uint16": 65535.0}
_FEWEST_PIXELS = 32  # a shorter axis is that of the channels, if the other one that could be is not shorter


class OtherChannels(UnreadableImage):
    """An image whose channels or values are not those that `--channels` describes."""


@dataclass(frozen=True)
class StoredImage:
    """The pixels of an image as they are stored.

    Attributes:
        pixels: (H,W), (H,W,C) or (C,H,W) of numbers.
        axis: "last" or "first", where the file says which axis the channels are; None: it does not.
    """

    pixels: NDArray[Any]
    axis: str | None = None


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
            return StoredImage(png_channels(data), "last")
        with Image.open(io.BytesIO(data)) as image:
            return StoredImage(pillow_channels(image), "last")


def selected(stored: StoredImage, selection: ChannelSelection) -> NDArray[np.float32]:
    """The chosen channels of an image, divided by the value that becomes 1.

    Returns:
        (H,W,C) float32: from 0 to 1, unless values are negative or above `max_value`.

    Raises:
        OtherChannels: the image has other channels, it is unclear which axis they are, or the scale is unknown.
        UnreadableImage: values are NaN or infinite.
    """
    pixels = _channels_last(stored, selection)
    count = pixels.shape[2]
    if selection.indices is None:
        if count != selection.count:
            raise OtherChannels(f"the image has {_shown(pixels)}, but --channels expects {selection.channels}")
    elif count <= max(selection.indices):
        raise OtherChannels(
            f"the image has {_shown(pixels)}, but --channels {selection.channels} needs {max(selection.indices) + 1}"
        )
    else:
        pixels = pixels[:, :, list(selection.indices)]
    return _scaled(pixels, selection.max_value)


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


def _scaled(pixels: NDArray[Any], max_value: float | None) -> NDArray[np.float32]:
    if pixels.dtype.kind not in "uif":
        raise OtherChannels(f"the values are {pixels.dtype}; expected integers or floats")
    largest = _FULL_SCALE.get(pixels.dtype.name) if max_value is None else max_value
    if largest is None:
        raise OtherChannels(
            f"the values are {pixels.dtype}, whose scale is unknown; give --max-value, the value that becomes 1 "
            "(--max-value 1 leaves them as they are)"
        )
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise UnreadableImage("values are NaN or infinite")
    exact = pixels.dtype.itemsize <= 2 or pixels.dtype == np.float32
    if exact:
        return pixels.astype(np.float32) / np.float32(largest)
    return (pixels.astype(np.float64) / largest).astype(np.float32)
