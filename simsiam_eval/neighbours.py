"""Nearest neighbours (FAISS, exact) and the vote over them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_VOTE_ENTRIES = 1 << 24  # scores held at once: queries x classes, 128 MiB of float64


def l2_normalised(features: NDArray[np.floating]) -> NDArray[np.float32]:
    """Rows (N,D) scaled to length one, float32; a row of zeros stays zero (its similarity to all is 0)."""
    rows = np.ascontiguousarray(features, dtype=np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.where(lengths > 0, lengths, 1)).astype(np.float32, copy=False)


def search(
    bank: NDArray[np.floating], queries: NDArray[np.floating] | None, k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k most similar rows of `bank` (N,D) for each query (M,D) by cosine similarity, exactly.

    Args:
        queries: None searches the bank against itself with each row left out of its own neighbours.
        k: neighbours; more than there are gives all that there are.

    Returns:
        similarities (M,K) float32, descending, and rows of the bank (M,K) int64; K = min(k, N), or N-1 for the bank
        itself.

    Raises:
        ValueError: k < 1, an empty bank, different widths.
    """
    import faiss

    if k < 1 or len(bank) == 0 or (queries is not None and queries.shape[1] != bank.shape[1]):
        raise ValueError(f"cannot search {k} neighbours in a bank of shape {bank.shape}")
    bank = l2_normalised(bank)
    index = faiss.IndexFlatIP(bank.shape[1])
    index.add(bank)
    if queries is not None:
        similarities, rows = index.search(l2_normalised(queries), min(k, len(bank)))
        return similarities, rows
    k = min(k, len(bank) - 1)
    similarities, rows = index.search(bank, k + 1)
    own = rows == np.arange(len(bank))[:, None]
    own[~own.any(axis=1), -1] = True  # among exact copies the row itself may not be in the list: drop the last
    return similarities[~own].reshape(len(bank), k), rows[~own].reshape(len(bank), k)


def weighted_vote(
    similarities: NDArray[np.float32], labels: NDArray[np.int64], temperature: float, top: int = 5
) -> NDArray[np.int64]:
    """Classes ranked by the sum of exp(similarity / temperature) over their neighbours (Wu et al. 2018, InstDisc).

    Args:
        similarities: (M,K) of the neighbours.
        labels: (M,K) int64 of the neighbours, >= 0.
        temperature: T > 0.

    Returns:
        (M, top) int64, best class first; equal votes rank by the lower label, and -1 fills where fewer classes than
        `top` are among the neighbours (a class nobody voted for is not a guess).
    """
    classes, compact = np.unique(labels, return_inverse=True)
    compact = compact.reshape(labels.shape)
    # The query's largest similarity is subtracted: the same ranking, and no overflow at a small temperature.
    weights = np.exp((similarities - similarities.max(axis=1, keepdims=True)).astype(np.float64) / temperature)
    ranked = np.full((len(labels), top), -1, dtype=np.int64)
    step = max(1, _VOTE_ENTRIES // len(classes))
    for start in range(0, len(labels), step):
        rows = slice(start, start + step)
        votes = np.full((len(labels[rows]), len(classes)), -1.0)
        where = (np.arange(len(votes))[:, None], compact[rows])
        votes[where] = 0.0
        np.add.at(votes, where, weights[rows])
        order = np.argsort(-votes, axis=1, kind="stable")[:, :top]
        voted = np.take_along_axis(votes, order, axis=1) >= 0
        ranked[rows, : order.shape[1]] = np.where(voted, classes[order], -1)
    return ranked
