"""The prediction for each image by the votes of its nearest neighbors, and who they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from simsiam_eval.features.arrays import as_labels, as_rows
from simsiam_eval.features.rows import FeatureMatrix
from simsiam_eval.neighbors.classify import without_own
from simsiam_eval.neighbors.exact import search_blocks
from simsiam_eval.neighbors.votes import vote_shares

if TYPE_CHECKING:
    from simsiam_eval.neighbors.approximate import NeighborIndex

_ENTRIES = 1 << 22  # shares held at once: queries x classes


@dataclass(frozen=True)
class Predictions:
    """Of M queries.

    Attributes:
        labels: (M,) int64 classes; -1 where no neighbor has a label.
        confidence: (M,) float32 share of the votes; 0 where there are none.
        neighbors: (M,K) int64 rows of the bank, the most similar first; -1 with similarity -inf where `own` left none.
        similarities: (M,K) float32 cosine similarities.
    """

    labels: NDArray[np.int64]
    confidence: NDArray[np.float32]
    neighbors: NDArray[np.int64]
    similarities: NDArray[np.float32]


def predict_by_neighbors(
    bank: FeatureMatrix,
    bank_labels: NDArray[np.int64],
    queries: FeatureMatrix | None,
    *,
    k: int = 20,
    temperature: float = 0.07,
    kept: int = 10,
    own: NDArray[np.int64] | None = None,
    device: torch.device | None = None,
    index: NeighborIndex | None = None,
) -> Predictions:
    """Weighted kNN votes, as `classify` with one k and temperature, with the share of the votes and the neighbors.

    Args:
        bank: (N,D) array or FeatureRows.
        bank_labels: (N,) int64; a row below 0 does not vote.
        queries: (M,D); None: the bank's own rows, each without itself.
        k: number of neighbors that vote.
        temperature: T > 0 of the weights exp(similarity / T).
        kept: number of neighbors returned.
        own: as of `classify`.
        device: where similarities are computed; default: the CPU.
        index: approximate index over the bank, of cosine similarity, to search instead.

    Raises:
        ValueError: as `search`.
        DataError: a feature is not finite.
    """
    bank, queries = as_rows(bank), None if queries is None else as_rows(queries)
    voting = VotingLabels(as_labels(bank_labels), k, temperature)
    searched = max(k, kept) + (own is not None)
    if index is None:
        blocks = search_blocks(bank, queries, searched, device=device)
    else:
        blocks = index.search_blocks(bank if queries is None else queries, searched, queries is None)
    labels, confidence, rows, similar = [], [], [], []
    for block, similarities, neighbors in blocks:
        if own is not None:
            similarities, neighbors = without_own(similarities, neighbors, own[block], searched - 1)
        rows.append(neighbors[:, :kept])
        similar.append(similarities[:, :kept])
        voted, share = voting.predicted(similarities, neighbors)
        labels.append(voted)
        confidence.append(share)
    return Predictions(
        np.concatenate(labels), np.concatenate(confidence), np.concatenate(rows), np.concatenate(similar)
    )


class VotingLabels:
    """The labels of a bank, which the nearest neighbors of queries vote with.

    Args:
        labels: (N,) int64; a row below 0 does not vote.
        k, temperature: as of `predict_by_neighbors`.
    """

    def __init__(self, labels: NDArray[np.int64], k: int, temperature: float) -> None:
        self._labels, self._k, self._temperature = labels, k, temperature
        self._classes = np.unique([-1, *np.unique(labels)])

    def predicted(
        self, similarities: NDArray[np.float32], neighbors: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The class (M,), -1 for none, and its share of the votes (M,), by the first k neighbors (M,K) of queries."""
        labels, confidence = np.full(len(neighbors), -1, np.int64), np.zeros(len(neighbors), np.float32)
        step = max(1, _ENTRIES // len(self._classes))
        for start in range(0, len(neighbors), step):
            part = slice(start, start + step)
            near = neighbors[part, : self._k]
            columns = np.searchsorted(self._classes, np.where(near < 0, -1, self._labels[near]))
            shares = vote_shares(similarities[part, : self._k], columns, len(self._classes), self._temperature)
            shares[:, self._classes < 0] = 0
            total, best = shares.sum(axis=1), shares.argmax(axis=1)
            confidence[part] = np.divide(shares.max(axis=1), total, out=np.zeros_like(total), where=total > 0)
            labels[part] = np.where(total > 0, self._classes[best], -1)
        return labels, confidence
