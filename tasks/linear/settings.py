"""Settings of `linear-eval`, and the protocol that they define."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

from simsiam_eval.commands.settings import may_change, option_name, setting
from simsiam_eval.encoders.settings import CHOICE_NAMES
from simsiam_eval.errors import UsageError
from simsiam_eval.extraction.settings import EvaluationSettings, ViewSettings
from simsiam_eval.linear.protocols import PROTOCOLS, SWEEP_FACTORS, LogisticProtocol, Protocol, SGDProtocol
from simsiam_eval.linear.schedule import SCHEDULES
from simsiam_eval.sources.spec import is_feature_file
from simsiam_eval.vocabulary import SCALINGS

_SGD_FIELDS, _LOGISTIC_FIELDS = ([field.name for field in fields(kind)] for kind in (SGDProtocol, LogisticProtocol))


def _preset(protocol: Protocol) -> dict[str, Any]:
    """A protocol's values, and None for the values of the other kind of protocol."""
    values = {field.name: getattr(protocol, field.name) for field in fields(protocol)}
    return {name: None for name in (*_SGD_FIELDS, *_LOGISTIC_FIELDS) if name not in values} | values


@dataclass(frozen=True, kw_only=True)
class LinearEvalSettings(EvaluationSettings, ViewSettings):
    """Train a linear classifier on frozen features of the training set and evaluate it on the test set.

    Several values of --lr, --weight-decay, --layer, --scaling or -C are a sweep: the best combination is chosen on a
    held-out part of the training set, retrained on all of it, and evaluated once on the test set.
    """

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {name: _preset(protocol) for name, protocol in PROTOCOLS.items()}
    SEVERAL_LAYERS = True
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
        "simsiam-code",
        choices=tuple(PRESETS),
        help="Protocol that sets the optimizer, learning rate, batch size and epochs.",
    )
    lars: bool | None = setting(
        by_preset=True, help="Use LARS (SGD wrapped in LARC with clipping off), like --lars of the reference."
    )
    lr: tuple[float, ...] | None = setting(
        by_preset=True,
        above=0,
        once=True,
        help="Learning rate per 256 images; the optimizer's is lr x batch size / 256. Comma-separated for a sweep.",
    )
    batch_size: int | None = setting(by_preset=True, at_least=1, help="Images per step.")
    epochs: int | None = setting(by_preset=True, at_least=1, help="Passes over the training features.")
    schedule: str | None = setting(
        by_preset=True,
        choices=tuple(SCHEDULES),
        help="Learning-rate schedule: cosine, or step (x0.1 at 60 % and 80 % of training).",
    )
    momentum: float | None = setting(by_preset=True, at_least=0, help="Momentum of SGD (less than 1).")
    weight_decay: tuple[float, ...] | None = setting(
        by_preset=True, at_least=0, once=True, help="Weight decay. Comma-separated for a sweep."
    )
    c: tuple[float, ...] | None = setting(
        by_preset=True,
        above=0,
        short="-C",
        once=True,
        help="Inverse regularization strength of logistic regression, as in scikit-learn. Comma-separated for a sweep.",
    )
    scaling: tuple[str, ...] = setting(
        by_preset=True,
        choices=SCALINGS,
        once=True,
        help="Scaling of the features: none, l2 (unit length), or standard (mean 0 and standard deviation 1 over the "
        "training images). Comma-separated for a sweep.",
    )
    sweep: bool = setting(False, help="Try 13 learning rates around --lr, from 1/1000 to 1000 times its value.")
    held_out: float = setting(
        0.1, above=0, help="Fraction of each training class held out to choose the best head of a sweep."
    )
    end_to_end: bool = setting(
        False, help="Run the frozen encoder on new random crops in every epoch, as the reference does (slow)."
    )
    per_layer: bool = setting(False, help="Train a head on each layer of the feature files, in one table row each.")
    fraction: tuple[float, ...] | None = setting(
        None,
        above=0,
        at_most=1,
        once=True,
        help="Fraction of the training images of each class to use. Comma-separated for several rows.",
    )
    shots: tuple[int, ...] | None = setting(
        None,
        at_least=1,
        once=True,
        help="Number of training images per class to use. Comma-separated for several rows.",
    )
    trials: int = setting(
        1, at_least=1, help="Number of seeds, starting at --seed; their mean and standard deviation are reported."
    )
    out: Path | None = setting(None, help="Folder for the record, confusion matrix, curves and trained head.")
    save_head: Path | None = setting(
        None, output=True, help="File for the trained head (.safetensors), to use with `predict`."
    )

    def check(self) -> None:
        super().check()
        if self.momentum is not None and self.momentum >= 1:
            raise UsageError(f"--momentum must be below 1, got {self.momentum}.")
        if self.held_out >= 1:
            raise UsageError(f"--held-out must be below 1, got {self.held_out}.")
        if self.seed + self.trials > 2**32:
            raise UsageError(f"--seed plus --trials must be at most 2^32, got {self.seed} and {self.trials}.")
        logistic = self.preset == "logistic"
        absent = [name for name, value in self.PRESETS[self.preset].items() if value is None]
        if given := [name for name in absent if getattr(self, name) is not None]:
            option = "-C" if given[0] == "c" else option_name(given[0])
            raise UsageError(f"{option} cannot be used with --preset {self.preset}.")
        if self.sweep and logistic:
            raise UsageError("--sweep cannot be used with --preset logistic, which sweeps -C.")
        if self.sweep and len(self.lr or ()) > 1:
            raise UsageError("--sweep requires a single --lr.")
        for name in ("views", "end_to_end"):
            if logistic and getattr(self, name):
                raise UsageError(f"{option_name(name)} cannot be used with --preset logistic, which has no epochs.")
        if self.end_to_end and self.views:
            raise UsageError("--end-to-end and --views cannot be combined.")
        if self.views and (self.per_layer or len(self.layer) > 1):
            raise UsageError("--views requires a single --layer and cannot be combined with --per-layer.")
        if self.end_to_end and (self.checkpoint is None or is_feature_file(self.train)):
            raise UsageError("--end-to-end requires --checkpoint, and images for --train.")
        if self.save_head is not None and self.several:
            raise UsageError(
                "--save-head saves a single head: use one --fraction or --shots, one trial, and no --per-layer."
            )

    def changed(self) -> list[str]:
        """Those of Settings, and --sweep, which changes the learning rate."""
        return [*super().changed(), *(["sweep"] if self.sweep else [])]

    @property
    def several(self) -> bool:
        """Whether there is more than one row of results."""
        return self.per_layer or self.trials > 1 or len(self.fraction or ()) + len(self.shots or ()) > 1

    def training_values(self) -> dict[str, Any]:
        """The values that the heads depend on, besides the features and the checkpoint."""
        other = {
            "out",
            "save_head",
            "workers",
            "max_unreadable",
            "strict",
            "train",
            "test",
            "checkpoint",
            *CHOICE_NAMES,
        }
        other |= may_change(type(self))
        return {name: value for name, value in self.to_dict().items() if name not in other}

    def linear_protocol(self) -> Protocol:
        """The preset, with the options that were given in place of its values."""
        names = _LOGISTIC_FIELDS if self.preset == "logistic" else _SGD_FIELDS
        values = {name: getattr(self, name) for name in names}
        if self.sweep:
            values["lr"] = tuple(values["lr"][0] * factor for factor in SWEEP_FACTORS)
        return replace(PROTOCOLS[self.preset], **values)
