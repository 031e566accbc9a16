"""Which encoder to load: a checkpoint, and what its file does not say. Does not import torch."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from simsiam_eval.encoders.architectures import ARCHITECTURES, BASIC, TrunkVariant
from simsiam_eval.errors import UsageError
from simsiam_eval.vocabulary import HUGGING_FACE, TIMM

# Attributes of a TrunkVariant that a user may choose.
VARIANT_OPTIONS = ("stem_stride", "stem_padding", "stem_pool", "stride_in_1x1", "output_stride")


@dataclass(frozen=True)
class EncoderChoice:
    """An encoder as a user names it; None where the file decides.

    Attributes:
        checkpoint: path of a file or folder, or `timm:NAME`, `timm:NAME@FILE`, `hf:FOLDER`.
        branch: which of several networks in the file, by one of the names that `inspect` lists.
        arch: architecture, where shapes fit several.
        channel_order: "rgb" or "bgr", in which the encoder was trained to take color channels.
        stem_stride, stem_padding, stem_pool, stride_in_1x1, output_stride: as in `TrunkVariant`.
        download: whether missing weights may be downloaded; otherwise nothing is.
    """

    checkpoint: str
    branch: str | None = None
    arch: str | None = None
    stem_stride: int | None = None
    stem_padding: int | None = None
    stem_pool: bool | None = None
    stride_in_1x1: bool | None = None
    output_stride: int | None = None
    channel_order: str | None = None
    download: bool = False

    @classmethod
    def of(cls, checkpoint: str | os.PathLike[str] | EncoderChoice) -> EncoderChoice:
        """The choice, or the checkpoint at a path with everything else left to the file."""
        return checkpoint if isinstance(checkpoint, EncoderChoice) else cls(os.fspath(checkpoint))

    @property
    def path(self) -> Path | None:
        """The file or folder that it names; None for `timm:NAME`, whose weights timm finds.

        >>> str(EncoderChoice("timm:resnet50@r50.pth").path), EncoderChoice("timm:resnet50").path
        ('r50.pth', None)
        """
        if self.checkpoint.startswith(TIMM):
            file = self.checkpoint.partition("@")[2]
            return Path(file).expanduser() if file else None
        return Path(self.checkpoint.removeprefix(HUGGING_FACE)).expanduser()

    @property
    def is_named(self) -> bool:
        """Whether it is `timm:NAME`, `timm:NAME@FILE` or `hf:FOLDER`, whose network is that of a library."""
        return self.checkpoint.startswith((TIMM, HUGGING_FACE))

    def reject_trunk_options(self) -> None:
        """Raise UsageError for an option that decides the trunk, which a library does."""
        for name in ("arch", *VARIANT_OPTIONS, "channel_order"):
            if getattr(self, name) is not None:
                raise UsageError(
                    f"--{name.replace('_', '-')} cannot be used with {self.checkpoint}, whose library decides the network."
                )

    def given_options(self) -> list[str]:
        """Those of VARIANT_OPTIONS that are given."""
        return [name for name in VARIANT_OPTIONS if getattr(self, name) is not None]

    def variant(self, recognized: TrunkVariant, arch: str) -> TrunkVariant:
        """The variant that was recognized in the checkpoint, with the options that were given in place of its values.

        Args:
            arch: architecture of the trunk.

        Raises:
            UsageError: an option has no meaning for this architecture.

        >>> EncoderChoice("a.pth", stem_padding=2).variant(TrunkVariant(stem_pool=True), "resnet18").stem_padding
        2
        """
        if self.output_stride not in (None, 8, 16, 32):
            raise UsageError(f"--output-stride must be 8, 16 or 32, got {self.output_stride}.")
        bottleneck_only = {
            "--stride-in-1x1": bool(self.stride_in_1x1),
            "--output-stride": self.output_stride in (8, 16),
        }
        for option, used in bottleneck_only.items():
            if used and ARCHITECTURES[arch][0] == BASIC:
                raise UsageError(f"{option} cannot be used with {arch}, which has no bottleneck blocks.")
        return replace(recognized, **{name: getattr(self, name) for name in self.given_options()})
