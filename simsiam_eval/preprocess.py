"""From a decoded image to what the encoder reads: resize, centre crop, scale, normalise."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as transforms

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """Short side to `resize` pixels (bilinear, antialiased, as Pillow does it), centre crop of `crop` pixels, then
    (x / 255 - mean) / std per channel. The defaults are the reference's test transform on ImageNet."""

    resize: int = 256
    crop: int = 224
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def pixels(self, image: Image) -> torch.Tensor:
        """RGB image -> (3,crop,crop) uint8."""
        image = transforms.resize(image, self.resize, InterpolationMode.BILINEAR)
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
        return cls(int(values["resize"]), int(values["crop"]), tuple(values["mean"]), tuple(values["std"]))


def preprocessing_for(
    stem: str, own: dict[str, Any] | None, resize: int | None = None, crop: int | None = None
) -> Preprocessing:
    """How the images of an encoder are prepared when the user says nothing else.

    Args:
        stem: imagenet (256 / 224 px) or cifar (32 px).
        own: what our own checkpoint recorded, which goes before the stem's default.
        resize, crop: what the user said, which goes before both; `crop` alone also sets `resize` in the protocol's
            proportion (256 / 224) for an ImageNet stem.
    """
    if own and own.get("preprocessing"):
        chosen = Preprocessing.from_dict(own["preprocessing"])
    else:
        chosen = Preprocessing() if stem == "imagenet" else Preprocessing(resize=32, crop=32)
    if crop is not None:
        chosen = replace(chosen, resize=round(crop * chosen.resize / chosen.crop), crop=crop)
    return chosen if resize is None else replace(chosen, resize=resize)
