"""Protocols of linear evaluation by name, and the recipes of their heads. Does not import torch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any

from simsiam_eval.vocabulary import SCALINGS, SCHEDULES

SWEEP_FACTORS = tuple(10 ** (power / 2) for power in range(-6, 7))  # of the learning rate
ONE_LAYER = ("features",)  # the layer's name where features come as one array


@dataclass(frozen=True)
class HeadRecipe:
    """How one head is trained by SGD, with or without LARS.

    Heads that differ only in `lr`, `weight_decay`, `layer` and `scaling` are trained together.

    Attributes:
        lr: learning rate per 256 images; the optimizer's is lr x batch_size / 256.
        seed: of the initial weights and of the order of the rows.
        layer, scaling: which features the head reads, and how they are scaled (`none`, `l2`, `standard`).
    """

    epochs: int
    batch_size: int
    lr: float
    momentum: float = 0.9
    weight_decay: float = 0.0
    lars: bool = True
    schedule: str = "cosine"
    seed: int = 0
    layer: str = ONE_LAYER[0]
    scaling: str = "none"

    def varied(self) -> dict[str, float | str]:
        """The values in which the heads of a sweep differ."""
        return {name: getattr(self, name) for name in ("lr", "weight_decay", "layer", "scaling")}


@dataclass(frozen=True)
class LogisticRecipe:
    """How one head is fitted by scikit-learn's LogisticRegression.

    Attributes:
        c: inverse strength of the L2 penalty on the weights; the loss is a sum over the images.
    """

    c: float
    seed: int = 0
    layer: str = ONE_LAYER[0]
    scaling: str = "none"

    def varied(self) -> dict[str, float | str]:
        """The values in which the heads of a sweep differ."""
        return {name: getattr(self, name) for name in ("c", "layer", "scaling")}


Recipe = HeadRecipe | LogisticRecipe


@dataclass(frozen=True)
class SGDProtocol:
    """Heads trained by SGD; with several values of `lr`, `weight_decay` or `scaling`, the best is chosen on held-out rows.

    The attributes are those of HeadRecipe.
    """

    lr: tuple[float, ...]
    batch_size: int
    epochs: int
    lars: bool = True
    schedule: str = "cosine"
    momentum: float = 0.9
    weight_decay: tuple[float, ...] = (0.0,)
    scaling: tuple[str, ...] = ("none",)

    def __post_init__(self) -> None:
        _check("lr", self.lr, above=0)
        _check("batch_size", (self.batch_size,), number=Integral, at_least=1)
        _check("epochs", (self.epochs,), number=Integral, at_least=1)
        _check("momentum", (self.momentum,), at_least=0, below=1)
        _check("weight_decay", self.weight_decay, at_least=0)
        _check("scaling", self.scaling, choices=SCALINGS)
        _check("schedule", (self.schedule,), choices=SCHEDULES)

    def recipes(self, seed: int = 0, layers: Sequence[str] = ONE_LAYER) -> tuple[HeadRecipe, ...]:
        """Every combination of layer, scaling, weight decay and learning rate, in this order."""
        return tuple(
            HeadRecipe(
                self.epochs, self.batch_size, lr, self.momentum, decay, self.lars, self.schedule, seed, layer, scaling
            )
            for layer, scaling, decay, lr in itertools.product(layers, self.scaling, self.weight_decay, self.lr)
        )


@dataclass(frozen=True)
class LogisticProtocol:
    """Logistic regression; with several values of `c` or `scaling`, the best is chosen on held-out rows."""

    c: tuple[float, ...]
    scaling: tuple[str, ...] = ("none",)

    def __post_init__(self) -> None:
        _check("c", self.c, above=0)
        _check("scaling", self.scaling, choices=SCALINGS)

    def recipes(self, seed: int = 0, layers: Sequence[str] = ONE_LAYER) -> tuple[LogisticRecipe, ...]:
        """Every combination of layer, scaling and C, in this order."""
        return tuple(
            LogisticRecipe(c, seed, layer, scaling)
            for layer, scaling, c in itertools.product(layers, self.scaling, self.c)
        )


def _check(
    name: str,
    values: Sequence[Any],
    *,
    number: Any = Real,
    above: float = -math.inf,
    at_least: float = -math.inf,
    below: float = math.inf,
    choices: Sequence[str] = (),
) -> None:
    """Raises ValueError for a value that no head can be trained with; NaN is one."""
    if not values:
        raise ValueError(f"{name} requires a value")
    for value in values:
        if choices:
            if value not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
        elif not isinstance(value, number) or isinstance(value, bool):
            raise ValueError(f"{name} must be {'an integer' if number is Integral else 'a number'}, got {value!r}")
        elif not value > above:
            raise ValueError(f"{name} must be above {above}, got {value}")
        elif not value >= at_least:
            raise ValueError(f"{name} must be at least {at_least}, got {value}")
        elif not value < below:
            raise ValueError(f"{name} must be below {below}, got {value}")


Protocol = SGDProtocol | LogisticProtocol

PROTOCOLS: Mapping[str, Protocol] = MappingProxyType(
    {
        "simsiam-code": SGDProtocol(lr=(0.1,), batch_size=4096, epochs=90),
        "simsiam-paper": SGDProtocol(lr=(0.02,), batch_size=4096, epochs=90),
        "moco-sgd": SGDProtocol(lr=(30.0,), batch_size=256, epochs=100, lars=False, schedule="step"),
        "dino": SGDProtocol(lr=(0.001,), batch_size=1024, epochs=100, lars=False),
        # Not published: for sets of a few thousand images, where 90 epochs of one full batch are 90 steps.
        "small": SGDProtocol(lr=(10.0,), batch_size=256, epochs=100),
        "logistic": LogisticProtocol(c=(1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3)),
    }
)
