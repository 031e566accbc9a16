"""Settings that choose the encoder to load and say what its checkpoint does not. Imports no torch."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import ClassVar

from simsiam_eval.commands.fields import name_of, option_name
from simsiam_eval.commands.settings import Settings, setting
from simsiam_eval.encoders.choice import EncoderChoice
from simsiam_eval.vocabulary import CHANNEL_ORDERS


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointSettings(Settings):
    """For commands that load an encoder. Each declares the setting that names its checkpoint, a string, itself."""

    GROUPS: ClassVar[dict[str, str]] = {
        "encoder": "branch arch stem_stride stem_padding stem_pool stride_in_1x1 output_stride channel_order download"
    }
    CHECKPOINT: ClassVar[str] = "checkpoint"  # the setting that names the checkpoint
    ALSO_WITHOUT: ClassVar[frozenset[str]] = frozenset()  # options that have a meaning without a checkpoint

    branch: str | None = setting(
        None, help="Network to use from a checkpoint with several, by a name that `inspect` lists, such as teacher."
    )
    arch: str | None = setting(None, help="Architecture, for a checkpoint whose shapes fit several.")
    stem_stride: int | None = setting(
        None,
        at_least=1,
        at_most=16,
        help="Stride of the first convolution (default: as the checkpoint says, else 2 for 7x7 and 1 for 3x3).",
    )
    stem_padding: int | None = setting(
        None,
        at_least=0,
        at_most=16,
        help="Padding of the first convolution in pixels (default: as the checkpoint says, else 3 for 7x7 and 1 for 3x3).",
    )
    stem_pool: bool | None = setting(
        None,
        help="Max-pooling after the first convolution (default: as the checkpoint says, else on for 7x7, off for 3x3).",
    )
    stride_in_1x1: bool | None = setting(
        None,
        help="Bottleneck blocks have their stride in the first 1x1 convolution, as in Caffe, not in the 3x3 convolution "
        "(default: as the checkpoint says, else off).",
    )
    output_stride: int | None = setting(
        None,
        at_least=8,
        at_most=32,
        help="Total stride: 32, or 16 or 8 for encoders whose last one or two stages dilate their convolutions, as in "
        "segmentation networks (default: as the checkpoint says, else 32).",
    )
    channel_order: str | None = setting(
        None,
        choices=CHANNEL_ORDERS,
        help="Order of the color channels that the encoder was trained with (default: as the checkpoint says, else rgb). "
        "Encoders of Caffe, and many of detectron2, take bgr; their first convolution is reversed on loading, so images, "
        "--mean and --std are RGB.",
    )
    download: bool = setting(
        False,
        may_change=True,
        help="Allow the download of weights that are not on this machine. Otherwise nothing is downloaded.",
    )

    def check(self) -> None:
        super().check()
        if hasattr(self, self.CHECKPOINT) and not self.loads_checkpoint():
            names = [name for name in CHOICE_NAMES if name not in self.ALSO_WITHOUT]
            self.reject_given(names, f"requires {option_name(self.CHECKPOINT)}")

    def inputs(self) -> list[tuple[str, str | Path]]:
        checkpoint = self._checkpoint()
        if checkpoint is None:
            return super().inputs()
        name = next(name_of(field) for field in dataclasses.fields(self) if field.name == self.CHECKPOINT)
        path = EncoderChoice(checkpoint).path
        others = [(option, value) for option, value in super().inputs() if option != name]
        return others if path is None else [*others, (name, path)]

    def loads_checkpoint(self) -> bool:
        """Whether a checkpoint is given."""
        return self._checkpoint() is not None

    def encoder_choice(self, checkpoint: str) -> EncoderChoice:
        """The encoder of a checkpoint, with the options."""
        return EncoderChoice(checkpoint, **{name: getattr(self, name) for name in CHOICE_NAMES})

    def given_encoder(self) -> EncoderChoice | None:
        """The encoder of the given checkpoint, with the options; None without a checkpoint."""
        checkpoint = self._checkpoint()
        return None if checkpoint is None else self.encoder_choice(checkpoint)

    def _checkpoint(self) -> str | None:
        checkpoint: str | None = getattr(self, self.CHECKPOINT, None)  # FeatureSettings alone has none
        return checkpoint


CHOICE_NAMES = tuple(field.name for field in dataclasses.fields(CheckpointSettings))
