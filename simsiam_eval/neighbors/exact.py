"""Exact nearest neighbors, as fast as the machine multiplies matrices, of sets that need not fit in memory.

A block of similarities is one matrix product by oneDNN; FAISS's heaps take the best of it. That is four to six times as
fast as FAISS's IndexFlatIP, whose products are OpenBLAS's and whose heaps begin empty (benchmarks/results/knn_speed.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import faiss
import numpy as np
import torch
from faiss import swig_ptr
from numpy.typing import NDArray

from simsiam_eval.errors import DataError
from simsiam_eval.features.rows import FeatureMatrix
from simsiam_eval.features.unit_length import unit_length, writable
from simsiam_eval.runtime.matmul import times_transposed
from simsiam_eval.vocabulary import METRICS

_NONE = -1  # key of no row: of what a heap begins with; that of row r is -2 - r
_EACH, _SAMPLED, _DEVIATIONS = 32, 4096, 6  # see _Sample
_HEAPED = ("cpu",)  # devices whose memory FAISS's heaps can read
# Queries, rows of the bank: similarities held at once. On a CPU 13 MB of them stay in its cache, and in memory that the
# allocator keeps: with four times as many a product takes a third longer. Fewer queries: more packing of the bank.
_BLOCK = {"cpu": (1536, 2048), "cuda": (4096, 65536)}
_LONGEST = 1e18  # of a row for l2: its square is one that float32 can hold
_CHUNK = 1 << 28  # bytes of the bank, of the queries and of their results that are in memory at once


def search(
    bank: FeatureMatrix,
    queries: FeatureMatrix | None,
    k: int,
    metric: str = "cosine",
    device: torch.device | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k most similar rows of `bank` (N,D) for each query (M,D), exactly.

    Args:
        bank, queries: arrays, or FeatureRows, which are read in blocks.
        queries: None searches the bank against itself with each row left out of its own neighbors.
        k: neighbors; more than there are gives all that there are.
        metric: "cosine", or "l2": similarity is then minus half the squared distance, which on rows of length one is the
            cosine less 1. In float32: distances below about 1e-3 of those from the bank's center are rounding.
        device: where the products are computed; default: the CPU.

    Returns:
        similarities (M,K) float32, descending, and rows of the bank (M,K) int64, ascending where similarities are equal;
        K = min(k, N), or N-1 for the bank itself.

    Raises:
        ValueError: k < 1, an empty bank, no features, different widths.
        DataError: a row is not finite, or, for l2, longer than float32 arithmetic can say.
    """
    found = list(search_blocks(bank, queries, k, metric, device))
    if not found:
        return np.empty((0, min(k, len(bank))), np.float32), np.empty((0, min(k, len(bank))), np.int64)
    return np.concatenate([one[1] for one in found]), np.concatenate([one[2] for one in found])


def search_blocks(
    bank: FeatureMatrix,
    queries: FeatureMatrix | None,
    k: int,
    metric: str = "cosine",
    device: torch.device | None = None,
) -> Iterator[tuple[slice, NDArray[np.float32], NDArray[np.int64]]]:
    """As `search`, by as many queries at a time as fit in memory: (which queries, similarities, rows)."""
    if k < 1 or 0 in bank.shape or (queries is not None and queries.shape[1] != bank.shape[1]):
        raise ValueError(f"cannot search {k} neighbors in a bank of shape {bank.shape}")
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}")
    device = device or torch.device("cpu")
    asked = bank if queries is None else queries
    k = min(k, len(bank) - (queries is None))
    prepare = _Preparation(bank, metric, device)
    step = max(1, _CHUNK // max(4 * bank.shape[1], 12 * k))
    for start in range(0, len(asked), step):
        which = slice(start, min(start + step, len(asked)))
        block = prepare.rows(asked[which])
        best = _Best(block, k, start if queries is None else None)
        for chunk in prepare.bank_chunks(bank):
            best.look_at(*chunk)
        similarities, rows = best.in_order()
        if metric == "l2":  # rounding must not make a distance negative, but may make two of them equal
            similarities = (similarities - prepare.half_squares(block)[:, None]).clamp(max=0)
            places = _in_order(similarities, rows)
            similarities, rows = similarities.gather(1, places), rows.gather(1, places)
        yield which, similarities.cpu().numpy(), rows.cpu().numpy()


def similarity_blocks(
    bank: FeatureMatrix,
    queries: FeatureMatrix | None,
    query_rows: NDArray[np.int64],
    metric: str = "cosine",
    device: torch.device | None = None,
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """All similarities (m,N) float32 of some queries at a time, for what needs the whole ranking.

    Args:
        queries: None: the bank's own rows; the similarity of a row with itself is then -inf.
        query_rows: (M,) which of the queries; the slices are of these.
    """
    device = device or torch.device("cpu")
    prepare = _Preparation(bank, metric, device)
    step = max(1, 2 * _CHUNK // (4 * len(bank)))
    for start in range(0, len(query_rows), step):
        some = query_rows[start : start + step]
        block = prepare.rows((bank if queries is None else queries)[some])
        similarities = torch.empty((len(block), len(bank)), dtype=torch.float32, device=device)
        for first, rows, less in prepare.bank_chunks(bank):
            products = torch.mm(block, rows.T, out=similarities[:, first : first + len(rows)])
            if less is not None:
                products -= less
        if metric == "l2":
            similarities = similarities.sub_(prepare.half_squares(block)[:, None]).clamp_(max=0)
        if queries is None:
            similarities[torch.arange(len(some), device=device), torch.from_numpy(some).to(device)] = -torch.inf
        yield slice(start, start + len(some)), similarities.cpu().numpy()


class _Preparation:
    """Rows as the matrix product wants them: of length one for the cosine; for l2 moved by about the bank's center, which
    changes no distance but saves the digits that a large mean would cost."""

    def __init__(self, bank: Any, metric: str, device: torch.device) -> None:
        self.metric, self.device = metric, device
        # Of equal sizes: a chunk of one row would be multiplied otherwise, and its copies elsewhere not equal it.
        self._step = _equal_parts(len(bank), max(128, _CHUNK // (4 * bank.shape[1])))
        if metric == "l2":
            self._center = _about_the_mean(torch.from_numpy(writable(bank[: self._step]))).to(device)

    def rows(self, rows: Any, room: torch.Tensor | None = None) -> torch.Tensor:
        """(n,D) on the device, in `room` if it is given."""
        block = torch.from_numpy(writable(rows)).to(self.device)
        if self.metric == "cosine":
            return unit_length(block, room)
        block = torch.sub(block, self._center, out=room)
        if not (block.norm(dim=1) <= _LONGEST).all():
            raise DataError(
                "A row of the features is not finite, or too long for distances in float32: --metric cosine."
            )
        return block

    @staticmethod
    def half_squares(rows: torch.Tensor) -> torch.Tensor:
        return rows.square().sum(1) / 2

    def bank_chunks(self, bank: Any) -> Iterator[tuple[int, torch.Tensor, torch.Tensor | None]]:
        """Number of the first row, the rows, and for l2 what is taken from their products to make similarities of them."""
        room = torch.empty((self._step, bank.shape[1]), dtype=torch.float32, device=self.device)
        for start in range(0, len(bank), self._step):
            block = bank[start : start + self._step]
            rows = self.rows(block, room[: len(block)])
            yield start, rows, self.half_squares(rows) if self.metric == "l2" else None


def _about_the_mean(rows: torch.Tensor) -> torch.Tensor:
    """The mean (D,) of rows (n,D), rounded to multiples of a power of two that is about their deviation: so few digits that
    rows of few, such as whole numbers, keep theirs when it is taken off, and equal distances stay equal.

    Raises:
        DataError: the rows differ, but by so little that float32 cannot hold the squares.
    """
    mean, deviation = rows.mean(0), _deviation(rows[:: max(1, len(rows) // _SAMPLED)])
    if deviation < 1 / _LONGEST and (deviation := _deviation(rows)) < 1 / _LONGEST:
        if (rows != rows[0]).any():
            raise DataError("The features are too small for distances in float32: --metric cosine.")
        return mean
    if not deviation.isfinite():  # the rows will be refused
        return mean
    step = torch.exp2(deviation.log2().floor())
    return (mean / step).round() * step


def _deviation(rows: torch.Tensor) -> torch.Tensor:
    return rows.var(dim=0, correction=0).mean().sqrt()


def _equal_parts(count: int, most: int) -> int:
    """The size of as few equal parts of `count` as have at most `most` each, but for the last, a little smaller."""
    return -(-count // -(-count // most))


class _Best:
    """The k best rows so far of each query: on a CPU in FAISS's heaps, elsewhere by torch.topk."""

    def __init__(self, queries: torch.Tensor, k: int, own: int | None) -> None:
        self._queries, self._k, self._own = queries, k, own
        shape = (len(queries), k)
        self.similarities = queries.new_full(shape, -torch.inf)
        self._keys = torch.full(shape, _NONE, dtype=torch.int64, device=queries.device)
        self._begun = False

    def look_at(self, first: int, rows: torch.Tensor, less: torch.Tensor | None) -> None:
        """Compare the queries with consecutive rows of the bank, of which the first has the number `first`; `less` (n,) is
        taken from the products."""
        if not self._k:
            return
        add = partial(self._add, first=first, rows=rows, less=less)
        # Later chunks begin at the k-th best of the first.
        sample = _Sample.of(rows, less, self._k) if rows.device.type in _HEAPED and not self._begun else None
        self._begun = True
        for which in torch.arange(len(self._queries), device=rows.device).split(_BLOCK[rows.device.type][0]):
            values, keys = self.similarities[which], self._keys[which]  # copies
            if sample is not None:
                values[:] = sample.threshold(self._queries[which])[:, None]
            add(which, values, keys)
            if sample is not None and bool((keys == _NONE).any()):
                # Fewer than k of a query's reach what the sample promised: without it, all of them, so that copies of a row
                # in different chunks are multiplied alike and stay equal.
                values, keys = self.similarities[which], self._keys[which]
                add(which, values, keys)
            self.similarities[which], self._keys[which] = values, keys

    def _add(
        self,
        which: torch.Tensor,
        values: torch.Tensor,
        keys: torch.Tensor,
        *,
        first: int,
        rows: torch.Tensor,
        less: torch.Tensor | None,
    ) -> None:
        """Put what is better among the rows in the place of the worst in `values` and `keys` (B,k) of queries `which`."""
        queries = self._queries[which]
        many = _equal_parts(len(rows), _BLOCK[rows.device.type][1])
        heaps = _heaps(values, keys) if rows.device.type in _HEAPED else None
        for at in range(0, len(rows), many):
            block = times_transposed(queries, rows[at : at + many])
            if less is not None:
                block -= less[at : at + many]
            start, width = first + at, block.shape[1]
            if self._own is not None:  # no row is its own neighbor
                own = which + (self._own - start)
                here = ((own >= 0) & (own < width)).nonzero()[:, 0]
                block[here, own[here]] = -torch.inf
            names = -2 - torch.arange(start, start + width, device=rows.device)
            if heaps is not None:
                pointers = swig_ptr(block.numpy()), swig_ptr(names.numpy())
                heaps.addn_with_ids(width, *pointers, 0, 0, len(block))  # type: ignore[call-arg]
            else:
                both = torch.cat((values, block), 1), torch.cat((keys, names.expand(len(block), -1)), 1)
                values[:], keys[:] = _first(*both, self._k)

    def in_order(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Similarities and rows (M,k) by descending similarity, of equal similarities by ascending row."""
        rows = -2 - self._keys
        places = _in_order(self.similarities, rows)
        return self.similarities.gather(1, places), rows.gather(1, places)


def _heaps(values: torch.Tensor, keys: torch.Tensor) -> faiss.float_minheap_array_t:
    """Each row of (B,k) as a heap of the best. Of equal values that of the lowest key goes first: of the highest row."""
    heaps = faiss.float_minheap_array_t()
    heaps.nh, heaps.k = values.shape
    heaps.val, heaps.ids = swig_ptr(values.numpy()), swig_ptr(keys.numpy())
    return heaps


class _Sample:
    """Random rows of a chunk, one of each _EACH that follow each other, so that sorted rows are no matter; at most _SAMPLED.

    Of the k best of n rows a sample of s has about k s / n. The similarity of that rank in the sample, and _DEVIATIONS
    standard deviations lower, is one that k of all rows reach, but for one query in 100,000. A heap that begins there leaves
    most rows out; where the sample promised too much, it is not full in the end.
    """

    def __init__(self, rows: torch.Tensor, less: torch.Tensor | None, rank: int) -> None:
        self._rows, self._less, self._rank = rows, less, rank

    @classmethod
    def of(cls, rows: torch.Tensor, less: torch.Tensor | None, k: int) -> _Sample | None:
        """Of rows (n,D) among which k are sought; None where they are too few."""
        each = max(_EACH, -(-len(rows) // _SAMPLED))
        count = len(rows) // each
        expected = k * count / len(rows)
        rank = math.ceil(expected + _DEVIATIONS * math.sqrt(expected)) + 1
        if rank > count:
            return None
        chosen = each * torch.arange(count) + torch.randint(each, (count,), generator=torch.Generator().manual_seed(0))
        return cls(rows[chosen], None if less is None else less[chosen], rank)

    def threshold(self, queries: torch.Tensor) -> torch.Tensor:
        """(B,D) -> (B,), just below the similarity of that rank."""
        block = times_transposed(queries, self._rows)
        if self._less is not None:
            block -= self._less
        lowest = block.topk(self._rank, sorted=False).values.amin(1)
        return lowest.nextafter(lowest.new_tensor(-torch.inf))


def _first(values: torch.Tensor, keys: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k highest of more `values` (B,m), in any order, and their `keys`; of equal values the highest keys."""
    best, places = values.topk(k + 1, dim=1, sorted=False)
    last, at = best.min(1, keepdim=True)  # is left out: the last column takes its place
    tied = ((best == last).sum(1) > 1).nonzero()[:, 0]
    places = places.scatter(1, at, places[:, k:])[:, :k]
    if len(tied):
        of, last = values[tied], last[tied]
        lowest = torch.iinfo(keys.dtype).min
        order = torch.where(of > last, 0, torch.where(of == last, keys[tied], lowest))
        places[tied] = order.topk(k, dim=1).indices
    return values.gather(1, places), keys.gather(1, places)


def _in_order(values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Columns of `values` and `rows` (B,m) by descending value, of equal values by ascending row."""
    values_in_order, places = values.sort(dim=1, descending=True)
    tied = (values_in_order[:, 1:] == values_in_order[:, :-1]).any(1).nonzero()[:, 0]
    if len(tied):
        ascending = rows[tied].argsort(dim=1)
        among = values[tied].gather(1, ascending).argsort(dim=1, descending=True, stable=True)
        places[tied] = ascending.gather(1, among)
    return places
