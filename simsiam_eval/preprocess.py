"""From a decoded image to what the encoder reads: resize, centre crop, scale, normalise."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as transforms

if TYPE_CHECKING:
    from PIL.Image import Image

    from simsiam_eval.settings import FeatureSettings

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """Short side to `resize` pixels (bilinear, antialiased, as Pillow does it), centre crop of `crop` pixels, then
    (x / 255 - mean) / std per channel. The defaults are the reference's test transform on ImageNet. `squash`: the whole
    image is resized to the square instead, whatever its proportions."""

    resize: int = 256
    crop: int = 224
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    squash: bool = False

    def pixels(self, image: Image) -> torch.Tensor:
        """RGB image -> (3,crop,crop) uint8."""
        to: int | list[int] = [self.crop, self.crop] if self.squash else self.resize
        image = transforms.resize(image, to, InterpolationMode.BILINEAR)
        return transforms.pil_to_tensor(transforms.center_crop(image, [self.crop, self.crop]))

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B,3,H,W) uint8 -> (B,3,H,W) float32 on the same device."""
        mean = torch.tensor(self.mean, device=pixels.device).view(3, 1, 1)
        std = torch.tensor(self.std, device=pixels.device).view(3, 1, 1)
        return (pixels.float() / 255 - mean) / std

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as feature files and checkpoints record them."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preprocessing:
        sides, colours = (int(values["resize"]), int(values["crop"])), (tuple(values["mean"]), tuple(values["std"]))
        return cls(*sides, *colours, bool(values.get("squash", False)))


# `--transform`: the published test transforms by name, and one that cuts nothing off.
TRANSFORMS = {
    "imagenet": Preprocessing(),
    "cifar": Preprocessing(resize=32, crop=32),
    "squash": Preprocessing(resize=224, crop=224, squash=True),
}


def preprocessing_for(stem: str, own: dict[str, Any] | None, settings: FeatureSettings) -> Preprocessing:
    """How the images of an encoder are prepared.

    Args:
        stem: imagenet (256 / 224 px) or cifar (32 px): the default's.
        own: what our own checkpoint recorded, which goes before the stem's default.
        settings: `transform` goes before both, `resize` and `crop` before all; `crop` alone also sets `resize` in the
            same proportion.
    """
    if settings.transform != "auto":
        chosen = TRANSFORMS[settings.transform]
    elif own and own.get("preprocessing"):
        chosen = Preprocessing.from_dict(own["preprocessing"])
    else:
        chosen = TRANSFORMS[stem]
    if settings.crop is not None:
        chosen = replace(chosen, resize=round(settings.crop * chosen.resize / chosen.crop), crop=settings.crop)
    return chosen if settings.resize is None else replace(chosen, resize=settings.resize)
