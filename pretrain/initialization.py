"""The encoder that a run starts from instead of random weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from pretrain.model import SimSiam
from simsiam_eval.encoders.architectures import TrunkVariant, arch_text
from simsiam_eval.encoders.checkpoint import load_encoder
from simsiam_eval.encoders.choice import EncoderChoice
from simsiam_eval.encoders.notes import note_assumptions
from simsiam_eval.errors import UsageError
from simsiam_eval.vocabulary import IMAGENET_MEAN, IMAGENET_STD
from simsiam_eval.wording import counted


@dataclass(frozen=True)
class Start:
    """The encoder of a checkpoint.

    Attributes:
        source: where it comes from, for the checkpoints and the record of the run.
        variant: how its trunk differs from torchvision's, as from `TrunkVariant.to_dict`.
        weights: of the trunk, under torchvision's keys; empty in a resumed run, whose checkpoint has its own.
    """

    source: dict[str, Any]
    variant: dict[str, Any]
    weights: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def trunk_variant(self) -> TrunkVariant:
        return TrunkVariant.from_dict(self.variant)

    def initialize(self, model: SimSiam) -> None:
        """Give the trunk its weights; projector and predictor keep theirs."""
        for name, value in model.encoder.state_dict().items():
            if name in self.weights:
                value.copy_(self.weights[name])


def read_start(choice: EncoderChoice, arch: str, stem: str | None) -> Start:
    """The encoder of a checkpoint for a new run. What is assumed about it is printed, except the normalization: the run has
    its own.

    Raises:
        DataError: no encoder can be loaded.
        UsageError: it has another architecture or stem than the run, or does not take RGB images.
    """
    encoder, report = load_encoder(replace(choice, arch=None))
    if (report.arch, report.stem) != (arch, stem):
        if stem is None or report.stem is None:
            raise UsageError(f"--init {report.path} is a {report.arch}, but the run trains a {arch}; use its --arch.")
        raise UsageError(
            f"--init {report.path} is {arch_text(report.arch, report.stem)}, but the run trains {arch_text(arch, stem)}; "
            "use the --arch and --stem of the checkpoint."
        )
    if (channels := encoder.variant.channels) != 3:
        raise UsageError(
            f"--init {report.path} takes images of {counted(channels, 'channel')}, but pretrain trains on RGB images "
            "(3 channels)."
        )
    source: dict[str, Any] = {
        name: getattr(report, name) for name in ("path", "family", "branch", "epoch", "weights_sha256")
    }
    source["assumptions"] = note_assumptions(report, IMAGENET_MEAN, IMAGENET_STD)
    return Start(source, dict(report.variant), encoder.trunk.state_dict())


def saved_start(metadata: Mapping[str, Any]) -> Start | None:
    """The encoder that a run started from, as its checkpoint records it."""
    source = metadata.get("init")
    return Start(source, metadata.get("variant") or {}) if source else None
