"""Preprocess images for an encoder: decode, resize, center crop, scale, normalize."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from simsiam_eval.errors import DataError, UsageError
from simsiam_eval.images.channels import ChannelSelection
from simsiam_eval.images.intensity import AUTO, Intensity
from simsiam_eval.images.opened import OpenedImage, UnreadableImage
from simsiam_eval.images.resize import center_crop, pillow_resize, resize
from simsiam_eval.vocabulary import IMAGENET_MEAN, IMAGENET_STD
from simsiam_eval.wording import counted

# A scaled image keeps at least this many times the resolution it is resized to (benchmarks/results/decode_agreement.md).
MARGIN = 2.0
# Left out of records at these values, so that records made before these options existed compare equal.
_UNRECORDED = {"squash": False, "decode": "full", "interpolation": "bilinear", "channels": 3, "selection": None,
               "intensity": {}}  # fmt: skip
_STRIP = 8  # an image this many times longer than its crop is cropped before the resize, which may not fit into memory


@dataclass(frozen=True)
class Preprocessing:
    """Resize, center crop and normalize. The defaults are the reference's test transform on ImageNet.

    Attributes:
        resize: the short side in pixels after the resize (antialiased).
        crop: side of the center crop in pixels.
        mean, std: per channel; a value x from 0 to 1 becomes (x - mean) / std.
        squash: resize the whole image to a square of `crop` pixels instead, whatever its aspect ratio.
        decode: "full", or "scaled": a JPEG whose short side is at least 2 x MARGIN x `resize` pixels is decoded to a half,
            a quarter or an eighth of its sides, as long as they stay at least MARGIN x `resize`.
        interpolation: of the resize, "bilinear" or "bicubic".
        channels: C of the encoder's images: 3 for RGB, 1 for gray. Colors become gray before the resize, as in Pillow's mode
            "L" (ITU-R 601: 0.299 R + 0.587 G + 0.114 B); the values of gray images do not change.
        selection: which channels of the images as they are stored these are; None: of 8-bit RGB or gray.
        intensity: which values of images of more than 8 bits are black and white.
        is_assumed: whether `mean` and `std` are neither those of the checkpoint nor given.
    """

    resize: int = 256
    crop: int = 224
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    squash: bool = False
    decode: str = "full"
    interpolation: str = "bilinear"
    channels: int = 3
    selection: ChannelSelection | None = None
    intensity: Intensity = Intensity()
    is_assumed: bool = field(default=False, compare=False)

    def pixels(self, image: OpenedImage) -> torch.Tensor:
        """Image -> (C,crop,crop), equal to torchvision's Resize and CenterCrop to within one gray level (rarely two).

        Args:
            image: RGB; with a `selection`, what the image source returns for it.

        Returns:
            `pixel_type`: uint8, or float32 that is scaled already.

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
        return center_crop(resized, self.crop)

    @property
    def pixel_type(self) -> torch.dtype:
        """Of prepared images, before the normalization: uint8 from 0 to 255, or float32 where channels are selected."""
        return torch.uint8 if self.selection is None else torch.float32

    def in_channels(self, pixels: NDArray[Any]) -> NDArray[Any]:
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
            DataError: the encoder takes neither gray nor RGB images and no channels are selected, or it is unknown how they
                are normalized.
        """
        if self.channels in (1, 3):
            return
        if self.selection is None:
            raise DataError(
                f"The encoder expects images of {self.channels} channels, but images are read as RGB (3 channels) or "
                f"gray (1 channel); give --channels {self.channels} for images that have {self.channels} channels, or the "
                "indices of the channels to use, such as --channels 0,1,2,7."
            )
        self.require_normalization()

    def require_normalization(self) -> None:
        """Check that the normalization of images of other than 1 or 3 channels is known. Raises DataError."""
        if self.is_assumed and self.channels not in (1, 3):
            raise DataError(
                f"The checkpoint does not say how its images of {self.channels} channels were normalized; give --mean and "
                f"--std, each with {self.channels} values or one for all (--mean 0 --std 1: not at all)."
            )

    def _resize_strip(
        self, pixels: NDArray[np.uint8], source_height: float, source_width: float, height: int, width: int
    ) -> torch.Tensor:
        """The part of the image, resized to (height, width), that the center crop keeps of its long side."""
        start = round((max(height, width) - self.crop) / 2)
        end = start + self.crop
        if height > width:
            top, bottom = start * source_height / height, end * source_height / height
            return pillow_resize(pixels, (0.0, top, source_width, bottom), self.crop, width, self.interpolation)
        left, right = start * source_width / width, end * source_width / width
        return pillow_resize(pixels, (left, 0.0, right, source_height), height, self.crop, self.interpolation)

    def normalize(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B,C,H,W) uint8, or float32 from 0 to 1, -> (B,C,H,W) float32 on the same device."""
        mean, std = (_by_channel(tuple(values), pixels.device) for values in (self.mean, self.std))
        values = pixels.to(torch.float32, copy=True)
        if pixels.dtype == torch.uint8:
            values = values.div_(255)
        return values.sub_(mean).div_(std)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as feature files and checkpoints record them."""
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        del values["is_assumed"]
        values["intensity"] = self.intensity.to_json()
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
        selection = None if values.get("selection") is None else ChannelSelection.from_dict(values["selection"])
        intensity = Intensity.from_json(values.get("intensity"))
        return cls(*sides, *colors, squash, decode, interpolation, channels, selection, intensity)


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
    selection: ChannelSelection | None = None,
    intensity: str | Intensity = AUTO,
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
        selection: the channels of the images that the encoder gets.
        intensity: the setting (auto keeps what the checkpoint records), or the values that are black and white.

    Raises:
        DataError: the checkpoint's preprocessing is damaged.
        UsageError: the crop is larger than the resized image, `mean` or `std` has another number of values, or the
            selection another number of channels.
    """
    if selection is not None and selection.number != channels:
        raise UsageError(
            f"--channels {selection.channels} gives {counted(selection.number, 'channel')}, but the encoder expects images "
            f"of {counted(channels, 'channel')}."
        )
    recorded = _recorded(metadata, required=transform == "auto")
    chosen = TRANSFORMS[transform] if transform != "auto" else recorded or TRANSFORMS[stem or "imagenet"]
    if recorded is not None:
        chosen = replace(chosen, mean=recorded.mean, std=recorded.std, intensity=recorded.intensity)
    elif normalization is not None:
        chosen = replace(chosen, mean=tuple(normalization["mean"]), std=tuple(normalization["std"]))
    stated = (recorded is not None or normalization is not None) and len(chosen.mean) == channels
    mean_of_all, std_of_all = (_average(values, channels) for values in (chosen.mean, chosen.std))
    chosen = replace(chosen, channels=channels, mean=mean_of_all, std=std_of_all, selection=selection)
    chosen = replace(chosen, is_assumed=not stated and (mean is None or std is None))
    if mean is not None:
        chosen = replace(chosen, mean=_per_channel("--mean", mean, channels))
    if std is not None:
        chosen = replace(chosen, std=_per_channel("--std", std, channels))
    if intensity != AUTO:
        given = intensity if isinstance(intensity, Intensity) else Intensity.parse(intensity)
        chosen = replace(chosen, intensity=given or Intensity())
    if crop is not None:
        chosen = replace(chosen, resize=round(crop * chosen.resize / chosen.crop), crop=crop)
    if resize is not None:
        chosen = replace(chosen, resize=resize)
    if decode is not None:
        chosen = replace(chosen, decode=decode)
    if selection is not None:
        if decode == "scaled":
            raise UsageError("--decode scaled cannot be used with --channels: it is a way of decoding JPEG to RGB.")
        chosen = replace(chosen, decode="full")
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
