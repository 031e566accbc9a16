"""The random parameters of views, drawn for a whole batch before any image is decoded.

RandomResizedCrop > affine > color jitter > grayscale > blur > flip, as in the reference; the affine transform is for images
with a fixed orientation, such as digits. Nothing depends on the size of images or views, so that every process can draw
for the whole batch and use its part.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from simsiam_eval.images.crops import Crops, Floats, Integers, crop_boxes, draw_crops

BRIGHTNESS, CONTRAST, SATURATION, HUE, NOTHING = range(5)
_BLUR_RADIUS = (0.1, 2.0)  # Pillow's radius: the standard deviation in pixels
_STRENGTH = 0.4  # of brightness, contrast and saturation


@dataclass(frozen=True)
class ViewRecipe:
    """Ranges and probabilities of the random parameters; the defaults change nothing.

    Attributes:
        crop_area: minimum share of the image's area in RandomResizedCrop; 1 for no crop.
        jitter, grayscale, blur, flip: probabilities.
        jitter_hue: range of the jitter's hue shift, in turns.
        rotate, shear: range in degrees.
        shift: range as a share of the side.
        zoom: range of the scale around 1.
    """

    crop_area: float = 1.0
    jitter: float = 0.0
    jitter_hue: float = 0.0
    grayscale: float = 0.0
    blur: float = 0.0
    flip: float = 0.0
    rotate: float = 0.0
    shift: float = 0.0
    zoom: float = 0.0
    shear: float = 0.0


@dataclass(frozen=True)
class ViewParameters:
    """One view of each of B images. `parameters[a:b]` and `parameters[rows]` are the parameters of those images.

    Attributes:
        crops: None for the whole image.
        affine: (B,5) rotation in degrees, shift right and down as shares of the side, scale, horizontal shear in degrees;
            None for no affine transform.
        order: (B,4) which of BRIGHTNESS, CONTRAST, SATURATION, HUE or NOTHING is first, second, third and fourth.
        factors: (B,4) factor of brightness, contrast and saturation (1: no change); hue shift in turns.
        gray: (B,) whether the image becomes gray.
        blur: (B,) radius in pixels; 0 for no blur.
        flip: (B,) whether the image is flipped horizontally.
    """

    crops: Crops | None
    affine: Floats | None
    order: Integers
    factors: Floats
    gray: NDArray[np.bool_]
    blur: Floats
    flip: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.flip)

    def __getitem__(self, rows: slice | Integers) -> ViewParameters:
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        selected: dict[str, Any] = {name: None if array is None else array[rows] for name, array in arrays.items()}
        return ViewParameters(**selected)


def draw(recipe: ViewRecipe, rng: np.random.Generator, count: int) -> ViewParameters:
    """Parameters of one view of `count` images, the same for the same state of `rng`.

    The jitter's hue is left out where its range is 0, as torchvision's ColorJitter leaves it out.
    """

    def uniform(low: float, high: float, *shape: int) -> Floats:
        return rng.uniform(low, high, (count, *shape))

    def happens(probability: float) -> NDArray[np.bool_]:
        return rng.random(count) < probability

    affine = None
    crops = draw_crops(rng, count, recipe.crop_area) if recipe.crop_area < 1 else None
    if recipe.rotate or recipe.shift or recipe.zoom or recipe.shear:
        ranges = np.array([recipe.rotate, recipe.shift, recipe.shift, recipe.zoom, recipe.shear])
        affine = [0, 0, 0, 1, 0] + ranges * uniform(-1, 1, 5)
    order = np.argsort(rng.random((count, 4)), axis=1)
    if not recipe.jitter_hue:
        order[order == HUE] = NOTHING
    order[~happens(recipe.jitter)] = NOTHING
    factors = [1, 1, 1, 0] + np.array([_STRENGTH, _STRENGTH, _STRENGTH, recipe.jitter_hue]) * uniform(-1, 1, 4)
    return ViewParameters(
        crops,
        affine,
        order,
        factors,
        gray=happens(recipe.grayscale),
        blur=np.where(happens(recipe.blur), uniform(*_BLUR_RADIUS), 0.0),
        flip=happens(recipe.flip),
    )


def boxes(parameters: ViewParameters, heights: Integers | int, widths: Integers | int) -> Integers:
    """The crops of the views in images of the given sizes in pixels.

    Args:
        heights, widths: (B,), or one number for all.

    Returns:
        (B,4) int64: top, left, height, width.
    """
    if parameters.crops is not None:
        return crop_boxes(parameters.crops, heights, widths)
    shape = (len(parameters),)
    h, w = (np.broadcast_to(np.asarray(side, dtype=np.int64), shape) for side in (heights, widths))
    return np.stack([np.zeros_like(h), np.zeros_like(h), h, w], axis=1)


class PerImage(NamedTuple):
    """What the steps of a view compute with: float32, one row per image.

    A jitter position is the first, second, third or fourth of the color jitter's steps. At each, an image is blended with
    black, its mean gray and each pixel's own gray (brightness, contrast, saturation; 1, 0, 0 leaves it as it is), or its
    hue is shifted.
    """

    blend_self: Tensor  # (n,4) by jitter position: parts of the image itself
    blend_mean_gray: Tensor  # (n,4)
    blend_own_gray: Tensor  # (n,4)
    takes_hue: Tensor  # (n,4) by jitter position: 1 where the hue is shifted, else 0
    hue_shift: Tensor  # (n,1) whole 1/256 turns in [0,256)
    takes_gray: Tensor  # (n,1)
    takes_flip: Tensor  # (n,1)
    blur_taps: Tensor  # (n,5) weights of one box blur
    affine: Tensor  # (n,6) rows of the inverse map, from the view's pixels to the image's


_WIDTHS = (4, 4, 4, 4, 1, 1, 1, 5, 6)  # of the fields


def pack(parameters: ViewParameters, size: int) -> NDArray[np.float32]:
    """(B,30): the columns of `PerImage` for views of `size` pixels a side, in one array, to be moved to a device at once."""
    order = parameters.order
    factors = np.concatenate([parameters.factors[:, :HUE], np.ones((len(order), 2))], axis=1)
    factors = np.take_along_axis(factors, order, axis=1)
    affine = np.zeros((len(order), 6)) if parameters.affine is None else _inverse_affine(parameters.affine, size)
    columns = {
        "blend_self": factors,
        "blend_mean_gray": (1 - factors) * (order == CONTRAST),
        "blend_own_gray": (1 - factors) * (order == SATURATION),
        "takes_hue": order == HUE,
        "hue_shift": np.trunc(parameters.factors[:, HUE:] * 255) % 256,
        "takes_gray": parameters.gray[:, None],
        "takes_flip": parameters.flip[:, None],
        "blur_taps": _box_taps(parameters.blur),
        "affine": affine,
    }
    return np.concatenate([columns[name] for name in PerImage._fields], axis=1, dtype=np.float32)


def unpack(packed: Tensor) -> PerImage:
    """The columns of `pack`, by name."""
    return PerImage(*packed.split(_WIDTHS, dim=1))


def _box_taps(radius: Floats) -> Floats:
    """(B,5) weights of the box that, applied three times, is Pillow's Gaussian (the extended box of Gwosdek et al. 2011)."""
    variance = (radius**2 / 3)[:, None]  # of one box
    whole = np.floor((np.sqrt(12 * variance + 1) - 1) / 2)
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))
    taps: Floats = np.clip(whole + part + 1 - np.abs(np.arange(-2, 3)), 0, 1) / (2 * (whole + part) + 1)
    return taps


def _inverse_affine(affine: Floats, size: int) -> Floats:
    """(B,5) -> (B,6): rotation, shear and scale about the center, then the shift; from the view's pixels to the image's."""
    angle, shear = np.radians(affine[:, 0]), np.tan(np.radians(affine[:, 4]))
    sine, cosine = np.sin(angle), np.cos(angle)
    linear = np.array([[cosine - sine * shear, cosine * shear + sine], [-sine, cosine]]) / affine[:, 3]
    linear = linear.transpose(2, 0, 1)
    shifted = size * (affine[:, 1:3] + 0.5)
    return np.concatenate([linear, size / 2 - linear @ shifted[:, :, None]], axis=2).reshape(-1, 6)
