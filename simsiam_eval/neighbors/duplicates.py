"""Near-duplicates: pairs of rows with almost the same features, and the groups that the pairs form."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from simsiam_eval.features.rows import FeatureMatrix
from simsiam_eval.features.unit_length import l2_normalized

ROUNDING = 1e-6  # of a cosine in float32: equal rows must reach a threshold of 1
_BLOCK = 2048  # rows on each side of a product
_PENDING_PAIRS = 1 << 20  # pairs that are collected before they are joined

Pairs = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]


def pairs_above(
    bank: FeatureMatrix,
    queries: FeatureMatrix | None,
    threshold: float,
    device: torch.device | None = None,
) -> Iterator[Pairs]:
    """All pairs of rows whose cosine similarity is at least `threshold` (up to rounding), block by block.

    Args:
        bank: (N,D), and queries (M,D): arrays or FeatureRows; None: pairs within the bank, each once (first < second).

    Yields:
        first rows (of the bank), second rows (of the queries, or the bank), similarities.
    """
    device = device or torch.device("cpu")
    others = bank if queries is None else queries
    for start in range(0, len(bank), _BLOCK):
        rows = torch.from_numpy(l2_normalized(bank[start : start + _BLOCK])).to(device)
        for other_start in range(start if queries is None else 0, len(others), _BLOCK):
            other_rows = torch.from_numpy(l2_normalized(others[other_start : other_start + _BLOCK])).to(device)
            similarities = rows @ other_rows.T
            if queries is None and other_start == start:  # neither itself nor a pair twice: below any cosine
                similarities = similarities.triu(1) - torch.ones_like(similarities).tril(0) * 3
            near = (similarities >= threshold - ROUNDING).nonzero(as_tuple=True)
            if len(near[0]):
                first, second = (index.cpu().numpy() for index in near)
                yield first + start, second + other_start, similarities[near].cpu().numpy()


class Groups:
    """Connected components of rows 0..N-1 that are joined in pairs.

    Attributes:
        pairs: number of pairs joined.
        similarity: (N,) highest similarity among the pairs of each row, -1 for a row without one.
    """

    def __init__(self, count: int) -> None:
        self._component = np.arange(count)
        self._pending: list[NDArray[np.int64]] = []
        self.pairs = 0
        self.similarity = np.full(count, -1.0, dtype=np.float32)

    def join(self, first: NDArray[np.int64], second: NDArray[np.int64], similarities: NDArray[np.float32]) -> None:
        """Join pairs of rows, (P,) each."""
        self.pairs += len(first)
        for rows in (first, second):
            np.maximum.at(self.similarity, rows, similarities)
        edges = np.stack((self._component[first], self._component[second]))
        edges = edges[:, edges[0] != edges[1]]
        self._pending.append(np.unique(edges, axis=1))
        if sum(edges.shape[1] for edges in self._pending) > _PENDING_PAIRS:
            self._merge_pending()

    def _merge_pending(self) -> None:
        if not self._pending:
            return
        first, second = np.concatenate(self._pending, axis=1)
        self._pending = []
        count = len(self._component)
        graph = coo_matrix((np.ones(len(first), dtype=bool), (first, second)), shape=(count, count))
        self._component = connected_components(graph, directed=False)[1][self._component]

    def members(self) -> list[NDArray[np.int64]]:
        """The rows of each group of two or more; the group with the most similar pair first."""
        self._merge_pending()
        order = np.argsort(self._component, kind="stable")
        _, starts, counts = np.unique(self._component[order], return_index=True, return_counts=True)
        groups = [order[start : start + count] for start, count in zip(starts, counts, strict=True) if count > 1]
        return sorted(groups, key=lambda rows: (-float(self.similarity[rows].max()), int(rows[0])))
