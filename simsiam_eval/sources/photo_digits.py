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

from simsiam_eval.errors import UsageError
from simsiam_eval.sources.base import ArraySource
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
_TEXTURE = (3.0, 8.0)  # standard deviation of its gray levels
_MAX_MAGNIFICATION = 1.5  # of the differences within a background: a smooth one stays smooth
_SATURATION = 2.0  # factor of the difference between a background's mean color and its gray
_CONTRAST = (80.0, 120.0)  # of a digit, in gray levels; digits are lighter than their backgrounds
_TINT = 110.0  # largest change of each channel of a digit's color, before its gray level is restored
_GAIN = (0.7, 1.2)  # contrast of the whole image
_BRIGHTNESS = 25.0  # largest change, in gray levels
_BOLDNESS = 1.3  # factor of the digit's opacity, which is clipped at 1
_ORDER_SEED = 0  # of the digits; part of the dataset, not of a run
_ROWS_AT_ONCE = 512


@dataclass(frozen=True)
class Part:
    """What images are made of.

    Attributes:
        first, last: their digits, as positions in a random order of all 1,797.
        renderings: images of each digit.
        strips: of the photographs, from the left.
        seed: of the random numbers.
    """

    first: int
    last: int
    renderings: int
    strips: tuple[int, ...]
    seed: int


UNLABELED, TRAIN = "unlabeled", "train"
PARTS = {
    UNLABELED: Part(0, 1100, 3, (0, 2, 3, 5, 7, 8), seed=1),
    "val": Part(1100, 1397, 1, (1, 6), seed=2),
    "test": Part(1397, 1797, 1, (4, 9), seed=3),
}
SPLITS = (UNLABELED, TRAIN, "val", "test")
_TRAIN_DIGITS = 400  # the first digits of the unlabeled ones


def open_photo_digits(spec: str, options: Mapping[str, str], default_split: str | None = None) -> ArraySource:
    """The split unlabeled (1,100 digits, 3 images of each), train (400 of these images), val (297 images) or test (400).

    As in the semi-supervised protocols of ImageNet, all training images are there without labels, and a part of them with
    labels. No digit and no strip of a photograph is in two of unlabeled, val and test.

    Raises:
        UsageError: no split, or another one.
    """
    from sklearn.datasets import load_digits, load_sample_images

    split = split_among(SPLITS, options.get("split", default_split), spec)
    if split is None:
        raise UsageError(f"{spec}: the splits cannot be joined; choose one of {', '.join(SPLITS)}.")
    part = PARTS[UNLABELED if split == TRAIN else split]
    digits, photos = load_digits(), np.stack(load_sample_images().images)
    order = _random_order(digits.target)
    rows = np.repeat(np.sort(order[part.first : part.last]), part.renderings)
    rendering = np.arange(len(rows)) % part.renderings
    draws = _uniforms(part.seed, len(rows), _Draws.COLUMNS)
    pixels = np.concatenate(
        [
            _render(digits.images[rows[chunk]] / 16, photos, part.strips, _Draws(draws[chunk]))
            for chunk in np.split(np.arange(len(rows)), range(_ROWS_AT_ONCE, len(rows), _ROWS_AT_ONCE))
        ]
    )
    labels = np.full(len(rows), -1) if split == UNLABELED else digits.target[rows]
    if split == TRAIN:
        kept = (rendering == 0) & np.isin(rows, order[:_TRAIN_DIGITS])
        pixels, labels, rows, rendering = pixels[kept], labels[kept], rows[kept], rendering[kept]
    ids = [f"photo-digits/{row:04d}-{copy}" for row, copy in zip(rows, rendering, strict=True)]
    return ArraySource(spec, pixels, labels, [str(name) for name in digits.target_names], ids)


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
