"""Preprocess images for an encoder: decode, resize, center crop, scale, normalize."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
# A scaled image keeps at least this many times the resolution it is resized to (benchmarks/results/decode_agreement.md).
MARGIN = 2.0
_UNRECORDED = {"squash": False, "decode": "full", "interpolation": "bilinear", "channels": 3}  # left out of records
_STRIP = 8  # an image this many times longer than its crop is cropped before the resize, which may not fit into memory


def resize(
    pixels: NDArray[np.uint8], box: Sequence[float], height: int, width: int, interpolation: str = "bilinear"
) -> torch.Tensor:
    """Resize a part of an image (antialiased), equal to Pillow to within one gray level (rarely two).

    Done by torch in a fraction of Pillow's time. A box that lies between pixels, as after scaled decoding, is left to
    Pillow: an error of half a pixel would change features more than the scaling does.

    Args:
        pixels: (H,W,C) uint8; C is 1 or 3.
        box: top, left, height, width of the part, in pixels.
        interpolation: bilinear or bicubic.

    Returns:
        (C,height,width) uint8.
    """
    top, left, bottom, right = box[0], box[1], box[0] + box[2], box[1] + box[3]
    first_row, first_column = math.floor(top), math.floor(left)
    part = pixels[first_row : math.ceil(bottom), first_column : math.ceil(right)]
    if part.shape[:2] != (box[2], box[3]):
        edges = (left - first_column, top - first_row, right - first_column, bottom - first_row)
        return _pillow_resize(part, edges, height, width, interpolation)
    writable = np.require(part, requirements="W")  # torch warns about a read-only array
    image = torch.from_numpy(writable).permute(2, 0, 1)[None]
    return F.interpolate(image, (height, width), mode=interpolation, antialias=True)[0]


def _pillow_resize(
    pixels: NDArray[np.uint8], edges: tuple[float, float, float, float], height: int, width: int, interpolation: str
) -> torch.Tensor:
    """`edges`: left, top, right, bottom in pixels. Returns (C,height,width) uint8."""
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    resized = image.resize((width, height), Image.Resampling[interpolation.upper()], edges)
    return torch.from_numpy(np.array(resized).reshape(height, width, -1)).permute(2, 0, 1)


def _center_crop(image: torch.Tensor, side: int) -> torch.Tensor:
    """(C,H,W) -> (C,side,side), padded with black: torchvision's center_crop."""
    pad_y, pad_x = (max(0, side - length) for length in image.shape[1:])
    if pad_y or pad_x:
        image = F.pad(image, (pad_x // 2, (pad_x + 1) // 2, pad_y // 2, (pad_y + 1) // 2))
    top, left = (round((length - side) / 2) for length in image.shape[1:])
    return image[:, top : top + side, left : left + side]


@dataclass(frozen=True)
class Preprocessing:
    """Resize, center crop and normalize. The defaults are the reference's test transform on ImageNet.

    Attributes:
        resize: the short side in pixels after the resize (antialiased).
        crop: side of the center crop in pixels.
        mean, std: per channel; a pixel x becomes (x / 255 - mean) / std.
        squash: resize the whole image to a square of `crop` pixels instead, whatever its aspect ratio.
        decode: "full", or "scaled": a JPEG whose short side is at least 2 x MARGIN x `resize` pixels is decoded to a half,
            a quarter or an eighth of its sides, as long as they stay at least MARGIN x `resize`.
        interpolation: of the resize, "bilinear" or "bicubic".
        channels: C of the encoder's images: 3 for RGB, 1 for gray. Colors become gray before the resize, as in Pillow's mode
            "L" (ITU-R 601: 0.299 R + 0.587 G + 0.114 B); the values of gray images do not change.
    """

    resize: int = 256
    crop: int = 224
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    squash: bool = False
    decode: str = "full"
    interpolation: str = "bilinear"
    channels: int = 3

    def pixels(self, image: OpenedImage) -> torch.Tensor:
        """Image -> (C,crop,crop) uint8, equal to torchvision's Resize and CenterCrop to within one gray level (rarely two).

        Raises:
            UnreadableImage: it cannot be decoded.
            DataError: images do not have this number of channels.
        """
        short, target = min(image.height, image.width), self.crop if self.squash else self.resize
        if short < 1:
            raise UnreadableImage(f"no pixels ({image.height} x {image.width})")
        height, width = (int(target * side / short) for side in (image.height, image.width))
        if self.squash:
            height = width = target
        pixels, factor = image.reduced(short / (MARGIN * target) if self.decode == "scaled" else 1)
        pixels = self.in_channels(pixels)
        source_height, source_width = image.height / factor, image.width / factor
        # Images of the right size, such as CIFAR's: calling resize would take longer than the work.
        if pixels.shape[:2] == (height, width) == (self.crop, self.crop):
            return torch.from_numpy(np.require(pixels, requirements="W")).permute(2, 0, 1)
        if max(height, width) > _STRIP * max(self.crop, self.resize):
            resized = self._resize_strip(pixels, source_height, source_width, height, width)
        else:
            resized = resize(pixels, (0, 0, source_height, source_width), height, width, self.interpolation)
        return _center_crop(resized, self.crop)

    def in_channels(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(H,W,3) uint8, RGB, -> (H,W,C); pixels that have C channels already are returned as they are.

        Raises:
            DataError: as `require_images`.
        """
        self.require_images()
        if pixels.shape[2] == self.channels:
            return pixels
        return np.asarray(Image.fromarray(pixels).convert("L"))[:, :, None]

    def require_images(self) -> None:
        """Check that images can be prepared.

        Raises:
            DataError: the encoder takes neither gray nor RGB images.
        """
        if self.channels not in (1, 3):
            raise DataError(
                f"The encoder expects images of {self.channels} channels, but images are read as RGB (3 channels) or "
                "gray (1 channel); use an encoder of 1 or 3 channels."
            )

    def _resize_strip(
        self, pixels: NDArray[np.uint8], source_height: float, source_width: float, height: int, width: int
    ) -> torch.Tensor:
        """The part of the image, resized to (height, width), that the center crop keeps of its long side."""
        start = round((max(height, width) - self.crop) / 2)
        end = start + self.crop
        if height > width:
            top, bottom = start * source_height / height, end * source_height / height
            return _pillow_resize(pixels, (0.0, top, source_width, bottom), self.crop, width, self.interpolation)
        left, right = start * source_width / width, end * source_width / width
        return _pillow_resize(pixels, (left, 0.0, right, source_height), height, self.crop, self.interpolation)

    def normalize(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B,C,H,W) uint8 -> (B,C,H,W) float32 on the same device."""
        mean, std = (_by_channel(tuple(values), pixels.device) for values in (self.mean, self.std))
        return pixels.to(torch.float32, copy=True).div_(255).sub_(mean).div_(std)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as feature files and checkpoints record them.

        `squash`, `decode`, `interpolation` and `channels` are left out at their defaults, so that records made before these
        options existed compare equal.
        """
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return {name: value for name, value in values.items() if (name, value) not in _UNRECORDED.items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preprocessing:
        """What `to_dict` recorded.

        Raises:
            KeyError, TypeError, ValueError: a value is missing or impossible.
        """
        sides, colors = (int(values["resize"]), int(values["crop"])), (tuple(values["mean"]), tuple(values["std"]))
        if min(sides) < 1:
            raise ValueError(f"invalid sizes {sides}")
        interpolation = str(values.get("interpolation", "bilinear"))
        if interpolation not in ("bilinear", "bicubic"):
            raise ValueError(f"unknown interpolation {interpolation!r}")
        squash, decode = bool(values.get("squash", False)), str(values.get("decode", "full"))
        channels = int(values.get("channels", 3))
        if channels < 1:
            raise ValueError(f"invalid number of channels {channels}")
        return cls(*sides, *colors, squash, decode, interpolation, channels)


@cache
def _by_channel(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """(C,1,1); cached, because copying to a GPU would wait for it."""
    return torch.tensor(values, device=device).view(-1, 1, 1)


# `--transform`: the published test transforms by name, and one without a crop.
TRANSFORMS = {
    "imagenet": Preprocessing(),
    "cifar": Preprocessing(resize=32, crop=32),
    "squash": Preprocessing(resize=224, crop=224, squash=True),
}


def preprocessing_for(
    stem: str | None,
    metadata: dict[str, Any] | None,
    normalization: Mapping[str, Sequence[float]] | None = None,
    *,
    transform: str = "auto",
    resize: int | None = None,
    crop: int | None = None,
    decode: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    channels: int = 3,
) -> Preprocessing:
    """How the images of an encoder are prepared.

    Args:
        stem: "imagenet" (256 / 224 px) or "cifar" (32 px), the default; None as "imagenet".
        metadata: of a checkpoint written by `pretrain`, whose preprocessing overrides the default.
        normalization: `mean` and `std` that a checkpoint of another program states; override the default's.
        transform: a name in TRANSFORMS, which overrides sizes and decoding, but not the normalization; "auto": none.
        resize, crop, decode: override all; `crop` alone also sets `resize` in the same proportion.
        mean, std: override all; one value per channel, or one for all.
        channels: of the encoder's images; a default or stated mean of another number of channels is averaged over them.

    Raises:
        DataError: the checkpoint's preprocessing is damaged.
        UsageError: the crop is larger than the resized image, or `mean` or `std` has another number of values.
    """
    recorded = _recorded(metadata, required=transform == "auto")
    chosen = TRANSFORMS[transform] if transform != "auto" else recorded or TRANSFORMS[stem or "imagenet"]
    if recorded is not None:
        chosen = replace(chosen, mean=recorded.mean, std=recorded.std)
    elif normalization is not None:
        chosen = replace(chosen, mean=tuple(normalization["mean"]), std=tuple(normalization["std"]))
    mean_of_all, std_of_all = (_average(values, channels) for values in (chosen.mean, chosen.std))
    chosen = replace(chosen, channels=channels, mean=mean_of_all, std=std_of_all)
    if mean is not None:
        chosen = replace(chosen, mean=_per_channel("--mean", mean, channels))
    if std is not None:
        chosen = replace(chosen, std=_per_channel("--std", std, channels))
    if crop is not None:
        chosen = replace(chosen, resize=round(crop * chosen.resize / chosen.crop), crop=crop)
    if resize is not None:
        chosen = replace(chosen, resize=resize)
    if decode is not None:
        chosen = replace(chosen, decode=decode)
    if chosen.resize < chosen.crop and not chosen.squash:
        raise UsageError(f"--resize {chosen.resize} is smaller than --crop {chosen.crop}; expected at least the crop.")
    return chosen


def _recorded(metadata: dict[str, Any] | None, required: bool) -> Preprocessing | None:
    """The preprocessing in a checkpoint's metadata; None if there is none, or it is damaged and not `required`."""
    if not metadata or not metadata.get("preprocessing"):
        return None
    try:
        return Preprocessing.from_dict(metadata["preprocessing"])
    except (KeyError, TypeError, ValueError) as error:
        if not required:
            return None
        raise DataError(
            f"The preprocessing stored in the checkpoint cannot be used ({error}); choose one with --transform."
        ) from error


def _average(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    return values if len(values) == channels else (sum(values) / len(values),) * channels


def _per_channel(option: str, values: Sequence[float], channels: int) -> tuple[float, ...]:
    if len(values) not in (1, channels):
        expected = "one value" if channels == 1 else f"one value or {channels}, one per channel"
        raise UsageError(f"{option} must have {expected}, got {len(values)}.")
    return tuple(values) if len(values) == channels else tuple(values) * channels
