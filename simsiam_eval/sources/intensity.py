"""Decide black and white for the images of a source that have more than 8 bits: once, from a sample of them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simsiam_eval.errors import DataError
from simsiam_eval.images.channels import ChannelSelection
from simsiam_eval.images.intensity import AUTO, BY_TYPE, FLOAT, FULL_RANGES, PERCENTILE, Intensity, Range, range_text
from simsiam_eval.images.opened import UnreadableImage
from simsiam_eval.images.stored import chosen_channels
from simsiam_eval.images.wide import counted_values, value_type
from simsiam_eval.runtime.notes import say_once
from simsiam_eval.sources.base import ImageSource
from simsiam_eval.wording import counted

PERCENTILES = (0.5, 99.5)
_LOOKED_AT, _LOOKED_AT_WHOLE = 256, 16  # images; whole: with a selection of channels, those of 8 bits are decoded too
_SAMPLED_IMAGES = 32  # of each type of values
_SPREAD = _LOOKED_AT // _SAMPLED_IMAGES
_SAMPLED_VALUES = 1 << 16  # per image
_OUTLIERS = 1000  # one value of so many, and at least one, is left out at either end of an image
_BYTES, _WORDS = (0.0, 255.0), (0.0, 65535.0)
_FLOATS: tuple[Range, ...] = ((0.0, 1.0), (-1.0, 1.0), _BYTES, _WORDS)
_OVERSHOOT = 0.05  # of the range, by which an interpolation's values may leave it
_LEAST_USED = 0.1  # of a range, or of the gray levels: an image that uses less looks flat
_LEVELS = 255


@dataclass(frozen=True)
class _Sample:
    """An image of the sample.

    Attributes:
        name: its id.
        low, high: the extremes of its values without outliers.
        values: (M,) some of them.
        stated: black and white, where the file says them.
    """

    name: str
    low: float
    high: float
    values: NDArray[np.float64]
    stated: Range | None


def source_intensity(
    source: ImageSource, setting: str, selection: ChannelSelection | None = None, known: Intensity | None = None
) -> Intensity:
    """Black and white of the types of values that a sample of the images has; nothing where all have 8 bits.

    Prints what a choice that is not obvious is based on, and warns if the images use less than a tenth of the range.

    Args:
        setting: auto, dtype, percentile or LOW:HIGH.
        selection: the channels, of images that are read as they are stored.
        known: of a checkpoint or of other images; auto keeps it for the types that it has.

    Raises:
        DataError: with a selection, the scale of the values is unclear.
    """
    samples = _samples(source, selection)
    given = Intensity.parse(setting)
    if given is not None:
        if not samples and setting != BY_TYPE:
            say_once(f"{source.spec}: --intensity {setting} changes nothing: 8-bit images are always from 0 to 255.")
        _report(source, given, samples, selection is None)
        return given if samples else Intensity()
    ranges = {}
    for name, images in samples.items():
        kept = known.given(name) if known is not None and setting == AUTO else None
        ranges[name] = kept or _range(source, name, images, setting, selection is not None)
    intensity = Intensity.of(ranges)
    _report(source, intensity, samples, selection is None)
    return intensity


def report_range(source: ImageSource, intensity: Intensity, selection: ChannelSelection | None = None) -> None:
    """Say if most images of a source use less than a tenth of the range from black to white."""
    _report(source, intensity, _samples(source, selection), selection is None)


def _report(source: ImageSource, intensity: Intensity, samples: dict[str, list[_Sample]], clip: bool) -> None:
    for name, images in samples.items():
        span = intensity.range_of(name)
        if span is None:
            continue
        flat = [lost for image in images if (lost := _flat_values(image.values, span, clip))]
        if 2 * len(flat) <= len(images):
            continue
        low, high = min(low for low, _ in flat), max(high for _, high in flat)
        say_once(
            f"Warning: {len(flat):,} of {counted(len(images), f'{name} image')} in a sample of {source.spec} use less than "
            f"a tenth of the gray levels: most values are from {_shown(low)} to {_shown(high)}, but black is "
            f"{_shown(span[0])} and white {_shown(span[1])}; give --intensity {_suggested(name, low, high)}."
        )


def _flat_values(values: NDArray[np.float64], span: Range, clip: bool) -> Range | None:
    """The values that become almost one gray level in an image that uses few of the gray levels; None if it uses many.

    Not the distance of the extremes: a few hot pixels, or pixels without data, would hide that all others are black.
    """
    distinct = np.unique(values)
    levels = np.floor((distinct - span[0]) / (span[1] - span[0]) * _LEVELS + 0.5)
    if clip:
        levels = np.clip(levels, 0, _LEVELS)
    used, starts, counts = np.unique(levels, return_index=True, return_counts=True)
    if len(used) >= _LEAST_USED * (_LEVELS + 1) or len(distinct) < 2 * len(used):
        return None
    first = last = int(counts.argmax())  # and the neighboring levels
    while first and used[first] - used[first - 1] <= 1:
        first -= 1
    while last + 1 < len(used) and used[last + 1] - used[last] <= 1:
        last += 1
    return float(distinct[starts[first]]), float(distinct[starts[last] + counts[last] - 1])


def _samples(source: ImageSource, selection: ChannelSelection | None) -> dict[str, list[_Sample]]:
    """The images of a sample that have more than 8 bits, by the type of their values."""
    samples: dict[str, list[_Sample]] = defaultdict(list)
    rows = source.sample_rows(_LOOKED_AT if selection is None else _LOOKED_AT_WHOLE)
    # The first of them are spaced evenly too, from the first image to the last.
    even = [*rows[::_SPREAD][: _SAMPLED_IMAGES - 1], *rows[-1:]]
    spread = list(dict.fromkeys([*even, *(row for start in range(_SPREAD) for row in rows[start::_SPREAD])]))
    for row in spread:
        try:
            if selection is None:
                image = source.wide(row)
                if image is None:
                    continue
                name = image.value_type
                if len(samples[name]) >= _SAMPLED_IMAGES:
                    continue
                stated, values = image.stated, image.sample()
            else:
                stored = source.stored(row)
                pixels = chosen_channels(stored, selection)
                name, stated, values = value_type(pixels.dtype), stored.stated, counted_values(pixels, stored.nodata)
        except UnreadableImage:
            continue
        if name in FULL_RANGES and len(values):
            some = values[:: max(1, len(values) // _SAMPLED_VALUES)].astype(np.float64)
            samples[name].append(_Sample(source.id(row), *_extremes(some), some, stated))
    return {name: images for name, images in sorted(samples.items()) if images}


def _extremes(values: NDArray[np.float64]) -> Range:
    """The smallest and largest value, without one in a thousand, and at least one, at either end."""
    left_out = max(1, len(values) // _OUTLIERS)
    if len(values) <= 2 * left_out:
        return float(values.min()), float(values.max())
    ordered = np.partition(values, (left_out, len(values) - 1 - left_out))
    return float(ordered[left_out]), float(ordered[-1 - left_out])


def _range(source: ImageSource, name: str, images: Sequence[_Sample], setting: str, with_channels: bool) -> Range:
    """Black and white of one type of values."""
    low, high = min(image.low for image in images), max(image.high for image in images)
    if setting == AUTO:
        stated = {image.stated for image in images}
        span = stated.pop() if len(stated) == 1 else None
        if span is not None and _fits(low, high, span):
            return span
        for span in _conventions(name):
            if _fits(low, high, span) and (_used(low, high, span) >= _LEAST_USED or span[1] <= 1):
                if span != FULL_RANGES[name]:
                    say_once(
                        f"{source.spec}: {name} values from {_shown(low)} to {_shown(high)} are read as gray levels from "
                        f"{range_text(*span)}; --intensity changes this."
                    )
                return span
        if name == "uint16":
            return FULL_RANGES[name]
        if with_channels:
            raise DataError(
                f"{source.spec}: {name} values from {_shown(low)} to {_shown(high)} have no common scale; give --intensity "
                "LOW:HIGH, the values that become 0 and 1 (--intensity 0:1 leaves them as they are)."
            )
    percentiles = [
        float(value) for value in np.percentile(np.concatenate([image.values for image in images]), PERCENTILES)
    ]
    low_value, high_value = _rounded(percentiles)
    if setting != PERCENTILE:
        say_once(
            f"{source.spec}: {name} values from {_shown(low)} to {_shown(high)} have no common scale; black is "
            f"{_shown(low_value)} and white {_shown(high_value)}, their {PERCENTILES[0]} and {PERCENTILES[1]} percentiles "
            f"in {counted(len(images), 'image')}. --intensity LOW:HIGH sets them."
        )
    return low_value, high_value


def _conventions(name: str) -> tuple[Range, ...]:
    """The ranges that values of a type usually have, the smallest first."""
    if name == FLOAT:
        return _FLOATS
    return (_BYTES,) if name == "int16" else (_BYTES, _WORDS, FULL_RANGES[name])


def _fits(low: float, high: float, span: Range) -> bool:
    slack = _OVERSHOOT * (span[1] - span[0])
    return low >= span[0] - slack and high <= span[1] + slack


def _used(low: float, high: float, span: Range) -> float:
    """The part of a range that lies between two values."""
    return (min(high, span[1]) - max(low, span[0])) / (span[1] - span[0])


def _rounded(percentiles: Sequence[float]) -> Range:
    """To four digits, outward; of one value only, a range that begins there."""
    low, high = percentiles
    if high <= low:
        return low, low + max(abs(low), 1.0)
    step = 10.0 ** (math.floor(math.log10(high - low)) - 3)
    digits = max(0, -math.floor(math.log10(step)))
    slack = 1e-3  # of a step: the rounding of float32
    return round(math.floor(low / step + slack) * step, digits), round(math.ceil(high / step - slack) * step, digits)


def _suggested(name: str, low: float, high: float) -> str:
    if name != FLOAT and low >= 0 and high > 0:
        return range_text(0, 2 ** int(high).bit_length() - 1)
    return range_text(*_rounded((min(low, 0.0), high) if 0 <= low < high else (low, high)))


def _shown(value: float) -> str:
    return f"{int(value):,}" if value.is_integer() and abs(value) < 1e15 else f"{value:.4g}"
