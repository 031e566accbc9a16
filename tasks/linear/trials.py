"""The probes of a `linear-eval`: one setup per table row, and one trial per seed."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsiam_eval.features.splits import fraction_of, shots_of
from simsiam_eval.linear.data import ProbeData
from simsiam_eval.linear.protocols import Protocol
from simsiam_eval.linear.selection import Probe
from simsiam_eval.wording import counted


@dataclass(frozen=True)
class Subset:
    """The training images of every class: `shots` of them, a `fraction` of them, or all."""

    shots: int | None = None
    fraction: float | None = None

    def rows(self, labels: NDArray[np.int64], seed: int, class_names: Sequence[str]) -> NDArray[np.int64] | None:
        """Rows drawn by the seed; None for all.

        Raises:
            DataError: a class has too few images.
        """
        if self.shots is not None:
            return shots_of(labels, self.shots, seed, class_names)
        if self.fraction is not None:
            return fraction_of(labels, self.fraction, seed, class_names)
        return None

    def __str__(self) -> str:
        if self.shots is not None:
            return counted(self.shots, "image")
        return "all" if self.fraction is None else f"{100 * self.fraction:g} %"


@dataclass(frozen=True)
class Setup:
    """What a row of the table is about.

    Attributes:
        layer: the layer, or the layers to choose from, separated by spaces.
        images: number of training images.
    """

    layer: str
    subset: Subset
    images: int

    def to_dict(self) -> dict[str, Any]:
        """As it stands in a record."""
        amounts = {"shots": self.subset.shots, "fraction": self.subset.fraction}
        given = {name: value for name, value in amounts.items() if value is not None}
        return {"layer": self.layer, **given, "images": self.images}


@dataclass(frozen=True)
class Trial:
    """One seed's probe of a setup."""

    setup: Setup
    probe: Probe


def trials_of(
    data: ProbeData, protocol: Protocol, subsets: Sequence[Subset], seeds: Iterable[int], per_layer: bool
) -> list[Trial]:
    """The trials of every layer (or of the choice among all layers) and subset, by seed.

    Raises:
        DataError: a class has too few images for a subset.
    """
    labels = data.train.labels.cpu().numpy()
    groups = [[layer] for layer in data.train.layers] if per_layer else [list(data.train.layers)]
    trials = []
    for layers, subset, seed in itertools.product(groups, subsets or [Subset()], seeds):
        rows = subset.rows(labels, seed, data.class_names)
        setup = Setup(" ".join(layers), subset, len(labels) if rows is None else len(rows))
        trials.append(Trial(setup, Probe(protocol.recipes(seed, layers), rows)))
    return trials
