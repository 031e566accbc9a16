"""Probes: recipes to choose from, rows for training and validation, and the best recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from simsiam_eval.errors import DataError
from simsiam_eval.features.splits import hold_out
from simsiam_eval.linear.protocols import HeadRecipe, Recipe
from simsiam_eval.linear.training import LabeledFeatures


@dataclass(frozen=True)
class Probe:
    """The recipes to choose from, of one kind and seed, and the training rows (M,) int64 (None: all)."""

    recipes: tuple[Recipe, ...]
    rows: NDArray[np.int64] | None = None

    def chooses(self, labels: NDArray[np.int64]) -> bool:
        """Whether there are several recipes, and a class with two images, one of which can be held out."""
        rows = slice(None) if self.rows is None else self.rows
        return len(self.recipes) > 1 and bool(np.bincount(labels[rows]).max() > 1)

    def split(self, train: LabeledFeatures, share: float) -> tuple[torch.Tensor, torch.Tensor] | None:
        """The rows to train candidates on and the held-out rows, by the recipes' seed; None where nothing is chosen."""
        labels = train.labels.cpu().numpy()
        if not self.chooses(labels):
            return None
        rows = np.arange(len(labels)) if self.rows is None else self.rows
        kept, held_out = hold_out(labels[rows], share, self.recipes[0].seed)
        return torch.from_numpy(rows[kept]).to(train.device), torch.from_numpy(rows[held_out]).to(train.device)

    def middle(self) -> int:
        """Index of the recipe to use where none can be chosen: the middle learning rate or C of the first layer, scaling
        and weight decay. For a sweep around a protocol's learning rate, and for `logistic`, that is the protocol's own
        rate and C = 1."""
        first = self.recipes[0].varied()
        fixed = [name for name in first if name not in ("lr", "c")]
        varied = [recipe.varied() for recipe in self.recipes]
        same = [index for index, values in enumerate(varied) if all(values[name] == first[name] for name in fixed)]
        return same[len(same) // 2]

    def rows_on(self, device: torch.device) -> torch.Tensor | None:
        return None if self.rows is None else torch.from_numpy(self.rows).to(device)

    def steps(self, labels: NDArray[np.int64]) -> int:
        """How often `fit_linear` reports progress."""
        chooses = self.chooses(labels)
        return (1 + chooses) * self.epochs if self.epochs else 1 + chooses * len(self.recipes)

    @property
    def epochs(self) -> int:
        """Of one training; 0 for logistic regression."""
        first = self.recipes[0]
        return first.epochs if isinstance(first, HeadRecipe) else 0


@dataclass(frozen=True)
class Candidate:
    """How a recipe's head does on the held-out rows; `top1` is None where it diverged."""

    recipe: Recipe
    top1: float | None
    loss: float

    def to_dict(self) -> dict[str, Any]:
        """As it stands in a record."""
        return self.recipe.varied() | {"held_out_top1": self.top1, "held_out_loss": self.loss}


def best_of(candidates: Sequence[Candidate]) -> Candidate:
    """The candidate with the highest accuracy, among equals the one with the smallest loss.

    Raises:
        DataError: all have diverged.
    """
    finite = [candidate for candidate in candidates if candidate.top1 is not None]
    if not finite:
        raise DataError("All candidate heads diverged. Try smaller learning rates (--lr).")
    return max(finite, key=lambda candidate: (candidate.top1 or 0.0, -candidate.loss))
