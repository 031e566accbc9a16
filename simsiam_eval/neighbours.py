"""Exact nearest neighbours, as fast as the machine multiplies matrices, of sets that need not fit in memory.

A block of similarities is one matrix product. What may be among the k best of a query is found from the maxima of groups:
only groups whose maximum is above the k-th best so far are looked into, so that few of the block's numbers are compared.
FAISS's IndexFlatIP, which sorts into heaps one by one, takes longer (benchmarks/results/knn_speed.md): FAISS is left to
approximate search, indexes.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import pad

from simsiam_eval.errors import DataError
from simsiam_eval.matmul import times_transposed

METRICS = ("cosine", "l2")
_PADDED = 128  # blocks of the bank are multiples of this, so that they fall into groups of any power of two up to it
# Queries, rows of the bank: similarities held at once. On a CPU 16 MB of them stay in its cache, and in memory that the
# allocator keeps: with four times as many a product takes a third longer.
_BLOCK = {"cpu": (256, 16384), "cuda": (4096, 65536)}
_UNIT = 1e-6  # rows whose length is 1 to rounding are of length 1: features that were normalised need no copy
_CHUNK = 1 << 28  # bytes of the bank, of the queries and of their results that are in memory at once


def l2_normalised(features: NDArray[np.floating]) -> NDArray[np.float32]:
    """Rows (N,D) scaled to length one, float32; a row of zeros stays zero (its similarity to all is 0)."""
    rows = np.ascontiguousarray(features, dtype=np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.where(lengths > 0, lengths, 1)).astype(np.float32, copy=False)


def search(
    bank: NDArray[np.floating],
    queries: NDArray[np.floating] | None,
    k: int,
    metric: str = "cosine",
    device: torch.device | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k most similar rows of `bank` (N,D) for each query (M,D), exactly.

    Args:
        bank, queries: arrays, or FeatureRows, which are read in blocks.
        queries: None searches the bank against itself with each row left out of its own neighbours.
        k: neighbours; more than there are gives all that there are.
        metric: "cosine", or "l2": similarity is then minus half the squared distance, which on rows of length one is the
            cosine less 1. In float32: distances below about 3e-4 of those from the bank's centre are rounding.
        device: where the products are computed; default: the CPU.

    Returns:
        similarities (M,K) float32, descending, and rows of the bank (M,K) int64, ascending where similarities are equal;
        K = min(k, N), or N-1 for the bank itself.

    Raises:
        ValueError: k < 1, an empty bank, different widths.
        DataError: a row is not finite, or longer than float32 arithmetic can say.
    """
    found = list(search_blocks(bank, queries, k, metric, device))
    if not found:
        return np.empty((0, min(k, len(bank))), np.float32), np.empty((0, min(k, len(bank))), np.int64)
    return np.concatenate([one[1] for one in found]), np.concatenate([one[2] for one in found])


def search_blocks(
    bank: NDArray[np.floating],
    queries: NDArray[np.floating] | None,
    k: int,
    metric: str = "cosine",
    device: torch.device | None = None,
) -> Iterator[tuple[slice, NDArray[np.float32], NDArray[np.int64]]]:
    """As `search`, by as many queries at a time as fit in memory: (which queries, similarities, rows)."""
    if k < 1 or len(bank) == 0 or (queries is not None and queries.shape[1] != bank.shape[1]):
        raise ValueError(f"cannot search {k} neighbours in a bank of shape {bank.shape}")
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
        for first, rows, less in prepare.bank_chunks(bank):
            best.look_at(first, rows, less)
        similarities, rows = best.in_order()
        if metric == "l2":  # rounding must not make a distance negative, but may make two of them equal
            similarities = (similarities - prepare.half_squares(block)[:, None]).clamp(max=0)
            places = _in_order(similarities, rows)
            similarities, rows = similarities.gather(1, places), rows.gather(1, places)
        yield which, similarities.cpu().numpy(), rows.cpu().numpy()


def similarity_blocks(
    bank: NDArray[np.floating],
    queries: NDArray[np.floating],
    asked: NDArray[np.int64],
    own: bool,
    metric: str = "cosine",
    device: torch.device | None = None,
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """All similarities (m,N) float32 of some queries at a time, for what needs the whole ranking.

    Args:
        asked: (M,) rows of `queries`; the slices are of these.
        own: the queries are the bank's rows; the similarity of a row with itself is then -inf.
    """
    device = device or torch.device("cpu")
    prepare = _Preparation(bank, metric, device)
    step = max(1, 2 * _CHUNK // (4 * len(bank)))
    for start in range(0, len(asked), step):
        some = asked[start : start + step]
        block = prepare.rows(queries[some])
        similarities = torch.empty((len(block), len(bank)), device=device)
        for first, rows, less in prepare.bank_chunks(bank):
            products = torch.mm(block, rows.T, out=similarities[:, first : first + len(rows)])
            if less is not None:
                products -= less
        if metric == "l2":
            similarities = similarities.sub_(prepare.half_squares(block)[:, None]).clamp_(max=0)
        if own:
            similarities[torch.arange(len(some), device=device), torch.from_numpy(some).to(device)] = -torch.inf
        yield slice(start, start + len(some)), similarities.cpu().numpy()


class _Preparation:
    """Rows as the matrix product wants them: of length one for the cosine; for l2 moved by the bank's centre, which
    changes no distance but saves the digits that a large mean would cost."""

    def __init__(self, bank: Any, metric: str, device: torch.device) -> None:
        self.metric, self.device = metric, device
        self._step = max(_PADDED, _CHUNK // (4 * bank.shape[1]) // _PADDED * _PADDED)
        if metric == "l2":
            self._centre = torch.from_numpy(np.asarray(bank[: self._step], dtype=np.float32)).mean(0).to(device)

    def rows(self, rows: Any, room: torch.Tensor | None = None) -> torch.Tensor:
        """(n,D) on the device, in `room` if it is given."""
        block = torch.from_numpy(_writable(rows)).to(self.device)
        if self.metric == "l2":
            block = torch.sub(block, self._centre, out=room)
        lengths = block.norm(dim=1, keepdim=True)
        if not lengths.isfinite().all():
            raise DataError("A row of the features is not finite, or too long for float32 arithmetic.")
        if self.metric == "l2" or bool(((lengths - 1).abs() <= _UNIT).all()):
            return block
        return torch.div(block, torch.where(lengths > 0, lengths, 1), out=room)

    @staticmethod
    def half_squares(rows: torch.Tensor) -> torch.Tensor:
        return rows.square().sum(1) / 2

    def bank_chunks(self, bank: Any) -> Iterator[tuple[int, torch.Tensor, torch.Tensor | None]]:
        """Number of the first row, the rows, and for l2 what is taken from their products to make similarities of them."""
        room = torch.empty((min(self._step, len(bank)), bank.shape[1]), device=self.device)
        for start in range(0, len(bank), self._step):
            block = bank[start : start + self._step]
            rows = self.rows(block, room[: len(block)])
            yield start, rows, self.half_squares(rows) if self.metric == "l2" else None


def _writable(rows: Any) -> NDArray[np.float32]:
    """The array itself where torch can have it as it is."""
    block = np.ascontiguousarray(rows, dtype=np.float32)
    return block if block.flags.writeable else block.copy()


class _Best:
    """The k best rows so far of each query."""

    def __init__(self, queries: torch.Tensor, k: int, own: int | None) -> None:
        self._queries, self._k, self._own = queries, k, own
        self._expected = k
        shape = (len(queries), k)
        self.similarities = queries.new_full(shape, -torch.inf)
        self.rows = torch.full(shape, -1, dtype=torch.int64, device=queries.device)

    def look_at(self, first: int, rows: torch.Tensor, less: torch.Tensor | None) -> None:
        """Compare the queries with consecutive rows of the bank, of which the first has the number `first`; `less` (n,) is
        taken from the products."""
        some, most = _BLOCK[rows.device.type]
        many = -(-len(rows) // -(-len(rows) // most) // _PADDED) * _PADDED  # equal blocks of at most so many rows
        for start in range(0, len(self._queries) if self._k else 0, some):
            which = slice(start, start + some)
            for at in range(0, len(rows), many):
                part = rows[at : at + many]
                block = times_transposed(self._queries[which], part)
                if less is not None:
                    block -= less[at : at + many]
                if self._own is not None:
                    self._leave_out(block, self._own + start, first + at)
                if len(part) % _PADDED:
                    block = pad(block, (0, -len(part) % _PADDED), value=-torch.inf)
                self._merge(which, block, first + at)

    @staticmethod
    def _leave_out(block: torch.Tensor, query: int, row: int) -> None:
        """No row is its own neighbour; `query` and `row` are the numbers of the block's first."""
        begin, end = max(query, row), min(query + block.shape[0], row + block.shape[1])
        if begin < end:
            numbers = torch.arange(begin, end, device=block.device)
            block[numbers - query, numbers - row] = -torch.inf

    def _merge(self, which: slice, block: torch.Tensor, first: int) -> None:
        before = self.similarities[which]
        found = _above(block, before.amin(1), self._k, self._expected)
        self._expected = found[0].shape[1]
        if self._expected:
            similarities = torch.cat((before, found[0]), 1)
            rows = torch.cat((self.rows[which], found[1] + first), 1)
            self.similarities[which], self.rows[which] = _first(similarities, rows, self._k)

    def in_order(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Similarities and rows (M,k) by descending similarity, of equal similarities by ascending row."""
        places = _in_order(self.similarities, self.rows)
        return self.similarities.gather(1, places), self.rows.gather(1, places)


def _above(block: torch.Tensor, floor: torch.Tensor, k: int, expected: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each row of `block` (B,n) all values above `floor` (B,) that can be among its k highest, and their columns: both
    (B,c), in any order, where a row has fewer than c filled up with -inf. `expected` is what c may be."""
    groups = block.shape[1] // _group_size(block.shape[1], expected)
    grouped = block.view(len(block), -1, groups)  # a group is every so many-th column
    highest = grouped.amax(1)
    least = floor.nextafter(floor.new_tensor(torch.inf))
    if k <= groups and bool((floor == -torch.inf).any()):  # the k-th highest value is no lower than that of the maxima
        least = torch.maximum(least, highest.topk(k, sorted=False).values.amin(1))
    passed = highest >= least[:, None]
    if 2 * int(passed.sum()) > passed.numel():  # no choice was made: many values are equal, or k is large
        return _of_all(block, k)
    row, group = passed.nonzero(as_tuple=True)
    values = grouped[row, :, group]
    chosen, member = (values >= least[row, None]).nonzero(as_tuple=True)
    values, row, columns = values[chosen, member], row[chosen], member * groups + group[chosen]
    counts = row.bincount(minlength=len(block))
    place = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
    shape = (len(block), int(counts.max()))
    filled = block.new_full(shape, -torch.inf).index_put_((row, place), values)
    return filled, columns.new_zeros(shape).index_put_((row, place), columns)


def _of_all(block: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The min(k, n) highest values of each row of `block` (B,n) and their columns; of equal values the lowest columns."""
    width = block.shape[1]
    values, columns = block.topk(min(k, width), dim=1)
    last = values[:, -1:]
    tied = ((block == last).sum(1) > (values == last).sum(1)).nonzero()[:, 0]
    if len(tied):
        whole, last = block[tied], last[tied]
        backwards = torch.arange(width, 0, -1, device=block.device, dtype=torch.float32)
        rank = (whole == last) * backwards + (whole > last) * float(width + 1)  # whole numbers below 2 ** 24
        columns[tied] = rank.topk(values.shape[1], dim=1).indices
        values = block.gather(1, columns)
    return values, columns


def _first(values: torch.Tensor, rows: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k highest of more `values` (B,m), in any order, and their `rows`; of equal values the lowest rows."""
    best, places = values.topk(k + 1, dim=1, sorted=False)
    last, at = best.min(1, keepdim=True)  # is left out: the last column takes its place
    tied = ((best == last).sum(1) > 1).nonzero()[:, 0]
    places = places.scatter(1, at, places[:, k:])[:, :k]
    if len(tied):
        of, last = values[tied], last[tied]  # rows begin with -1, of which there is none yet
        order = torch.where(of > last, -2, torch.where(of == last, rows[tied], torch.iinfo(rows.dtype).max))
        places[tied] = order.topk(k, dim=1, largest=False).indices
    return values.gather(1, places), rows.gather(1, places)


def _in_order(values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Columns of `values` and `rows` (B,m) by descending value, of equal values by ascending row."""
    values_in_order, places = values.sort(dim=1, descending=True)
    tied = (values_in_order[:, 1:] == values_in_order[:, :-1]).any(1).nonzero()[:, 0]
    if len(tied):
        ascending = rows[tied].argsort(dim=1)
        among = values[tied].gather(1, ascending).argsort(dim=1, descending=True, stable=True)
        places[tied] = ascending.gather(1, among)
    return places


def _group_size(width: int, expected: int) -> int:
    """About sqrt(width / expected), where the groups' maxima are as many as the members of the groups looked into."""
    return int(2 ** min(7, max(1, round(math.log2(width / max(1, expected)) / 2))))
