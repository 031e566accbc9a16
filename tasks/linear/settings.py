"""Settings of `linear-eval`, and the recipes that they ask for."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

from simsiam_eval.commands.settings import option_name, setting
from simsiam_eval.errors import UsageError
from simsiam_eval.extraction.settings import EvaluationSettings, is_feature_file
from simsiam_eval.linear.protocols import PROTOCOLS, SWEEP_FACTORS, LogisticProtocol, Protocol, SGDProtocol

_SGD_FIELDS, _LOGISTIC_FIELDS = ([field.name for field in fields(kind)] for kind in (SGDProtocol, LogisticProtocol))


def _preset(protocol: Protocol) -> dict[str, Any]:
    """A protocol's values, and None for those of the other kind."""
    values = {field.name: getattr(protocol, field.name) for field in fields(protocol)}
    return {name: None for name in (*_SGD_FIELDS, *_LOGISTIC_FIELDS) if name not in values} | values


@dataclass(frozen=True, kw_only=True)
class LinearEvalSettings(EvaluationSettings):
    """Train a linear classifier on the frozen features of the training set and report it on the test set.

    Several values of --lr, --weight-decay, --layer, --scaling or -C are a sweep: the best is chosen on a part held out of
    the training set, refitted on all of it, and reported once on the test set.
    """

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {name: _preset(protocol) for name, protocol in PROTOCOLS.items()}
    ON_FILES, SEVERAL_LAYERS = frozenset({"layer", "views"}), True
    GROUPS: ClassVar[dict[str, str]] = {
        "data": "fraction shots",
        "optimization": "lars lr batch_size epochs schedule momentum weight_decay c",
        "sweep": "sweep held_out",
        "evaluation": "per_layer trials",
        "output": "out save_head",
    }
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "--train train.h5 --test test.h5 --save-head head.safetensors",
        "--checkpoint checkpoint.pth.tar --train folder:photos/train --test folder:photos/test --preset small",
    )

    preset: str = setting(
        "simsiam-code", choices=tuple(PRESETS), help="Protocol: whose optimizer, lr, batch and epochs."
    )
    lars: bool | None = setting(
        by_preset=True, help="LARS (the trust ratio of LARC, clip off) around SGD, as the reference's --lars."
    )
    lr: tuple[float, ...] | None = setting(
        by_preset=True,
        above=0,
        once=True,
        help="Learning rate per 256 images: the optimizer's is lr x batch / 256. Several: a sweep.",
    )
    batch_size: int | None = setting(by_preset=True, at_least=1, help="Images per step.")
    epochs: int | None = setting(by_preset=True, at_least=1, help="Passes over the training features.")
    schedule: str | None = setting(
        by_preset=True,
        choices=("cosine", "step"),
        help="Of the lr, once an epoch; step: a tenth from 60 %, 80 % of them.",
    )
    momentum: float | None = setting(by_preset=True, at_least=0, help="Momentum of SGD, below 1.")
    weight_decay: tuple[float, ...] | None = setting(
        by_preset=True, at_least=0, once=True, help="Weight decay (the protocols have none). Several: a sweep."
    )
    c: tuple[float, ...] | None = setting(
        by_preset=True,
        above=0,
        short="-C",
        once=True,
        help="Logistic regression's C: scikit-learn's, of the summed loss.",
    )
    scaling: tuple[str, ...] = setting(
        by_preset=True,
        choices=("none", "l2", "standard"),
        once=True,
        help="Of the features: as they are, every row to length one, or every feature to mean 0 and deviation 1 over the "
        "training images. Several: a sweep.",
    )
    sweep: bool = setting(False, help="Try the lr times 13 factors from 1/1000 to 1000 in half powers of ten.")
    held_out: float = setting(0.1, above=0, help="Share of the training set, class by class, by which a sweep chooses.")
    end_to_end: bool = setting(
        False, help="Train on new random crops in every epoch, through the encoder, as the reference does: slow."
    )
    per_layer: bool = setting(False, help="Probe every layer of the feature files, one row of the table each.")
    fraction: tuple[float, ...] | None = setting(
        None,
        above=0,
        at_most=1,
        once=True,
        help="Train on this share of every class's images only. Several: one row each.",
    )
    shots: tuple[int, ...] | None = setting(
        None, at_least=1, once=True, help="Train on so many images of every class only. Several: one row each."
    )
    trials: int = setting(1, at_least=1, help="Seeds, from --seed on, of which mean and standard deviation are given.")
    out: Path | None = setting(None, help="Folder for the record, confusion matrix, curves and trained head.")
    save_head: Path | None = setting(
        None, output=True, help="File (.safetensors) for the trained head, which `predict` reads."
    )

    def check(self) -> None:
        super().check()
        if self.momentum is not None and self.momentum >= 1:
            raise UsageError(f"--momentum must be below 1, got {self.momentum}.")
        if self.held_out >= 1:
            raise UsageError(f"--held-out must be below 1, got {self.held_out}.")
        if self.seed + self.trials > 2**32:
            raise UsageError(f"--seed {self.seed} leaves no room for {self.trials} --trials below 2^32.")
        logistic = self.preset == "logistic"
        foreign = [name for name, value in self.PRESETS[self.preset].items() if value is None]
        if given := [name for name in foreign if getattr(self, name) is not None]:
            name = "-C" if given[0] == "c" else option_name(given[0])
            raise UsageError(f"{name} has no meaning with --preset {self.preset}.")
        if self.sweep and (logistic or len(self.lr or ()) > 1):
            raise UsageError("--sweep spreads one --lr: give it without several --lr, and not with --preset logistic.")
        if logistic and (self.views or self.end_to_end):
            raise UsageError("--preset logistic has no epochs: --views and --end-to-end are not for it.")
        if self.end_to_end and self.views:
            raise UsageError("Give --views or --end-to-end, not both.")
        if self.views and (self.per_layer or len(self.layer) > 1):
            raise UsageError("--views are of one layer: give one --layer, and no --per-layer.")
        if self.end_to_end and (self.checkpoint is None or is_feature_file(self.train)):
            raise UsageError("--end-to-end needs --checkpoint, and images as --train.")
        if self.save_head is not None and self.several:
            raise UsageError(
                "--save-head saves one head: give one --fraction or --shots, one trial, and no --per-layer."
            )

    def changed(self) -> list[str]:
        """As Settings'; --sweep, which changes the lr, too."""
        return [*super().changed(), *(["sweep"] if self.sweep else [])]

    @property
    def several(self) -> bool:
        """Whether there is more than one row of results."""
        return self.per_layer or self.trials > 1 or len(self.fraction or ()) + len(self.shots or ()) > 1

    def linear_protocol(self) -> Protocol:
        """The preset with the options given in place of its values; --sweep spreads its learning rate."""
        names = _LOGISTIC_FIELDS if self.preset == "logistic" else _SGD_FIELDS
        values = {name: getattr(self, name) for name in names}
        if self.sweep:
            values["lr"] = tuple(values["lr"][0] * factor for factor in SWEEP_FACTORS)
        return replace(PROTOCOLS[self.preset], **values)
