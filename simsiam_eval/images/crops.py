"""RandomResizedCrop (Szegedy et al. 2015), drawn for many images at once before any of them is opened.

Shared by pretraining and by the augmented views of extraction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from simsiam_eval.images.preprocess import resize

RATIO = (3 / 4, 4 / 3)  # width / height of a crop
_TRIES = 10

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Crops:
    """One crop of each of B images of any size. `crops[a:b]` and `crops[rows]` are those of these images.

    Attributes:
        area: (B,10) share of the image's area, per try.
        ratio: (B,10) width / height, per try.
        offset: (B,2) in [0,1): which of the possible tops and lefts.
    """

    area: Floats
    ratio: Floats
    offset: Floats

    def __len__(self) -> int:
        return len(self.offset)

    def __getitem__(self, rows: slice | Integers) -> Crops:
        return Crops(self.area[rows], self.ratio[rows], self.offset[rows])


def draw_crops(rng: np.random.Generator, count: int, smallest: float) -> Crops:
    """Crops of `count` images, of shares of the area from `smallest` to 1; the same for the same state of `rng`."""
    area = rng.uniform(smallest, 1, (count, _TRIES))
    ratio = np.exp(rng.uniform(math.log(RATIO[0]), math.log(RATIO[1]), (count, _TRIES)))
    return Crops(area, ratio, rng.random((count, 2)))


def crop_boxes(crops: Crops, heights: Integers | int, widths: Integers | int) -> Integers:
    """The crops in images of the given sizes in pixels.

    Per image the first of ten tries that fits, else the largest central box of a permitted ratio. Only correctly rounded
    operations: an image has the same box alone as in any batch.

    Args:
        heights, widths: (B,), or one number for all.

    Returns:
        (B,4) int64: top, left, height, width.
    """
    count = len(crops)
    high, wide = (np.broadcast_to(np.asarray(side, dtype=np.int64), (count,)) for side in (heights, widths))
    area = (high * wide)[:, None] * crops.area
    w = np.rint(np.sqrt(area * crops.ratio)).astype(np.int64)
    h = np.rint(np.sqrt(area / crops.ratio)).astype(np.int64)
    fits = (w > 0) & (w <= wide[:, None]) & (h > 0) & (h <= high[:, None])
    images = np.arange(count)
    first = fits.argmax(axis=1)
    fitting = fits[images, first]
    low, most = RATIO
    h = np.where(fitting, h[images, first], np.where(wide < low * high, np.rint(wide / low).astype(np.int64), high))
    w = np.where(fitting, w[images, first], np.where(wide > most * high, np.rint(high * most).astype(np.int64), wide))
    room = np.stack([high - h, wide - w], axis=1)
    corner = np.where(fitting[:, None], np.floor(crops.offset * (room + 1)).astype(np.int64), room // 2)
    return np.concatenate([corner, h[:, None], w[:, None]], axis=1)


def crop_image(pixels: NDArray[np.uint8], box: Sequence[int] | Integers, size: int, factor: int = 1) -> Tensor:
    """Crop and resize one decoded image as torchvision's RandomResizedCrop does (bilinear, antialiased), to within one
    gray level (rarely two) of Pillow's.

    Args:
        pixels: (H,W,3) uint8.
        box: top, left, height, width in pixels of the whole image.
        size: side S of the result.
        factor: how many times larger than `pixels` the whole image is.

    Returns:
        (3,S,S) uint8.
    """
    return resize(pixels, [int(edge) / factor for edge in box], size, size).contiguous()
