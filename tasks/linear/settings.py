"""Settings of `linear-eval`, and the recipes that they ask for."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from simsiam_eval.commands.settings import option_name, setting
from simsiam_eval.errors import UsageError
from simsiam_eval.extraction.settings import EvaluationSettings, is_feature_file

_SGD: dict[str, Any] = dict(lars=False, schedule="cosine", momentum=0.9, weight_decay=(0.0,), scaling=("none",), c=None)
_LARS = _SGD | {"lars": True}
_SWEPT = tuple(10 ** (power / 2) for power in range(-6, 7))  # times the lr


@dataclass(frozen=True, kw_only=True)
class LinearEvalSettings(EvaluationSettings):
    """Train a linear classifier on the frozen features of the training set and report it on the test set.

    Several values of --lr, --weight-decay, --layer, --scaling or -C are a sweep: the best is chosen on a part held out of
    the training set, refitted on all of it, and reported once on the test set.
    """

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "simsiam-code": {"lr": (0.1,), "batch_size": 4096, "epochs": 90} | _LARS,
        "simsiam-paper": {"lr": (0.02,), "batch_size": 4096, "epochs": 90} | _LARS,
        "moco-sgd": {"lr": (30.0,), "batch_size": 256, "epochs": 100} | _SGD | {"schedule": "step"},
        "dino": {"lr": (0.001,), "batch_size": 1024, "epochs": 100} | _SGD,
        # Not published: for sets of a few thousand images, where 90 epochs of one full batch are 90 steps.
        "small": {"lr": (10.0,), "batch_size": 256, "epochs": 100} | _LARS,
        "logistic": dict.fromkeys(("lr", "batch_size", "epochs", "lars", "schedule", "momentum", "weight_decay"))
        | {"c": (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3), "scaling": ("none",)},
    }
    ON_FILES, SEVERAL_LAYERS = frozenset({"layer", "views"}), True

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

    def recipes(self, layers: list[str], seed: int) -> tuple[Any, ...]:
        """Every combination of what may be given several times, once."""
        from simsiam_eval.linear.heads import HeadRecipe
        from simsiam_eval.linear.logistic import LogisticRecipe

        places = list(itertools.product(layers, self.scaling))
        if self.preset == "logistic":
            return tuple(LogisticRecipe(c, seed, layer, scaling) for layer, scaling in places for c in self.c or ())
        assert self.lr and self.epochs and self.batch_size and self.schedule and self.weight_decay
        assert self.lars is not None and self.momentum is not None
        rates = [self.lr[0] * factor for factor in _SWEPT] if self.sweep else self.lr
        return tuple(
            HeadRecipe(
                self.epochs, self.batch_size, lr, self.momentum, decay, self.lars, self.schedule, seed, layer, scaling
            )
            for layer, scaling in places
            for decay in self.weight_decay
            for lr in rates
        )
