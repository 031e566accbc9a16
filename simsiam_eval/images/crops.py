"""RandomResizedCrop (Szegedy et al. 2015), drawn for a whole batch before any image is opened.

Used by pretraining and by the augmented views of extraction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from simsiam_eval.images.resize import resize

RATIO = (3 / 4, 4 / 3)  # smallest and largest width / height of a crop
_TRIES = 10  # as in torchvision

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Crops:
    """One crop for each of B images of any size; indexed by a slice or by row numbers.

    Attributes:
        area: (B,10) fraction of the image's area, per try.
        ratio: (B,10) width / height, per try.
        offset: (B,2) in [0,1): position among the possible tops and lefts.
    """

    area: Floats
    ratio: Floats
    offset: Floats

    def __len__(self) -> int:
        return len(self.offset)

    def __getitem__(self, rows: slice | Integers) -> Crops:
        return Crops(self.area[rows], self.ratio[rows], self.offset[rows])


def draw_crops(rng: np.random.Generator, count: int, min_area: float) -> Crops:
    """Crops for `count` images that cover from `min_area` to 1 of the area; equal for equal states of `rng`."""
    area = rng.uniform(min_area, 1, (count, _TRIES))
    ratio = np.exp(rng.uniform(math.log(RATIO[0]), math.log(RATIO[1]), (count, _TRIES)))
    return Crops(area, ratio, rng.random((count, 2)))


def crop_boxes(crops: Crops, heights: Integers | int, widths: Integers | int) -> Integers:
    """The crops in pixels, for images of the given sizes.

    Per image the first of ten tries that fits, else the largest central box with a permitted aspect ratio. All operations
    are correctly rounded, so an image has the same box alone and in any batch.

    Args:
        heights, widths: (B,) in pixels, or one number for all images.

    Returns:
        (B,4) int64: top, left, height, width.
    """
    count = len(crops)
    height, width = (np.broadcast_to(np.asarray(side, dtype=np.int64), (count,)) for side in (heights, widths))
    area = (height * width)[:, None] * crops.area
    w = np.rint(np.sqrt(area * crops.ratio)).astype(np.int64)
    h = np.rint(np.sqrt(area / crops.ratio)).astype(np.int64)
    fits = (w > 0) & (w <= width[:, None]) & (h > 0) & (h <= height[:, None])
    images = np.arange(count)
    first = fits.argmax(axis=1)
    any_fits = fits[images, first]
    low, high = RATIO
    largest_h = np.where(width < low * height, np.rint(width / low).astype(np.int64), height)
    largest_w = np.where(width > high * height, np.rint(height * high).astype(np.int64), width)
    h = np.where(any_fits, h[images, first], largest_h)
    w = np.where(any_fits, w[images, first], largest_w)
    room = np.stack([height - h, width - w], axis=1)
    corner = np.where(any_fits[:, None], np.floor(crops.offset * (room + 1)).astype(np.int64), room // 2)
    return np.concatenate([corner, h[:, None], w[:, None]], axis=1)


def crop_image(pixels: NDArray[Any], box: Sequence[int] | Integers, size: int, factor: int = 1) -> Tensor:
    """Crop and resize one decoded image (bilinear, antialiased), equal to torchvision's RandomResizedCrop on Pillow images
    to within one gray level (rarely two).

    Args:
        pixels: (H,W,C) uint8 or float32.
        box: top, left, height, width in pixels of the whole image.
        size: side S of the result.
        factor: how many times larger the whole image is than `pixels`.

    Returns:
        (C,S,S) of the same type.
    """
    return resize(pixels, [int(edge) / factor for edge in box], size, size).contiguous()
