"""Exact nearest neighbors of sets that need not fit in memory, on any device.

A block of similarities is one matrix product; of those that exceed a query's k-th best so far, torch.topk takes the best.
benchmarks/results/exact_search.md compares whole commands with an earlier search by oneDNN's products and FAISS's heaps.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from simsiam_eval.errors import DataError
from simsiam_eval.features.arrays import as_rows
from simsiam_eval.features.rows import FeatureMatrix
from simsiam_eval.features.unit_length import unit_length, writable
from simsiam_eval.vocabulary import METRICS

# Queries, rows of the bank: similarities held at once. On a CPU 13 MB stay in its cache.
_BLOCK = {"cpu": (1536, 2048), "cuda": (4096, 65536)}
_CHUNK = 1 << 28  # bytes of the bank, of the queries and of their results that are in memory at once
_NO_ROW = -1
_LONGEST = 1e18  # length of a row for l2: its square is one that float32 can hold
_DEVIATION_ROWS = 4096  # rows that the deviation is estimated from


def search(
    bank: Any,
    queries: Any | None,
    k: int,
    metric: str = "cosine",
    device: torch.device | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k max_entering similar rows of `bank` (N,D) for each query (M,D), exactly.

    Args:
        bank, queries: arrays, tensors or FeatureRows, which are read in blocks.
        queries: None searches the bank against itself with each row left out of its own neighbors.
        k: number of neighbors; where there are fewer, all of them are returned.
        metric: "cosine", or "l2": similarity is then minus half the squared distance, which on rows of length one is the
            cosine minus 1. In float32: distances below about 1e-3 of those from the bank's center are rounding.
        device: where the products are computed; default: the CPU.

    Returns:
        similarities (M,K) float32, descending, and rows of the bank (M,K) int64, ascending where similarities are equal;
        K = min(k, N), or N-1 for the bank itself.

    Raises:
        ValueError: k < 1, an empty bank, no features, different widths.
        DataError: a row is not finite, or, for l2, its length or the spread of the rows is out of float32's range.
    """
    blocks = list(search_blocks(bank, queries, k, metric, device))
    if not blocks:
        return np.empty((0, min(k, len(bank))), np.float32), np.empty((0, min(k, len(bank))), np.int64)
    return np.concatenate([block[1] for block in blocks]), np.concatenate([block[2] for block in blocks])


def search_blocks(
    bank: Any,
    queries: Any | None,
    k: int,
    metric: str = "cosine",
    device: torch.device | None = None,
) -> Iterator[tuple[slice, NDArray[np.float32], NDArray[np.int64]]]:
    """`search` for as many queries at a time as fit in memory: (which queries, similarities, rows)."""
    bank, queries = as_rows(bank), None if queries is None else as_rows(queries)
    if k < 1 or 0 in bank.shape or (queries is not None and queries.shape[1] != bank.shape[1]):
        widths = "" if queries is None else f" for queries of shape {queries.shape}"
        raise ValueError(f"cannot search {k} neighbors in a bank of shape {bank.shape}{widths}")
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}")
    device = device or torch.device("cpu")
    leave_one_out = queries is None
    queries = bank if queries is None else queries
    k = min(k, len(bank) - leave_one_out)
    prepare = _Preparation(bank, metric, device)
    step = max(1, _CHUNK // max(4 * bank.shape[1], 12 * k))
    for start in range(0, len(queries), step):
        which = slice(start, min(start + step, len(queries)))
        block = prepare.rows(queries[which])
        similarities = block.new_full((len(block), k), -torch.inf)
        rows = torch.full((len(block), k), _NO_ROW, dtype=torch.int64, device=device)
        if k:
            self_rows = torch.arange(which.start, which.stop, device=device) if leave_one_out else None
            for chunk in prepare.bank_chunks(bank):
                _merge_chunk(similarities, rows, block, self_rows, *chunk)
        if metric == "l2":  # rounding must not make a distance negative, but may make two of them equal
            similarities = (similarities - prepare.half_squares(block)[:, None]).clamp(max=0)
        columns = _in_order(similarities, rows)
        yield which, similarities.gather(1, columns).cpu().numpy(), rows.gather(1, columns).cpu().numpy()


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
        block_rows = query_rows[start : start + step]
        block = prepare.rows((bank if queries is None else queries)[block_rows])
        similarities = torch.empty((len(block), len(bank)), dtype=torch.float32, device=device)
        for first, rows, half_squares in prepare.bank_chunks(bank):
            products = torch.mm(block, rows.T, out=similarities[:, first : first + len(rows)])
            if half_squares is not None:
                products -= half_squares
        if metric == "l2":
            similarities = similarities.sub_(prepare.half_squares(block)[:, None]).clamp_(max=0)
        if queries is None:
            similarities[torch.arange(len(block), device=device), torch.from_numpy(block_rows).to(device)] = -torch.inf
        yield slice(start, start + len(block)), similarities.cpu().numpy()


class _Preparation:
    """Rows as the matrix product needs them: of length one for the cosine; for l2 minus about the bank's center, which
    changes no distance but saves the digits that a large mean would cost."""

    def __init__(self, bank: Any, metric: str, device: torch.device) -> None:
        self.metric, self.device = metric, device
        # Of equal sizes: a chunk of one row would be multiplied by another kernel, and not equal its copies elsewhere.
        self._step = _equal_parts(len(bank), max(128, _CHUNK // (4 * bank.shape[1])))
        if metric == "l2":
            self._center = _rounded_mean(torch.from_numpy(writable(bank[: self._step]))).to(device)

    def rows(self, rows: Any, out: torch.Tensor | None = None) -> torch.Tensor:
        """(n,D) on the device, in `out` if it is given."""
        block = torch.from_numpy(writable(rows)).to(self.device)
        if self.metric == "cosine":
            return unit_length(block, out)
        block = torch.sub(block, self._center, out=out)
        if not (block.norm(dim=1) <= _LONGEST).all():
            raise DataError("A row of the features is not finite, or too long for l2 in float32; use --metric cosine.")
        return block

    @staticmethod
    def half_squares(rows: torch.Tensor) -> torch.Tensor:
        return rows.square().sum(1) / 2

    def bank_chunks(self, bank: Any) -> Iterator[tuple[int, torch.Tensor, torch.Tensor | None]]:
        """Number of the first row, the rows, and for l2 their half squares, to be subtracted from products with them."""
        out = torch.empty((self._step, bank.shape[1]), dtype=torch.float32, device=self.device)
        for start in range(0, len(bank), self._step):
            block = bank[start : start + self._step]
            rows = self.rows(block, out[: len(block)])
            yield start, rows, self.half_squares(rows) if self.metric == "l2" else None


def _rounded_mean(rows: torch.Tensor) -> torch.Tensor:
    """The mean (D,) of rows (n,D), rounded to multiples of a power of two near their deviation. So few digits that rows with
    few digits, such as whole numbers, keep theirs when it is subtracted, and equal distances stay equal.

    Raises:
        DataError: the rows differ, but by so little that float32 cannot hold the squares.
    """
    mean, deviation = rows.mean(0), _deviation(rows[:: max(1, len(rows) // _DEVIATION_ROWS)])
    if deviation < 1 / _LONGEST and (deviation := _deviation(rows)) < 1 / _LONGEST:
        if (rows != rows[0]).any():
            raise DataError("The features are too small for l2 in float32; use --metric cosine.")
        return mean
    if not deviation.isfinite():  # the rows will be rejected
        return mean
    step = torch.exp2(deviation.log2().floor())
    return (mean / step).round() * step


def _deviation(rows: torch.Tensor) -> torch.Tensor:
    return rows.var(dim=0, correction=0).mean().sqrt()


def _equal_parts(count: int, largest: int) -> int:
    """Size of the parts of `count`: as few as have at max_entering `largest` each, all but the last of the same size."""
    return -(-count // -(-count // largest))


def _merge_chunk(
    similarities: torch.Tensor,
    rows: torch.Tensor,
    queries: torch.Tensor,
    self_rows: torch.Tensor | None,
    first_row: int,
    chunk: torch.Tensor,
    half_squares: torch.Tensor | None,
) -> None:
    """Update the k best `similarities` and `rows` (M,k) of queries (M,D) with consecutive rows of the bank (n,D).

    Args:
        self_rows: (M,) rows of the bank that are the queries themselves, to be left out.
        first_row: number of the chunk's first row.
        half_squares: (n,) for l2, subtracted from the products.
    """
    query_step, largest = _BLOCK[queries.device.type]
    step = _equal_parts(len(chunk), largest)
    # New memory for every block would cost page faults.
    memory = queries.new_empty(min(query_step, len(queries)) * step)
    for query_start in range(0, len(queries), query_step):
        which = slice(query_start, query_start + query_step)
        for start in range(0, len(chunk), step):
            bank_rows = chunk[start : start + step]
            shape = len(queries[which]), len(bank_rows)
            block = torch.mm(queries[which], bank_rows.T, out=memory[: shape[0] * shape[1]].view(shape))
            if half_squares is not None:
                block -= half_squares[start : start + step]
            if self_rows is not None:
                column = self_rows[which] - (first_row + start)
                inside = ((column >= 0) & (column < shape[1])).nonzero()[:, 0]
                block[inside, column[inside]] = -torch.inf
            best = _merge_block(similarities[which], rows[which], block, first_row + start)
            similarities[which], rows[which] = best


def _merge_block(
    similarities: torch.Tensor, rows: torch.Tensor, block: torch.Tensor, first_row: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The k best of the best so far (B,k) and a block (B,n) of later rows, in any order."""
    k, width = similarities.shape[1], block.shape[1]
    # Only what exceeds a query's k-th best can enter: after the first blocks a few, which are packed together, since topk
    # takes as long to read a whole block as the product takes to compute it.
    entering = (block > similarities.amin(1, keepdim=True)).view(-1).nonzero()[:, 0]
    query = entering // width
    counts = torch.bincount(query, minlength=len(block))
    max_entering = int(counts.max())
    if 2 * max_entering > width:
        numbers = torch.arange(first_row, first_row + width, device=block.device).expand(block.shape)
        best, best_rows = _highest(block, numbers, min(k, max_entering))
    else:
        slot = torch.arange(len(query), device=block.device) - (counts.cumsum(0) - counts)[query]
        best = block.new_full((len(block), max_entering), -torch.inf)
        best_rows = rows.new_full((len(block), max_entering), _NO_ROW)
        best[query, slot] = block.view(-1)[entering]
        best_rows[query, slot] = first_row + entering % width
    return _highest(torch.cat((similarities, best), 1), torch.cat((rows, best_rows), 1), k)


def _highest(values: torch.Tensor, rows: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k highest of `values` (B,m) and their `rows`, in any order; of equal values those of the lowest rows."""
    if k == values.shape[1]:
        return values, rows
    best, columns = values.topk(k + 1, dim=1, sorted=False)
    last, at = best.min(1, keepdim=True)  # is left out: the last column takes its place
    tied = ((best == last).sum(1) > 1).nonzero()[:, 0]
    columns = columns.scatter(1, at, columns[:, k:])[:, :k]
    if len(tied):
        limits = torch.iinfo(rows.dtype)
        order = torch.where(values[tied] == last[tied], rows[tied], limits.max)
        order = torch.where(values[tied] > last[tied], limits.min, order)
        columns[tied] = order.topk(k, dim=1, largest=False).indices
    return values.gather(1, columns), rows.gather(1, columns)


def _in_order(values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Columns of `values` and `rows` (B,m) by descending value, of equal values by ascending row."""
    in_order, columns = values.sort(dim=1, descending=True)
    tied = (in_order[:, 1:] == in_order[:, :-1]).any(1).nonzero()[:, 0]
    if len(tied):
        by_row = rows[tied].argsort(dim=1)
        by_value = values[tied].gather(1, by_row).argsort(dim=1, descending=True, stable=True)
        columns[tied] = by_row.gather(1, by_value)
    return columns
