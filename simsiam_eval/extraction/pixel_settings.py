"""Settings of which pixels an encoder gets, and how they are normalized. Imports no torch."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

from simsiam_eval.commands.settings import Settings, option_name, setting
from simsiam_eval.errors import UsageError
from simsiam_eval.images.channels import ChannelSelection, channels_text
from simsiam_eval.images.intensity import AUTO, RULES, Intensity
from simsiam_eval.vocabulary import CHANNEL_AXES

if TYPE_CHECKING:
    from simsiam_eval.extraction.options import ExtractionOptions


def intensity_setting() -> Any:
    """--intensity of the commands that read images."""
    return setting(
        AUTO,
        help="Black and white of images of more than 8 bits, the same for all: auto (as the checkpoint or the files say, "
        "else the usual range that fits a sample of the images), dtype (0 to the maximum of the integer type, 0 to 1 for "
        "floats), LOW:HIGH such as 0:4095, or percentile (the 0.5 and 99.5 percentiles of a sample).",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class NormalizationSettings(Settings):
    """How pixels are normalized, where the checkpoint does not say it."""

    GROUPS: ClassVar[dict[str, str]] = {"preprocessing": "mean std"}

    mean: tuple[float, ...] | None = setting(
        None,
        help="Mean to subtract from pixels, as fractions of 1: comma-separated, one value per channel or one for all "
        "(default: as the checkpoint says, else ImageNet's; without a default for encoders of other than 1 or 3 channels).",
    )
    std: tuple[float, ...] | None = setting(
        None,
        above=0,
        help="Standard deviation to divide pixels by, in the format of --mean and with the same default.",
    )

    def check(self) -> None:
        super().check()
        if not self._has_scale():
            for name, least in (("mean", 0.0), ("std", None)):
                for value in getattr(self, name) or ():
                    self._reject_beyond_fractions(name, value, least)

    def _has_scale(self) -> bool:
        """Whether the scale of pixels is given, so that they may lie outside of 0 to 1."""
        return False

    def _reject_beyond_fractions(self, name: str, value: float, least: float | None) -> None:
        """A mean of 123.7 is one of values up to 255."""
        bound = "at most 1" if value > 1 else f"at least {least:g}" if least is not None and value < least else None
        if bound is not None:
            raise UsageError(f"{option_name(name)} must be {bound}, got {value}.")

    def extraction(self) -> ExtractionOptions:
        """The settings as ExtractionOptions."""
        from simsiam_eval.extraction.options import ExtractionOptions

        return ExtractionOptions(mean=self.mean, std=self.std)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PixelSettings(NormalizationSettings):
    """Adds which values are black and white, and which channels are used, for commands that compute features of images."""

    GROUPS: ClassVar[dict[str, str]] = {"preprocessing": "intensity channels channel_axis"}

    intensity: str = intensity_setting()

    channels: str | None = setting(
        None,
        help="Read images as they are stored, with these channels: their number, such as 4, or indices from 0, such as "
        "0,1,2,7 or 0-2,7 (3-3 for one). Default: images are converted to 8-bit RGB, or gray for an encoder of one channel.",
    )
    channel_axis: str | None = setting(
        None,
        choices=CHANNEL_AXES,
        help="With --channels, where the channels of arrays (.npy, HDF5) are: first (C,H,W) or last (H,W,C). Default: as "
        "the shape shows it; required where it fits both.",
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", channels_text(self.channels))
        super().__post_init__()

    def check(self) -> None:
        super().check()
        self.selection()
        if self.channels is None:
            self.reject_given(("channel_axis",), "requires --channels")
        Intensity.parse(self.intensity)

    def _has_scale(self) -> bool:
        return self.channels is not None and self.intensity not in RULES

    def selection(self) -> ChannelSelection | None:
        """The channels of the images that the encoder gets; None: 8-bit RGB or gray. Raises UsageError."""
        if self.channels is None:
            return None
        return ChannelSelection.parse(self.channels, self.channel_axis)

    def extraction(self) -> ExtractionOptions:
        return dataclasses.replace(super().extraction(), selection=self.selection(), intensity=self.intensity)
