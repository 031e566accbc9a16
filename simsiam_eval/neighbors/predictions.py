"""The prediction for each image by the votes of its nearest neighbors, and who they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from simsiam_eval.features.arrays import as_labels, as_rows
from simsiam_eval.features.rows import FeatureMatrix
from simsiam_eval.neighbors.classify import without_own
from simsiam_eval.neighbors.exact import search_blocks
from simsiam_eval.neighbors.votes import vote_shares

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

    Raises:
        ValueError: as `search`.
        DataError: a feature is not finite.
    """
    bank, queries = as_rows(bank), None if queries is None else as_rows(queries)
    bank_labels = as_labels(bank_labels)
    classes = np.unique([-1, *np.unique(bank_labels)])
    searched = max(k, kept) + (own is not None)
    labels, confidence, rows, similar = [], [], [], []
    for block, similarities, neighbors in search_blocks(bank, queries, searched, device=device):
        if own is not None:
            similarities, neighbors = without_own(similarities, neighbors, own[block], searched - 1)
        rows.append(neighbors[:, :kept])
        similar.append(similarities[:, :kept])
        step = max(1, _ENTRIES // len(classes))
        for start in range(0, len(neighbors), step):
            part = slice(start, start + step)
            voters = np.where(neighbors[part, :k] < 0, -1, bank_labels[neighbors[part, :k]])
            shares = vote_shares(similarities[part, :k], np.searchsorted(classes, voters), len(classes), temperature)
            shares[:, classes < 0] = 0
            total, best = shares.sum(axis=1), shares.argmax(axis=1)
            share = np.divide(shares.max(axis=1), total, out=np.zeros_like(total), where=total > 0)
            labels.append(np.where(total > 0, classes[best], -1))
            confidence.append(share)
    return Predictions(*map(np.concatenate, (labels, confidence, rows, similar)))
