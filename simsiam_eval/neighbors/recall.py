"""What an approximate index gives away: recall of the exact neighbors, speed and size, measured."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from simsiam_eval.features.rows import FeatureMatrix
from simsiam_eval.features.unit_length import l2_normalized
from simsiam_eval.neighbors.approximate import NeighborIndex, without_own
from simsiam_eval.neighbors.exact import search

_ROUNDING = 2e-6  # by which two float32 computations of one similarity may differ, relative to the lengths
_RUNS, _LONG = 5, 1.0  # timed runs after one to warm up; a first run of so many seconds counts itself


@dataclass(frozen=True)
class ExactSample:
    """Some queries with their exact neighbors, against which indexes of one bank are held.

    Attributes:
        queries: (M,D).
        own: (M,) rows of the bank that are the queries themselves, or None.
        rows: (M,K) their exact neighbors.
        metric: cosine or l2.
        seconds: that the exact search took.
        device: where.
    """

    queries: NDArray[np.float32]
    own: NDArray[np.int64] | None
    rows: NDArray[np.int64]
    metric: str
    seconds: float
    device: str


def exact_sample(
    bank: FeatureMatrix,
    queries: FeatureMatrix | None,
    k: int,
    metric: str = "cosine",
    sample: int = 1000,
    seed: int = 0,
    device: torch.device | None = None,
) -> ExactSample:
    """Search k neighbors of random queries (M,D) exactly, on the device; None: the bank's own rows (N,D), each without
    itself."""
    asked = bank if queries is None else queries
    chosen = np.sort(np.random.default_rng(seed).permutation(len(asked))[:sample])
    some, own = np.asarray(asked[chosen], dtype=np.float32), chosen if queries is None else None
    most = min(k + (own is not None), len(bank))
    rows, seconds = _timed(lambda: search(bank, some, most, metric, device)[1])
    if own is not None:
        rows = rows[without_own(rows, own)].reshape(len(some), most - 1)
    return ExactSample(some, own, rows, metric, seconds, str(device or "cpu"))


def index_quality(index: NeighborIndex, bank: FeatureMatrix, exact: ExactSample) -> dict[str, Any]:
    """What an index over the bank (N,D) gives away against exact search.

    Returns:
        index, exact (whether it is), k, `recall` (share of the k neighbors that are as near as the exact k-th: of equally
        near rows any will do), `sample`, `queries_per_second` of both on this machine (the median of some runs), the
        `exact_device`, `bytes` of the index and `bytes_per_row`.
    """
    k = exact.rows.shape[1]
    found, seconds = _timed(lambda: index.search(exact.queries, max(1, k), exact.own)[1])
    hits = sum(
        _as_near(bank, query, found[place], exact.rows[place], exact.metric)
        for place, query in enumerate(exact.queries if k else ())
    )
    size = index.size()
    return {
        "index": index.factory,
        "exact": index.exact,
        "k": k,
        "recall": hits / max(1, exact.rows.size),
        "sample": len(exact.queries),
        "queries_per_second": len(exact.queries) / seconds,
        "exact_queries_per_second": len(exact.queries) / exact.seconds,
        "exact_device": exact.device,
        "bytes": size,
        "bytes_per_row": size / len(bank),
    }


def _as_near(bank: Any, query: NDArray[Any], found: NDArray[np.int64], exact: NDArray[np.int64], metric: str) -> int:
    """How many of the found rows (-1: none) are in the exact ones or as near as the last of them, to rounding."""
    others = np.setdiff1d(found[found >= 0], exact)
    hits = int((found >= 0).sum()) - len(others)
    if not len(others):
        return hits
    rows = bank[np.append(others, exact[-1])]
    if metric == "cosine":
        rows, query = l2_normalized(rows), l2_normalized(query[None])[0]
    rows, query = rows.astype(np.float64), query.astype(np.float64)
    near = -((rows - query) ** 2).sum(axis=1)
    scale = (rows[-1] ** 2).sum() + (query**2).sum()
    return hits + int((near[:-1] >= near[-1] - _ROUNDING * scale).sum())


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What it returns, and the seconds it takes once it is warm."""
    seconds: list[float] = []
    while not seconds or (seconds[0] < _LONG and len(seconds) <= _RUNS):
        started = time.perf_counter()
        result = work()
        seconds.append(max(1e-9, time.perf_counter() - started))
    return result, statistics.median(seconds[1:] or seconds)
