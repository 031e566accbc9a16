"""Votes of the nearest neighbors for their classes, for several k from one search."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_ENTRIES = 1 << 22  # votes held at once: queries x classes, about 150 MiB


def votes(
    similarities: NDArray[np.float32],
    labels: NDArray[np.int64],
    ks: Sequence[int],
    temperature: float | None,
    top: int = 5,
) -> dict[int, NDArray[np.int64]]:
    """Classes ranked by the votes of the first k neighbors, for each k.

    Args:
        similarities: (M,K) of the neighbors, descending.
        labels: (M,K) int64 of the neighbors; one below 0 does not vote.
        ks: numbers of neighbors that vote; above K all do.
        temperature: T > 0 of the vote's weight exp(similarity / T) (Wu et al. 2018, InstDisc); None: one vote each.

    Returns:
        for each k (M, top) int64, best class first. Equal votes rank by the lower label; -1 fills the places of classes
        without a vote.
    """
    ranked = {k: np.full((len(labels), top), -1, dtype=np.int64) for k in ks}
    classes, class_index = np.unique(labels, return_inverse=True)
    class_index = class_index.reshape(labels.shape)
    step = max(1, _ENTRIES // max(1, len(classes)))
    for start in range(0, len(labels), step):
        block = slice(start, start + step)
        tally = _Tally(similarities[block], class_index[block], len(classes), temperature)
        for k in sorted(ranked):
            ranked[k][block] = _best_first(tally.of_first(k), classes, top)
    return ranked


def vote_shares(
    similarities: NDArray[np.float32], labels: NDArray[np.int64], classes: int, temperature: float | None
) -> NDArray[np.float32]:
    """Each class's share of the votes of all neighbors: (M, classes) float32, rows sum to 1.

    Args:
        similarities, labels, temperature: as of `votes`, with labels in 0..classes-1.

    Returns:
        the maximum of a row, the first of equals, is at the class that `votes` ranks first.
    """
    shares = np.empty((len(labels), classes), dtype=np.float32)
    step = max(1, _ENTRIES // max(1, classes))
    for start in range(0, len(labels), step):
        block = slice(start, start + step)
        logarithms = _Tally(similarities[block], labels[block], classes, temperature).of_first(labels.shape[1])
        best = logarithms.argmax(axis=1)
        weights = np.exp(logarithms - logarithms.max(axis=1, keepdims=True))
        of_block = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
        rounded = np.flatnonzero(of_block.argmax(axis=1) != best)  # logarithms that differ, but whose shares do not
        of_block[rounded, best[rounded]] = np.nextafter(of_block[rounded, best[rounded]], np.float32(1))
        shares[block] = of_block
    return shares


def weighted_vote(
    similarities: NDArray[np.float32], labels: NDArray[np.int64], temperature: float, top: int = 5
) -> NDArray[np.int64]:
    """`votes` of all neighbors at one temperature."""
    k = similarities.shape[1]
    return votes(similarities, labels, (k,), temperature, top)[k]


class _Tally:
    """Logarithms of the votes for each class, of a growing number of neighbors.

    Weights are relative to that of the class's own nearest neighbor, so that at a small temperature a class far behind
    keeps its rank: exp(similarity / T) itself would be 0 for all of them.
    """

    def __init__(
        self,
        similarities: NDArray[np.float32],
        class_index: NDArray[np.intp],
        classes: int,
        temperature: float | None,
    ) -> None:
        # -inf, where an index found no neighbor, has no difference to another -inf.
        self._similarities = np.maximum(similarities, np.finfo(np.float32).min)
        count = len(similarities)
        self._positions = np.arange(count)[:, None] * classes + class_index  # in the flattened (M,C)
        self._temperature, self._counted = temperature, 0
        self._sum = np.zeros((count, classes))
        self._nearest_of_class = np.full((count, classes), -np.inf, dtype=np.float32)
        self._nearest = self._similarities.max(axis=1, keepdims=True, initial=-np.inf)

    def of_first(self, k: int) -> NDArray[np.float64]:
        """(M,C) for the first k neighbors, at least as many as in the call before; -inf: no vote."""
        new = slice(self._counted, k)
        positions, similarities = self._positions[:, new].ravel(), self._similarities[:, new].ravel()
        self._counted = max(k, self._counted)
        nearest_of_class = self._nearest_of_class.reshape(-1)
        np.maximum.at(nearest_of_class, positions, similarities)
        weights = np.ones(len(positions))
        if self._temperature is not None:
            weights = np.exp((similarities.astype(np.float64) - nearest_of_class[positions]) / self._temperature)
        np.add.at(self._sum.reshape(-1), positions, weights)  # sequentially, so that equal votes have equal sums
        with np.errstate(divide="ignore"):
            logarithms = np.log(self._sum)
        if self._temperature is not None:
            behind = self._nearest_of_class.astype(np.float64) - self._nearest
            logarithms += np.where(self._sum > 0, behind, 0) / self._temperature
        return logarithms


def _best_first(scores: NDArray[np.float64], classes: NDArray[np.int64], top: int) -> NDArray[np.int64]:
    """The `top` best classes (M, top), one argmax after the other: it takes the first of equals, a partial sort any."""
    scores[:, classes < 0] = -np.inf
    ranked = np.full((len(scores), top), -1, dtype=np.int64)
    queries = np.arange(len(scores))
    for rank in range(min(top, len(classes))):
        best = scores.argmax(axis=1)
        ranked[:, rank] = np.where(scores[queries, best] > -np.inf, classes[best], -1)
        scores[queries, best] = -np.inf
    return ranked
