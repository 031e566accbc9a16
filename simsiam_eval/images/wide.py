"""Gray and RGB images whose values have more than 8 bits."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from simsiam_eval.errors import DataError
from simsiam_eval.images.intensity import FLOAT, Intensity, Range
from simsiam_eval.images.opened import OpenedImage, UnreadableImage

_WHITE = 255
_NOT_FINITE = "values are NaN or infinite"


class WideImage(OpenedImage):
    """A gray or RGB image of integers wider than 8 bits or of floats; an `Intensity` makes it 8-bit RGB.

    Args:
        values: (H,W), (H,W,1) or (H,W,3) numbers.
        stated: black and white, where the file says them.
        nodata: the value of pixels without data, which become black; NaN for NaN.
        transparent: the value of transparent pixels, which become white.
        inverted: whether the lowest value is white.
    """

    def __init__(
        self,
        values: NDArray[Any],
        stated: Range | None = None,
        nodata: float | None = None,
        transparent: float | None = None,
        inverted: bool = False,
    ) -> None:
        self.stated, self._nodata, self._transparent, self._inverted = stated, nodata, transparent, inverted
        self._values = values
        self.height, self.width = values.shape[:2]
        self._intensity = Intensity()

    @property
    def value_type(self) -> str:
        """The type of the values, as an `Intensity` names it."""
        return value_type(self._values.dtype)

    def scaled(self, intensity: Intensity) -> Self:
        image = copy.copy(self)
        image._intensity = intensity
        return image

    def sample(self) -> NDArray[Any]:
        """The values of the image, without those that are no data or not finite. (M,)"""
        return counted_values(self._values, self._nodata)

    def reduced(self, max_factor: float) -> tuple[NDArray[np.uint8], int]:
        fractions = scaled_values(self._values, known_range(self._intensity, self._values), self._nodata, clip=True)
        levels = (fractions * 255 + 0.5).astype(np.uint8)
        if self._inverted:
            levels = 255 - levels
        if self._transparent is not None:
            levels[self._values == self._transparent] = _WHITE
        return np.ascontiguousarray(np.broadcast_to(_with_channels(levels), (self.height, self.width, 3))), 1


class DeepColorImage(WideImage):
    """A color image of 16 bits per channel, or gray with transparency.

    Pillow reads the high bytes, which is right for values up to 65535. Other scales require the package that `read` needs.

    Args:
        pixels: (H,W,3) uint8, by Pillow.
        read: the values (H,W,2), (H,W,3) or (H,W,4), alpha last; raises DataError where a package is missing.
    """

    def __init__(self, pixels: NDArray[np.uint8], read: Callable[[], NDArray[Any]], stated: Range | None) -> None:
        super().__init__(pixels, stated)
        self._read = read

    @property
    def value_type(self) -> str:
        return "uint16"

    def sample(self) -> NDArray[Any]:
        try:
            values = self._read()
        except DataError:
            return self._values.reshape(-1).astype(np.uint16) * 257
        return values[..., : _color_channels(values)].reshape(-1)

    def reduced(self, max_factor: float) -> tuple[NDArray[np.uint8], int]:
        span = self._intensity.range_of("uint16")
        if span == (0, 65535):
            return np.ascontiguousarray(self._values), 1
        values = self._read()
        color = _color_channels(values)
        levels = scaled_values(values[..., :color], span or (0, 65535), None, clip=True) * 255
        if color < values.shape[2]:
            alpha = values[..., color:] / 65535
            levels = levels * alpha + _WHITE * (1 - alpha)
        levels = np.broadcast_to(levels + 0.5, (*levels.shape[:2], 3))
        return levels.astype(np.uint8), 1


def value_type(dtype: np.dtype[Any]) -> str:
    """The name by which an `Intensity` knows a type of values.

    >>> value_type(np.dtype(">u2")), value_type(np.dtype("f8"))
    ('uint16', 'float')
    """
    return FLOAT if dtype.kind == "f" else dtype.name


def known_range(intensity: Intensity, values: NDArray[Any]) -> Range:
    """Black and white of values.

    Raises:
        UnreadableImage: they are unknown.
    """
    span = intensity.range_of(value_type(values.dtype))
    if span is None:
        if values.dtype.kind == "f" and not np.isfinite(values).any():
            raise UnreadableImage(_NOT_FINITE)
        raise UnreadableImage(
            f"the values are {values.dtype.name}, and which of them are black and white is unknown; give "
            "--intensity LOW:HIGH"
        )
    return span


def scaled_values(values: NDArray[Any], span: Range, nodata: float | None, clip: bool) -> NDArray[np.float64]:
    """Values from LOW to HIGH as 0 to 1, in float64; those without data are 0.

    Args:
        clip: whether values below LOW become 0, and those above HIGH 1.

    Raises:
        UnreadableImage: a value is NaN or infinite.
    """
    low, high = span
    missing = _is_nodata(values, nodata)
    if missing is not None:
        values = np.where(missing, values.dtype.type(0), values)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise UnreadableImage(_NOT_FINITE)
    numbers = values.astype(np.float64)
    if clip:
        np.clip(numbers, low, high, out=numbers)
    if low:
        numbers -= low
    numbers /= high - low
    if missing is not None:
        numbers[missing] = 0
    return numbers


def counted_values(values: NDArray[Any], nodata: float | None) -> NDArray[Any]:
    """The values (M,) that are finite and have data."""
    missing = _is_nodata(values, nodata)
    counted = values.reshape(-1) if missing is None else values[~missing]
    return counted[np.isfinite(counted)] if counted.dtype.kind == "f" else counted


def _is_nodata(values: NDArray[Any], nodata: float | None) -> NDArray[np.bool_] | None:
    if nodata is None:
        return None
    if math.isnan(nodata):
        return np.isnan(values) if values.dtype.kind == "f" else None
    with np.errstate(over="ignore"):
        return values == (values.dtype.type(nodata) if values.dtype.kind == "f" else nodata)


def _with_channels(levels: NDArray[Any]) -> NDArray[Any]:
    return levels[:, :, None] if levels.ndim == 2 else levels


def _color_channels(values: NDArray[Any]) -> int:
    return values.shape[2] - (values.shape[2] in (2, 4))
