"""The vote of the nearest neighbors, for several k and temperatures from one search."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_ENTRIES = 1 << 22  # votes held at once: queries x classes, some 150 MiB


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
        for each k (M, top) int64, best class first; equal votes rank by the lower label, and -1 fills where fewer
        classes than `top` are among the neighbors (a class nobody voted for is not a guess).
    """
    ranked = {k: np.full((len(labels), top), -1, dtype=np.int64) for k in ks}
    classes, compact = np.unique(labels, return_inverse=True)
    compact = compact.reshape(labels.shape)
    step = max(1, _ENTRIES // max(1, len(classes)))
    for start in range(0, len(labels), step):
        rows = slice(start, start + step)
        near, which = similarities[rows], compact[rows]
        cast = _Votes(near, which, len(classes), temperature)
        for k in sorted(ranked):
            ranked[k][rows] = _best_first(cast.of_first(k), classes, top)
    return ranked


def weighted_vote(
    similarities: NDArray[np.float32], labels: NDArray[np.int64], temperature: float, top: int = 5
) -> NDArray[np.int64]:
    """`votes` of all neighbors at one temperature."""
    return votes(similarities, labels, (similarities.shape[1],), temperature, top)[similarities.shape[1]]


class _Votes:
    """The logarithms of the votes for each class, of ever more neighbors.

    Weights are relative to that of the class's own nearest neighbor, so that at a small temperature a class far behind
    keeps its rank: exp(similarity / T) itself would be 0 for all of them.
    """

    def __init__(
        self, near: NDArray[np.float32], which: NDArray[np.intp], classes: int, temperature: float | None
    ) -> None:
        near = np.maximum(near, np.finfo(np.float32).min)  # -inf, where an index found no neighbor: no difference to it
        self._near, self._places = near, np.arange(len(near))[:, None] * classes + which
        self._temperature, self._done = temperature, 0
        self._sum = np.zeros((len(near), classes))
        self._lead = np.full((len(near), classes), -np.inf, dtype=np.float32)  # the class's highest similarity
        self._highest = near.max(axis=1, keepdims=True, initial=-np.inf)

    def of_first(self, k: int) -> NDArray[np.float64]:
        """(M,C) of the first k neighbors, more than before; -inf is no vote."""
        some = slice(self._done, k)
        places, near = self._places[:, some].ravel(), self._near[:, some].ravel()
        self._done = max(k, self._done)
        np.maximum.at(self._lead.reshape(-1), places, near)
        weights = np.ones(len(places))
        if self._temperature is not None:
            weights = np.exp((near.astype(np.float64) - self._lead.reshape(-1)[places]) / self._temperature)
        np.add.at(self._sum.reshape(-1), places, weights)  # one after the other, so that equal votes come out equal
        with np.errstate(divide="ignore"):
            logs = np.log(self._sum)
        if self._temperature is not None:
            logs += np.where(self._sum > 0, self._lead.astype(np.float64) - self._highest, 0) / self._temperature
        return logs


def _best_first(scores: NDArray[np.float64], classes: NDArray[np.int64], top: int) -> NDArray[np.int64]:
    """One maximum after the other: argmax takes the first of equals, a partial sort any."""
    scores[:, classes < 0] = -np.inf
    ranked = np.full((len(scores), top), -1, dtype=np.int64)
    everyone = np.arange(len(scores))
    for place in range(min(top, len(classes))):
        best = scores.argmax(axis=1)
        ranked[:, place] = np.where(scores[everyone, best] > -np.inf, classes[best], -1)
        scores[everyone, best] = -np.inf
    return ranked
