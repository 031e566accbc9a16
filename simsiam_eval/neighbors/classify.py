"""k-nearest-neighbor classification: one search, and a vote for each k and temperature."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from simsiam_eval.features.arrays import as_labels, as_rows
from simsiam_eval.neighbors.exact import search_blocks
from simsiam_eval.neighbors.votes import votes
from simsiam_eval.runtime.progress import say
from simsiam_eval.wording import counted

if TYPE_CHECKING:
    from simsiam_eval.neighbors.approximate import NeighborIndex

Pair = tuple[int, float | None]  # k and temperature; None: a majority vote


@dataclass(frozen=True)
class RankedClasses:
    """What `classify` predicts for M queries.

    Attributes:
        ranked: (k, temperature) -> (M, top) int64 labels, the best class first; -1 where fewer classes got a vote.
        nearest: (M,) float32 similarity of the nearest neighbor, -inf where there is none.
    """

    ranked: dict[Pair, NDArray[np.int64]]
    nearest: NDArray[np.float32]


def report_few_neighbors(ks: Iterable[int], available: int, name: str = "k", used: str = "all of them vote") -> None:
    """Say for which k fewer neighbors than k are available, and what is `used` instead."""
    for k in sorted({k for k in ks if k > available}):
        say(f"{name} = {k}: there {'is' if available == 1 else 'are'} only {counted(available, 'neighbor')}; {used}.")


def classify(
    bank: Any,
    bank_labels: Any,
    queries: Any | None,
    ks: Sequence[int],
    temperatures: Sequence[float | None],
    metric: str = "cosine",
    device: torch.device | None = None,
    *,
    top: int = 5,
    index: NeighborIndex | None = None,
    own: NDArray[np.int64] | None = None,
    after_block: Callable[[], None] | None = None,
) -> RankedClasses:
    """Rank the classes of the queries by the weighted vote of their nearest neighbors (InstDisc, Wu et al. 2018).

    Args:
        bank: (N,D) features: array, tensor or FeatureRows.
        bank_labels: (N,) integer labels; one below 0 does not vote.
        queries: (M,D) as the bank; None: the bank's own rows, each without itself.
        ks: numbers of neighbors; above the size of the bank all of them vote.
        temperatures: T > 0 of the weights exp(similarity / T); None: one neighbor, one vote.
        metric: "cosine" or "l2" (see `search`).
        device: where similarities are computed; default: the CPU.
        top: number of classes to rank.
        index: approximate index over the bank to search instead, with its own metric.
        own: (M,) the bank's row that is the query itself, which does not vote; -1 for none.
        after_block: called after every block of queries.

    Returns:
        the ranked classes of every pair of temperature and k, in that order.

    Raises:
        ValueError: k < 1, an empty bank, shapes that do not fit.
        DataError: a feature is not finite.

    >>> bank = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    >>> classify(bank, [4, 4, 7], [[0.1, 1.0]], ks=[1, 3], temperatures=[0.07], top=2).ranked[3, 0.07].tolist()
    [[7, 4]]
    """
    bank, bank_labels = as_rows(bank), as_labels(bank_labels)
    if bank_labels.shape != (len(bank),):
        raise ValueError(f"{len(bank)} bank rows need as many labels, got shape {bank_labels.shape}")
    queries = None if queries is None else as_rows(queries)
    k_max, temperatures = max(ks), list(dict.fromkeys(temperatures))
    searched = k_max + (own is not None)
    if index is None:
        neighbors = search_blocks(bank, queries, searched, metric, device)
    else:
        neighbors = index.search_blocks(bank if queries is None else queries, searched, queries is None)
    blocks: dict[Pair, list[NDArray[np.int64]]] = {(k, temperature): [] for temperature in temperatures for k in ks}
    nearest = [np.empty(0, np.float32)]
    for block, similarities, rows in neighbors:
        if own is not None:
            similarities, rows = without_own(similarities, rows, own[block], k_max)
        nearest.append(similarities[:, 0] if rows.shape[1] else np.full(len(rows), -np.inf, np.float32))
        labels = np.where(rows < 0, -1, bank_labels[rows])  # -1: an approximate search may find fewer than k
        for temperature in temperatures:
            for k, guesses in votes(similarities, labels, ks, temperature, top).items():
                blocks[k, temperature].append(guesses)
        if after_block is not None:
            after_block()
    nothing = np.empty((0, top), np.int64)
    return RankedClasses(
        {pair: np.concatenate([nothing, *ranked]) for pair, ranked in blocks.items()}, np.concatenate(nearest)
    )


def without_own(
    similarities: NDArray[np.float32], rows: NDArray[np.int64], own: NDArray[np.int64], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The first k neighbors but the row `own` (M,); where fewer are left, row -1 with similarity -inf."""
    is_own = (rows == own[:, None]) & (own >= 0)[:, None]
    order = np.argsort(is_own, axis=1, kind="stable")  # it becomes the last
    similarities = np.where(is_own, np.float32(-np.inf), similarities)
    rows = np.where(is_own, -1, rows)
    return np.take_along_axis(similarities, order, axis=1)[:, :k], np.take_along_axis(rows, order, axis=1)[:, :k]
