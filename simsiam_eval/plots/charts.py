"""Curves by epoch as a picture, drawn with Pillow alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from simsiam_eval.files.atomic import atomic_write

_WIDTH, _HEIGHT = 420, 280  # pixels of a panel's inside
_LEFT, _TOP, _GAP, _BOTTOM = 64, 56, 40, 48
_BLUE, _GRAY, _LIGHT = (16, 62, 122), (90, 90, 90), (225, 225, 225)
_FONT = 13


def draw_curves(path: Path, curves: Mapping[str, Sequence[float]], across: str, title: str) -> None:
    """Write one panel for each curve, side by side, as a PNG; values that are not finite leave a gap.

    Args:
        curves: what is drawn -> its value at 0, 1, ... of `across`.

    Raises:
        DataError: the file cannot be written.
    """
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(_FONT)
    step = _LEFT + _WIDTH + _GAP
    size = (max(step * len(curves), 24 + int(font.getlength(title))), _TOP + _HEIGHT + _BOTTOM)
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    draw.text((12, 8), title, "black", font)
    for number, (name, values) in enumerate(curves.items()):
        left = number * step + _LEFT
        low, high, ticks = round_ticks([value for value in values if math.isfinite(value)])
        draw.text((left, _TOP - 20), name, _GRAY, font)
        for tick in ticks:
            y = _TOP + _HEIGHT * (high - tick) / (high - low)
            draw.line((left, y, left + _WIDTH, y), _LIGHT)
            draw.text((left - 6, y), f"{tick:g}", _GRAY, font, anchor="rm")
        last = max(len(values) - 1, 1)
        for tick in _steps(len(values) - 1):
            x = left + _WIDTH * tick / last
            draw.text((x, _TOP + _HEIGHT + 6), str(tick), _GRAY, font, anchor="ma")
        draw.text((left + _WIDTH / 2, _TOP + _HEIGHT + 24), across, _GRAY, font, anchor="ma")
        points = [
            (left + _WIDTH * place / last, _TOP + _HEIGHT * (high - value) / (high - low))
            for place, value in enumerate(values)
            if math.isfinite(value)
        ]
        draw.line(points, _BLUE, 2)
        x, y = points[-1]
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), _BLUE)
    with atomic_write(path) as file:
        image.save(file, "PNG")


def _steps(last: int) -> list[int]:
    """Some five whole numbers from 0 to `last`, both shown.

    >>> _steps(99), _steps(100), _steps(3)
    ([0, 20, 40, 60, 80, 99], [0, 20, 40, 60, 80, 100], [0, 1, 2, 3])
    """
    ticks = [int(tick) for tick in round_ticks([0, max(last, 5)])[2]]
    step = ticks[1]
    return [*(tick for tick in ticks if tick <= last - step / 2), last]


def round_ticks(values: Sequence[float]) -> tuple[float, float, list[float]]:
    """Ends of an axis that holds the values, and its some five round numbers.

    >>> round_ticks([3.0, 97.0])
    (0.0, 100.0, [0.0, 20.0, 40.0, 60.0, 80.0, 100.0])
    """
    low, high = min(values), max(values)
    rough = (high - low or abs(high) or 1.0) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * one for one in (1, 2, 5, 10) if power * one >= rough * (1 - 1e-9))
    first, last = math.floor(low / step), max(math.ceil(high / step), math.floor(low / step) + 1)
    return first * step, last * step, [float(f"{number * step:.10g}") for number in range(first, last + 1)]
