"""The random numbers of views, drawn for a whole batch before any image is touched.

Ranges and probabilities: RandomResizedCrop > affine > color jitter > grayscale > blur > flip, as in the reference; the
affine transform is for images that have a right way up, such as digits. Nothing here depends on the size of an image or
of a view, so that a process can draw for a whole batch and apply its share.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from simsiam_eval.images.crops import Crops, Floats, Integers, crop_boxes, draw_crops

if TYPE_CHECKING:
    from pretrain.settings import PretrainSettings

BRIGHTNESS, CONTRAST, SATURATION, HUE, NOTHING = range(5)
_BLUR_RADIUS = (0.1, 2.0)  # Pillow's radius: the standard deviation in pixels
_STRENGTH = 0.4  # of brightness, contrast and saturation


@dataclass(frozen=True)
class ViewParameters:
    """One view of each of B images. `parameters[a:b]` and `parameters[rows]` are the parameters of those images."""

    crops: Crops | None  # None: no crop, the whole image
    affine: (
        Floats | None
    )  # (B,5) degrees, shift right and down as shares of the side, scale, horizontal shear in degrees
    order: Integers  # (B,4) which of BRIGHTNESS, CONTRAST, SATURATION, HUE or NOTHING comes 1st, 2nd, ...
    factors: Floats  # (B,4) of brightness, contrast and saturation (1: no change); hue shift in turns
    gray: NDArray[np.bool_]  # (B,)
    blur: Floats  # (B,) radius in pixels; 0: none
    flip: NDArray[np.bool_]  # (B,)

    def __len__(self) -> int:
        return len(self.flip)

    def __getitem__(self, rows: slice | Integers) -> ViewParameters:
        arrays = {one.name: getattr(self, one.name) for one in fields(self)}
        taken: dict[str, Any] = {name: None if array is None else array[rows] for name, array in arrays.items()}
        return ViewParameters(**taken)


def draw(recipe: PretrainSettings, rng: np.random.Generator, count: int) -> ViewParameters:
    """Parameters of one view of `count` images, the same for the same state of `rng`.

    The jitter's hue is left out where its range is 0, as torchvision's ColorJitter leaves it out.
    """

    def uniform(low: float, high: float, *shape: int) -> Floats:
        return rng.uniform(low, high, (count, *shape))

    def chosen(probability: float) -> NDArray[np.bool_]:
        return rng.random(count) < probability

    affine = None
    crops = draw_crops(rng, count, recipe.crop_area) if recipe.crop_area < 1 else None
    if recipe.rotate or recipe.shift or recipe.zoom or recipe.shear:
        reach = np.array([recipe.rotate, recipe.shift, recipe.shift, recipe.zoom, recipe.shear])
        affine = [0, 0, 0, 1, 0] + reach * uniform(-1, 1, 5)
    order = np.argsort(rng.random((count, 4)), axis=1)
    if not recipe.jitter_hue:
        order[order == HUE] = NOTHING
    order[~chosen(recipe.jitter)] = NOTHING
    factors = [1, 1, 1, 0] + np.array([_STRENGTH, _STRENGTH, _STRENGTH, recipe.jitter_hue]) * uniform(-1, 1, 4)
    return ViewParameters(
        crops,
        affine,
        order,
        factors,
        gray=chosen(recipe.grayscale),
        blur=np.where(chosen(recipe.blur), uniform(*_BLUR_RADIUS), 0.0),
        flip=chosen(recipe.flip),
    )


def boxes(parameters: ViewParameters, heights: Integers | int, widths: Integers | int) -> Integers:
    """Where the views are cropped in images of the given sizes in pixels: (B,4) int64 of top, left, height, width.

    Args:
        heights, widths: (B,), or one number for all.
    """
    if parameters.crops is not None:
        return crop_boxes(parameters.crops, heights, widths)
    shape = (len(parameters),)
    high, wide = (np.broadcast_to(np.asarray(side, dtype=np.int64), shape) for side in (heights, widths))
    return np.stack([np.zeros_like(high), np.zeros_like(high), high, wide], axis=1)
