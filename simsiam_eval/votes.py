"""The vote of the nearest neighbours, for several k and temperatures from one search."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_ENTRIES = 1 << 24  # scores held at once: queries x classes, 128 MiB of float64


def votes(
    similarities: NDArray[np.float32],
    labels: NDArray[np.int64],
    ks: Sequence[int],
    temperature: float | None,
    top: int = 5,
) -> dict[int, NDArray[np.int64]]:
    """Classes ranked by the votes of the first k neighbours, for each k.

    Args:
        similarities: (M,K) of the neighbours, descending.
        labels: (M,K) int64 of the neighbours; one below 0 does not vote.
        ks: numbers of neighbours that vote; above K all do.
        temperature: T > 0 of the vote's weight exp(similarity / T) (Wu et al. 2018, InstDisc); None: one vote each.

    Returns:
        for each k (M, top) int64, best class first; equal votes rank by the lower label, and -1 fills where fewer
        classes than `top` are among the neighbours (a class nobody voted for is not a guess).
    """
    ranked = {k: np.full((len(labels), top), -1, dtype=np.int64) for k in ks}
    classes, compact = np.unique(labels, return_inverse=True)
    compact = compact.reshape(labels.shape)
    step = max(1, _ENTRIES // max(1, len(classes)))
    for start in range(0, len(labels), step):
        rows = slice(start, start + step)
        near, which = similarities[rows], compact[rows]
        weights = np.ones(near.shape)
        if temperature is not None and near.size:
            # The query's largest similarity is subtracted: the same ranking, and no overflow at a small temperature.
            weights = np.exp((near - near.max(axis=1, keepdims=True)).astype(np.float64) / temperature)
        scores = np.full((len(near), len(classes)), -1.0)
        done = 0
        for k in sorted(ranked):
            _add(scores, which[:, done:k], weights[:, done:k])
            done = k
            ranked[k][rows] = _best_first(scores, classes, top)
    return ranked


def weighted_vote(
    similarities: NDArray[np.float32], labels: NDArray[np.int64], temperature: float, top: int = 5
) -> NDArray[np.int64]:
    """`votes` of all neighbours at one temperature."""
    return votes(similarities, labels, (similarities.shape[1],), temperature, top)[similarities.shape[1]]


def _add(scores: NDArray[np.float64], which: NDArray[np.int64], weights: NDArray[np.float64]) -> None:
    """Add weights (M,k) to the scores (M,C) of classes `which` (M,k); -1 stands for no vote so far."""
    places = (np.arange(len(scores))[:, None] * scores.shape[1] + which).ravel()
    flat = scores.reshape(-1)
    flat[places] = np.maximum(flat[places], 0)
    np.add.at(flat, places, weights.ravel())  # one after the other, so that equal votes come out equal


def _best_first(scores: NDArray[np.float64], classes: NDArray[np.int64], top: int) -> NDArray[np.int64]:
    """One maximum after the other: argmax takes the first of equals, a partial sort any."""
    scores = scores.copy()
    scores[:, classes < 0] = -1
    ranked = np.full((len(scores), top), -1, dtype=np.int64)
    everyone = np.arange(len(scores))
    for place in range(min(top, len(classes))):
        best = scores.argmax(axis=1)
        ranked[:, place] = np.where(scores[everyone, best] >= 0, classes[best], -1)
        scores[everyone, best] = -1
    return ranked
