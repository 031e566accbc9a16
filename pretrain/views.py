"""The two random views of an image. Parameters are drawn first and applied second, so that each can be tested alone.

Order and ranges: RandomResizedCrop > colour jitter > greyscale > blur > flip, as the reference; the affine transform
(for images that have a right way up, such as digits) comes right after the crop.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import ImageFilter
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as transforms

if TYPE_CHECKING:
    from PIL.Image import Image

    from pretrain.recipe import PretrainSettings

_BILINEAR = InterpolationMode.BILINEAR
_STRENGTH = 0.4  # of brightness, contrast and saturation
_RATIO = (3 / 4, 4 / 3)
_BLUR_RADIUS = (0.1, 2.0)  # Pillow's radius: the standard deviation in pixels


@dataclass(frozen=True)
class View:
    """The drawn parameters of one view; None or False: that step is left out."""

    box: tuple[int, int, int, int] | None  # top, left, height, width in pixels
    affine: tuple[float, float, float, float, float] | None  # degrees, shift x and y in pixels, scale, shear degrees
    jitter: tuple[tuple[str, float], ...]  # in the order of application
    grey: bool
    blur: float | None
    flip: bool


def draw_box(rng: np.random.Generator, width: int, height: int, smallest: float) -> tuple[int, int, int, int]:
    """RandomResizedCrop's box (Szegedy et al. 2015): top, left, height, width.

    Area U(smallest, 1) of the image, aspect ratio log-uniform in [3/4, 4/3]; after ten boxes that do not fit, the
    largest central one of a permitted ratio.
    """
    for _ in range(10):
        area = width * height * rng.uniform(smallest, 1.0)
        ratio = math.exp(rng.uniform(math.log(_RATIO[0]), math.log(_RATIO[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    ratio = min(max(width / height, _RATIO[0]), _RATIO[1])
    w = min(width, round(height * ratio))
    h = min(height, round(w / ratio))
    return (height - h) // 2, (width - w) // 2, h, w


class Views:
    """Draws and applies views by the settings of a recipe."""

    def __init__(self, recipe: PretrainSettings) -> None:
        self.recipe = recipe

    def draw(self, rng: np.random.Generator, width: int, height: int) -> View:
        """Parameters of one view of an image of `width` x `height` pixels."""
        recipe = self.recipe
        box = draw_box(rng, width, height, recipe.crop_area) if recipe.crop_area < 1 else None
        affine = None
        if recipe.rotate or recipe.shift or recipe.zoom or recipe.shear:
            reach = recipe.shift * recipe.image_size
            affine = (
                rng.uniform(-recipe.rotate, recipe.rotate),
                rng.uniform(-reach, reach),
                rng.uniform(-reach, reach),
                rng.uniform(1 - recipe.zoom, 1 + recipe.zoom),
                rng.uniform(-recipe.shear, recipe.shear),
            )
        jitter: tuple[tuple[str, float], ...] = ()
        if rng.random() < recipe.jitter:
            factors = [
                (name, rng.uniform(1 - _STRENGTH, 1 + _STRENGTH)) for name in ("brightness", "contrast", "saturation")
            ]
            factors.append(("hue", rng.uniform(-recipe.jitter_hue, recipe.jitter_hue)))
            jitter = tuple(factors[place] for place in rng.permutation(4))
        return View(
            box,
            affine,
            jitter,
            grey=bool(rng.random() < recipe.greyscale),
            blur=rng.uniform(*_BLUR_RADIUS) if rng.random() < recipe.blur else None,
            flip=bool(rng.random() < recipe.flip),
        )

    def apply(self, image: Image, view: View) -> torch.Tensor:
        """RGB image -> the view, (3,S,S) uint8, by Pillow's operations as torchvision calls them."""
        size = [self.recipe.image_size, self.recipe.image_size]
        if view.box is not None:
            image = transforms.resized_crop(image, *view.box, size, _BILINEAR)
        else:
            image = transforms.resize(image, size, _BILINEAR)
        if view.affine is not None:
            degrees, right, down, scale, shear = view.affine
            image = transforms.affine(image, degrees, [right, down], scale, [shear, 0.0], _BILINEAR)  # type: ignore[list-item]
        for name, factor in view.jitter:
            image = _JITTER[name](image, factor)
        if view.grey:
            image = transforms.rgb_to_grayscale(image, 3)
        if view.blur is not None:
            image = image.filter(ImageFilter.GaussianBlur(view.blur))
        if view.flip:
            image = transforms.hflip(image)
        return transforms.pil_to_tensor(image)


_JITTER = {
    "brightness": transforms.adjust_brightness,
    "contrast": transforms.adjust_contrast,
    "saturation": transforms.adjust_saturation,
    "hue": transforms.adjust_hue,
}
