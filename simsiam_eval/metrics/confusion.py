"""Which classes were taken for which: counts of the pairs that occur, and accuracies per class."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_CLASSES = 1000  # with more, only the worst classes and pairs are listed and drawn
_WORST = 100


class Confusion:
    """The confusion of C classes, in memory that grows with the number of images and not with C x C.

    Args:
        labels, guesses: (N,) int64 true and predicted classes.
        class_names: C names.

    Attributes:
        images: N.
    """

    def __init__(self, labels: NDArray[np.int64], guesses: NDArray[np.int64], class_names: Sequence[str]) -> None:
        self.class_names, self.images = class_names, len(labels)
        pairs, self._counts = np.unique(labels * len(class_names) + guesses, return_counts=True)
        self._true, self._predicted = np.divmod(pairs, len(class_names))

    @cached_property
    def totals(self) -> NDArray[np.int64]:
        """Images of each class: (C,)."""
        return np.bincount(self._true, self._counts, len(self.class_names)).astype(np.int64)

    @cached_property
    def accuracies(self) -> NDArray[np.float64]:
        """Share of each class's images that was recognized: (C,), NaN for a class without images."""
        right = self._true == self._predicted
        correct = np.bincount(self._true[right], self._counts[right], len(self.class_names))
        return np.divide(correct, self.totals, out=np.full(len(correct), np.nan), where=self.totals > 0)

    def matrix(self, classes: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """How many images of class i were taken for class j: (C,C) int64, or the part of K `classes`: (K,K).

        >>> Confusion(np.array([0, 0, 1]), np.array([0, 1, 1]), "ab").matrix().tolist()
        [[1, 1], [0, 1]]
        """
        chosen = np.arange(len(self.class_names)) if classes is None else classes
        place = np.full(len(self.class_names), -1)
        place[chosen] = np.arange(len(chosen))
        rows, columns = place[self._true], place[self._predicted]
        inside = (rows >= 0) & (columns >= 0)
        matrix = np.zeros((len(chosen), len(chosen)), dtype=np.int64)
        matrix[rows[inside], columns[inside]] = self._counts[inside]
        return matrix

    def worst_pairs(self) -> list[dict[str, Any]]:
        """The errors that are most frequent, as in a record: at most 100."""
        return [
            {"true": self.class_names[self._true[at]], "predicted": self.class_names[self._predicted[at]]}
            | {"images": int(self._counts[at])}
            for at in self._worst_errors()[:_WORST]
        ]

    def worst_classes(self) -> dict[str, float]:
        """The classes with the lowest accuracies, of equals those with more images first: at most 100."""
        tested = np.flatnonzero(self.totals)
        order = tested[np.lexsort((-self.totals[tested], self.accuracies[tested]))][:_WORST]
        return {self.class_names[label]: float(self.accuracies[label]) for label in order}

    def classes_of_worst_pairs(self, count: int) -> NDArray[np.int64]:
        """At most `count` classes, sorted: those of the most frequent errors, and then the largest."""
        errors = self._worst_errors()
        ranked = np.stack([self._true[errors], self._predicted[errors]], axis=1).ravel()
        chosen = list(dict.fromkeys([*ranked[: 2 * count].tolist(), *np.argsort(-self.totals)[:count].tolist()]))
        return np.sort(chosen[:count])

    def _worst_errors(self) -> NDArray[np.int64]:
        """Indices of the pairs that are errors, the most frequent first."""
        errors = np.flatnonzero(self._true != self._predicted)
        return errors[np.argsort(-self._counts[errors], kind="stable")]
