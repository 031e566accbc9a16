"""`photo-digits`: scikit-learn's handwritten digits on backgrounds cut from its two sample photographs.

An image is a digit of random size, place and color on a random square of a photograph, with random brightness and contrast.
The colors vary more than the gray levels: a nearest neighbor of raw pixels is misled by them, while color jitter and random
grayscale teach an encoder to ignore them.
The images are the same on every machine: all random numbers come from the raw bits of PCG64, which NumPy does not change
between versions, and pixels from single additions and multiplications, which every processor rounds alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsiam_eval.sources.base import ArraySource, blocks
from simsiam_eval.sources.splits import split_among

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

SIDE = 32  # of an image, in pixels
STRIP = 64  # width of the vertical strips that a photograph is divided into; a background lies in one strip
_DIGIT = 8  # side of a stored digit
_DIGIT_SIDES = (24, 30)  # smallest and largest side of a drawn digit
_BACKGROUND_SIDES = (32, 64)  # smallest and largest side of a square of a photograph
_LUMA = (299, 587, 114)  # thousandths of red, green and blue in a gray level (ITU-R BT.601)
_GROUND = (80.0, 120.0)  # mean gray level of a background
_TEXTURE = (5.0, 14.0)  # standard deviation of its gray levels
_MAX_MAGNIFICATION = 1.5  # of the differences within a background: a smooth one stays smooth
_SATURATION = 3.0  # factor of the difference between a background's mean color and its gray
_CONTRAST = (60.0, 110.0)  # of a digit, in gray levels; digits are lighter than their backgrounds
_TINT = 120.0  # largest change of each channel of a digit's color, before its gray level is restored
_GAIN = (0.7, 1.2)  # contrast of the whole image
_BRIGHTNESS = 25.0  # largest change, in gray levels
_BOLDNESS = 1.3  # factor of the digit's opacity, which is clipped at 1
_ORDER_SEED = 0  # of the digits; part of the dataset, not of a run
_ROWS_AT_ONCE = 512


@dataclass(frozen=True)
class Part:
    """What the images of one split are made of.

    Attributes:
        first, last: its digits, as positions in a random order of all 1,797.
        renderings: images of each digit.
        strips: its strips of the photographs, from the left.
        seed: of its random numbers.
    """

    first: int
    last: int
    renderings: int
    strips: tuple[int, ...]
    seed: int


PARTS = {
    "train": Part(0, 1100, 2, (0, 2, 3, 5, 7, 8), seed=1),
    "val": Part(1100, 1397, 1, (1, 6), seed=2),
    "test": Part(1397, 1797, 1, (4, 9), seed=3),
}


def open_photo_digits(spec: str, options: Mapping[str, str], default_split: str | None = None) -> ArraySource:
    """The split train (1,100 digits, 2 images of each), val (297) or test (400), or all of them.

    No digit and no strip of a photograph is in two splits.

    Raises:
        UsageError: another split.
    """
    from sklearn.datasets import load_digits, load_sample_images

    split = split_among(tuple(PARTS), options.get("split", default_split), spec)
    digits, photos = load_digits(), np.stack(load_sample_images().images)
    order = _random_order(digits.target)
    pixels, labels, ids = [], [], []
    for part in [PARTS[split]] if split else PARTS.values():
        rows = np.sort(order[part.first : part.last])
        ids += [f"photo-digits/{row:04d}-{rendering}" for row in rows for rendering in range(part.renderings)]
        rows = np.repeat(rows, part.renderings)
        labels.append(digits.target[rows])
        draws = _uniforms(part.seed, len(rows), _Draws.COLUMNS)
        for block in blocks(len(rows), _ROWS_AT_ONCE):
            inside = slice(block.start, block.stop)
            pixels.append(_render(digits.images[rows[inside]] / 16, photos, part.strips, _Draws(draws[inside])))
    names = [str(name) for name in digits.target_names]
    return ArraySource(spec, np.concatenate(pixels), np.concatenate(labels), names, ids)


def _random_order(labels: Integers) -> Integers:
    """The rows in a random order that has the same share of every class in each of its sections."""
    position = np.empty(len(labels))
    shuffled = np.argsort(_uniforms(_ORDER_SEED, len(labels)), kind="stable")
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        position[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.argsort(position, kind="stable")


def _uniforms(seed: int, *shape: int) -> Floats:
    """Uniform numbers in [0, 1)."""
    raw: Any = np.random.PCG64(seed).random_raw(int(np.prod(shape)))
    numbers: Floats = ((raw >> np.uint64(11)) * 2.0**-53).reshape(shape)
    return numbers


class _Draws:
    """Takes the columns of (n,COLUMNS) uniform numbers one after another."""

    COLUMNS = 16

    def __init__(self, uniforms: Floats) -> None:
        self._columns = iter(uniforms.T)
        self.count = len(uniforms)

    def uniform(self, low: float, high: float) -> Floats:
        """(n,1,1,1) numbers in [low, high)."""
        return (low + (high - low) * next(self._columns))[:, None, None, None]

    def integer(self, counts: Integers | int) -> Integers:
        """(n,) integers from 0 to `counts` - 1."""
        return (next(self._columns) * counts).astype(np.int64)


def _render(opacities: Floats, photos: NDArray[np.uint8], strips: tuple[int, ...], draws: _Draws) -> NDArray[np.uint8]:
    """(n,SIDE,SIDE,3) images of n digits.

    Args:
        opacities: (n,8,8) digits in [0, 1].
        photos: (2,H,W,3).
        strips: of the photographs that may be used.
    """
    squares = _squares(photos, strips, draws)
    mean = squares.sum(axis=(1, 2), dtype=np.int64)[:, None, None] / SIDE**2  # (n,1,1,3)
    ground = draws.uniform(*_GROUND)
    magnification = np.minimum(draws.uniform(*_TEXTURE) / _gray_deviation(squares), _MAX_MAGNIFICATION)
    background = ground + (mean - _gray(mean)) * _SATURATION + (squares - mean) * magnification
    opacity = np.minimum(_drawn(opacities, draws)[..., None] * _BOLDNESS, 1)
    tint = np.concatenate([draws.uniform(-_TINT, _TINT) for _ in range(3)], axis=3)
    ink = ground + draws.uniform(*_CONTRAST) + (tint - _gray(tint))
    image = background + (ink - background) * opacity
    image = (image - 128) * draws.uniform(*_GAIN) + 128 + draws.uniform(-_BRIGHTNESS, _BRIGHTNESS)
    return np.floor(np.clip(image, 0, 255) + 0.5).astype(np.uint8)


def _gray(colors: Floats) -> Floats:
    """(...,3) -> (...,1) gray levels."""
    red, green, blue = (weight * colors[..., channel, None] for channel, weight in enumerate(_LUMA))
    gray: Floats = (red + green + blue) / 1000
    return gray


def _gray_deviation(squares: NDArray[np.uint8]) -> Floats:
    """(n,SIDE,SIDE,3) -> (n,1,1,1) standard deviations of gray levels, computed from integers, at least 0.5."""
    gray = squares @ np.array(_LUMA, np.int64)  # (n,SIDE,SIDE), in thousandths
    count = SIDE**2
    variance = (count * (gray**2).sum(axis=(1, 2)) - gray.sum(axis=(1, 2)) ** 2) / (1000 * count) ** 2
    return np.sqrt(np.maximum(variance, 0.25))[:, None, None, None]


def _squares(photos: NDArray[np.uint8], strips: tuple[int, ...], draws: _Draws) -> NDArray[np.uint8]:
    """(n,SIDE,SIDE,3) squares of the photographs, resized by taking the nearest pixel."""
    smallest, largest = _BACKGROUND_SIDES
    photo = draws.integer(len(photos))
    strip = np.array(strips)[draws.integer(len(strips))]
    side = smallest + draws.integer(largest - smallest + 1)
    top = draws.integer(photos.shape[1] - side + 1)
    left = strip * STRIP + draws.integer(STRIP - side + 1)
    steps = (2 * np.arange(SIDE) + 1) * side[:, None] // (2 * SIDE)  # (n,SIDE)
    rows, columns = top[:, None] + steps, left[:, None] + steps
    squares: NDArray[np.uint8] = photos[photo[:, None, None], rows[:, :, None], columns[:, None, :]]
    return squares


def _drawn(digits: Floats, draws: _Draws) -> Floats:
    """(n,8,8) digits at a random size and place in (n,SIDE,SIDE), by bilinear interpolation, with 0 around them."""
    smallest, largest = _DIGIT_SIDES
    side = smallest + draws.integer(largest - smallest + 1)
    padded = np.pad(digits, ((0, 0), (1, 1), (1, 1)))

    def axis(start: Integers) -> tuple[Integers, Floats]:
        """For each pixel of a line, the padded pixel before it and how far it is behind that: (n,SIDE) each."""
        position = (np.arange(SIDE) - start[:, None] + 0.5) * _DIGIT / side[:, None] + 0.5
        before = np.clip(np.floor(position), 0, _DIGIT).astype(np.int64)
        return before, np.clip(position - before, 0, 1)

    top, down = axis(draws.integer(SIDE - side + 1))
    left, right = axis(draws.integer(SIDE - side + 1))
    image = np.arange(len(digits))[:, None, None]
    top, down, left, right = top[:, :, None], down[:, :, None], left[:, None], right[:, None]
    upper = padded[image, top, left] * (1 - right) + padded[image, top, left + 1] * right
    lower = padded[image, top + 1, left] * (1 - right) + padded[image, top + 1, left + 1] * right
    mixed: Floats = upper * (1 - down) + lower * down
    return mixed
