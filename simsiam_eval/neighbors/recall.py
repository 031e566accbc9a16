"""Quality of an approximate index compared with exact search: recall, speed and size, measured."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from simsiam_eval.features.rows import FeatureMatrix
from simsiam_eval.features.unit_length import l2_normalized
from simsiam_eval.neighbors.approximate import NeighborIndex, without_self
from simsiam_eval.neighbors.exact import search

_ROUNDING = 2e-6  # by which two float32 computations of one similarity may differ, relative to the lengths
# Number of timed runs after a warm-up run; if the first run takes at least this many seconds, it is the measurement.
_RUNS, _LONG_SECONDS = 5, 1.0


@dataclass(frozen=True)
class ExactSample:
    """A sample of queries with their exact neighbors, to compare indexes of one bank with.

    Attributes:
        queries: (M,D).
        query_rows: (M,) rows of the bank that are the queries themselves, or None.
        rows: (M,K) their exact neighbors.
        metric: "cosine" or "l2".
        seconds: duration of the exact search.
        device: device of the exact search.
    """

    queries: NDArray[np.float32]
    query_rows: NDArray[np.int64] | None
    rows: NDArray[np.int64]
    metric: str
    seconds: float
    device: str


@dataclass(frozen=True)
class IndexQuality:
    """An index compared with exact search on this machine.

    Attributes:
        index: factory string.
        exact: whether the index is exact.
        k: number of neighbors.
        recall: share of the k neighbors found that are as near as the exact k-th (of equally near rows any will do).
        sample: number of queries.
        queries_per_second, exact_queries_per_second: of the index and of exact search, medians.
        exact_device: device of the exact search.
        bytes, bytes_per_row: size of the index.
        parameters: search parameters, None for an index without any.
    """

    index: str
    exact: bool
    k: int
    recall: float
    sample: int
    queries_per_second: float
    exact_queries_per_second: float
    exact_device: str
    bytes: int
    bytes_per_row: float
    parameters: str | None

    def to_dict(self) -> dict[str, Any]:
        """As in a record."""
        return asdict(self)

    def sentence(self) -> str:
        """The measurement in one sentence."""
        parameters = f" ({self.parameters})" if self.parameters else ""
        return (
            f"{'Exact' if self.exact else 'Approximate'} index {self.index}{parameters}: recall@{self.k} "
            f"{self.recall:.4f} on {self.sample} queries, {self.queries_per_second:.0f} queries/s (exact search: "
            f"{self.exact_queries_per_second:.0f}), {self.bytes_per_row:.0f} bytes per row."
        )


def exact_sample(
    bank: FeatureMatrix,
    queries: FeatureMatrix | None,
    k: int,
    metric: str = "cosine",
    sample: int = 1000,
    seed: int = 0,
    device: torch.device | None = None,
) -> ExactSample:
    """Find the exact k neighbors of random queries (M,D), and time it; None: rows of the bank (N,D), each without itself."""
    candidates = bank if queries is None else queries
    chosen = np.sort(np.random.default_rng(seed).permutation(len(candidates))[:sample])
    sampled, query_rows = np.asarray(candidates[chosen], dtype=np.float32), chosen if queries is None else None
    width = min(k + (query_rows is not None), len(bank))
    rows, seconds = _timed(lambda: search(bank, sampled, width, metric, device)[1])
    if query_rows is not None:
        rows = rows[without_self(rows, query_rows)].reshape(len(sampled), width - 1)
    return ExactSample(sampled, query_rows, rows, metric, seconds, str(device or "cpu"))


def index_quality(
    index: NeighborIndex, bank: FeatureMatrix, exact: ExactSample, parameters: str | None = None
) -> IndexQuality:
    """Compare an index over the bank (N,D), searched with `parameters`, with exact search."""
    k = exact.rows.shape[1]
    rows, seconds = _timed(lambda: index.search(exact.queries, max(1, k), exact.query_rows)[1])
    hits = 0
    if k:
        for query, found, expected in zip(exact.queries, rows, exact.rows, strict=True):
            hits += _count_as_near(bank, query, found, expected, exact.metric)
    size = index.size()
    return IndexQuality(
        index=index.factory,
        exact=index.exact,
        k=k,
        recall=hits / max(1, exact.rows.size),
        sample=len(exact.queries),
        queries_per_second=len(exact.queries) / seconds,
        exact_queries_per_second=len(exact.queries) / exact.seconds,
        exact_device=exact.device,
        bytes=size,
        bytes_per_row=size / len(bank),
        parameters=parameters,
    )


def _count_as_near(
    bank: Any, query: NDArray[Any], found: NDArray[np.int64], exact: NDArray[np.int64], metric: str
) -> int:
    """How many rows `found` (-1: none) are among the exact ones or, up to rounding, as near as the last of them."""
    others = np.setdiff1d(found[found >= 0], exact)
    hits = int((found >= 0).sum()) - len(others)
    if not len(others):
        return hits
    rows = bank[np.append(others, exact[-1])]
    if metric == "cosine":
        rows, query = l2_normalized(rows), l2_normalized(query[None])[0]
    rows, query = rows.astype(np.float64), query.astype(np.float64)
    similarities = -((rows - query) ** 2).sum(axis=1)
    scale = (rows[-1] ** 2).sum() + (query**2).sum()
    return hits + int((similarities[:-1] >= similarities[-1] - _ROUNDING * scale).sum())


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """The result, and the median of its seconds once warm."""
    seconds: list[float] = []
    while not seconds or (seconds[0] < _LONG_SECONDS and len(seconds) <= _RUNS):
        started = time.perf_counter()
        result = work()
        seconds.append(max(1e-9, time.perf_counter() - started))
    return result, statistics.median(seconds[1:] or seconds)
