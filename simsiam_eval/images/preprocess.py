"""From an image to what the encoder reads: decode, resize, center crop, scale, normalize."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from simsiam_eval.errors import DataError, UsageError
from simsiam_eval.images.decode import OpenedImage, UnreadableImage

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MARGIN = 2.0  # pixels a side of a scaled image to those asked of it, at least (benchmarks/results/decode_agreement.md)
_STRIP = 8  # a resized image this many times longer than its crop is cut first: it would not fit into memory


def resize(pixels: NDArray[np.uint8], box: Sequence[float], height: int, width: int) -> torch.Tensor:
    """A part of an image at another size: bilinear, antialiased, as Pillow does it to within one gray level (rarely two).

    By torch, in a fraction of Pillow's time; a box between pixels, as scaled decoding makes it, by Pillow: half a pixel off
    would move features more than the scale does.

    Args:
        pixels: (H,W,3) uint8.
        box: top, left, height, width of the part, in pixels.

    Returns:
        (3,height,width) uint8.
    """
    top, left, bottom, right = box[0], box[1], box[0] + box[2], box[1] + box[3]
    first, start = math.floor(top), math.floor(left)
    part = pixels[first : math.ceil(bottom), start : math.ceil(right)]
    if part.shape[:2] != (box[2], box[3]):
        edges = (left - start, top - first, right - start, bottom - first)
        return _pillow_resize(part, edges, height, width)
    writable = np.require(part, requirements="W")  # torch warns of an array that it could overwrite
    image = torch.from_numpy(writable).permute(2, 0, 1)[None]
    return F.interpolate(image, (height, width), mode="bilinear", antialias=True)[0]


def _pillow_resize(
    pixels: NDArray[np.uint8], edges: tuple[float, float, float, float], height: int, width: int
) -> torch.Tensor:
    """`edges`: left, top, right, bottom."""
    resized = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR, edges)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)


def _center(image: torch.Tensor, side: int) -> torch.Tensor:
    """(3,H,W) -> (3,side,side), black where there is no image: torchvision's center_crop."""
    high, wide = (max(0, side - length) for length in image.shape[1:])
    if high or wide:
        image = F.pad(image, (wide // 2, (wide + 1) // 2, high // 2, (high + 1) // 2))
    first, start = (round((length - side) / 2) for length in image.shape[1:])
    return image[:, first : first + side, start : start + side]


@dataclass(frozen=True)
class Preprocessing:
    """Short side to `resize` pixels (bilinear, antialiased), center crop of `crop` pixels, then (x / 255 - mean) / std per
    channel. The defaults are the reference's test transform on ImageNet.

    `squash`: the whole image is resized to the square instead, whatever its proportions.
    `decode`: full, or scaled: a JPEG whose short side is 2 x MARGIN x `resize` pixels or more is decoded to a half, a
    quarter or an eighth of its sides, as long as they stay MARGIN x `resize`.
    """

    resize: int = 256
    crop: int = 224
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    squash: bool = False
    decode: str = "full"

    def pixels(self, image: OpenedImage) -> torch.Tensor:
        """Image -> (3,crop,crop) uint8, within one gray level (rarely two) of torchvision's Resize and CenterCrop on PIL.

        Raises:
            UnreadableImage: it cannot be decoded.
        """
        short, wanted = min(image.height, image.width), self.crop if self.squash else self.resize
        if short < 1:
            raise UnreadableImage(f"no pixels: {image.height} x {image.width}")
        height, width = (int(wanted * side / short) for side in (image.height, image.width))
        if self.squash:
            height = width = wanted
        pixels, factor = image.reduced(short / (MARGIN * wanted) if self.decode == "scaled" else 1)
        high, wide = image.height / factor, image.width / factor
        # CIFAR's: the general way takes longer to be called.
        if pixels.shape[:2] == (height, width) == (self.crop, self.crop):
            return torch.from_numpy(np.require(pixels, requirements="W")).permute(2, 0, 1)
        if max(height, width) > _STRIP * max(self.crop, self.resize):
            resized = self._middle(pixels, high, wide, height, width)
        else:
            resized = resize(pixels, (0, 0, high, wide), height, width)
        return _center(resized, self.crop)

    def _middle(self, pixels: NDArray[np.uint8], high: float, wide: float, height: int, width: int) -> torch.Tensor:
        """The part of the resized image that the center crop takes of its long side."""
        first = round((max(height, width) - self.crop) / 2)
        last = first + self.crop
        if height > width:
            edges = (0.0, first * high / height, wide, last * high / height)
            return _pillow_resize(pixels, edges, self.crop, width)
        return _pillow_resize(pixels, (first * wide / width, 0.0, last * wide / width, high), height, self.crop)

    def normalize(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B,3,H,W) uint8 -> (B,3,H,W) float32 on the same device."""
        mean, std = (_by_channel(tuple(values), pixels.device) for values in (self.mean, self.std))
        return pixels.to(torch.float32, copy=True).div_(255).sub_(mean).div_(std)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as feature files and checkpoints record them; `squash` and `decode` only where they are not the
        defaults: so records from before there was a choice are equal to those of today."""
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return {
            name: value
            for name, value in values.items()
            if (name, value) not in (("squash", False), ("decode", "full"))
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preprocessing:
        sides, colors = (int(values["resize"]), int(values["crop"])), (tuple(values["mean"]), tuple(values["std"]))
        if min(sides) < 1:
            raise ValueError(f"impossible sides {sides}")
        return cls(*sides, *colors, bool(values.get("squash", False)), str(values.get("decode", "full")))


@cache
def _by_channel(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """(3,1,1); kept, since a GPU would be waited for."""
    return torch.tensor(values, device=device).view(3, 1, 1)


# `--transform`: the published test transforms by name, and one that cuts nothing off.
TRANSFORMS = {
    "imagenet": Preprocessing(),
    "cifar": Preprocessing(resize=32, crop=32),
    "squash": Preprocessing(resize=224, crop=224, squash=True),
}


def preprocessing_for(
    stem: str,
    own: dict[str, Any] | None,
    *,
    transform: str = "auto",
    resize: int | None = None,
    crop: int | None = None,
    decode: str | None = None,
) -> Preprocessing:
    """How the images of an encoder are prepared.

    Args:
        stem: imagenet (256 / 224 px) or cifar (32 px): the default's.
        own: what our own checkpoint recorded, which goes before the stem's default.
        transform: a name in TRANSFORMS, which goes before both; "auto": none.
        resize, crop, decode: go before all; `crop` alone also sets `resize` in the same proportion.

    Raises:
        DataError: what the checkpoint recorded cannot be used.
        UsageError: a crop larger than what it is cut from.
    """
    if transform != "auto":
        chosen = TRANSFORMS[transform]
    elif own and own.get("preprocessing"):
        try:
            chosen = Preprocessing.from_dict(own["preprocessing"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"The checkpoint's own preprocessing cannot be used ({error}): give --transform."
            ) from error
    else:
        chosen = TRANSFORMS[stem]
    if crop is not None:
        chosen = replace(chosen, resize=round(crop * chosen.resize / chosen.crop), crop=crop)
    if resize is not None:
        chosen = replace(chosen, resize=resize)
    if decode is not None:
        chosen = replace(chosen, decode=decode)
    if chosen.resize < chosen.crop and not chosen.squash:
        raise UsageError(f"--resize {chosen.resize} is smaller than --crop {chosen.crop}: give a larger one.")
    return chosen
