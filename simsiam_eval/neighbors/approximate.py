"""Approximate nearest neighbors: FAISS indexes by factory string. recall.py compares them with exact search."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from numpy.typing import NDArray

from simsiam_eval.errors import DataError, UsageError
from simsiam_eval.features.rows import FeatureMatrix
from simsiam_eval.features.unit_length import l2_normalized
from simsiam_eval.files.atomic import atomic_write
from simsiam_eval.files.cache import cache_folder, make_cache_folder
from simsiam_eval.runtime.progress import say
from simsiam_eval.vocabulary import METRICS

EXACT = "Flat"
# Sizes with which FAISS does not raise an exception but crashes.
_CRASHES = re.compile(r"[A-Za-z_]*(?<!\d)0+(?!\d)|HNSW1(?!\d)")
_CODE_BITS, _MOST_BITS = re.compile(r"PQ\d+x(\d+)"), 16  # FAISS tries to train 2^bits centroids, however many they are
_BLOCK = 1 << 16  # rows added, or queries searched, at a time
_ROWS_PER_CENTROID = 39  # training rows that FAISS recommends; it uses at most 256
_TRAINING_ROWS = 1 << 16  # for the product quantizers, of 256 centroids each
_NPROBE, _EF_SEARCH = 16, 64  # FAISS's own defaults, 1 and 16, give too low a recall


@dataclass(frozen=True)
class NeighborIndex:
    """A trained FAISS index over the rows of a bank.

    Attributes:
        index: the FAISS index.
        factory: its factory string.
        metric: "cosine" or "l2", of the similarities that it returns (see `exact.search`).
    """

    index: Any
    factory: str
    metric: str

    @property
    def exact(self) -> bool:
        return self.factory == EXACT

    @property
    def lists(self) -> int:
        """Number of inverted lists of an IVF index, the maximum of nprobe; 1 for other indexes."""
        return _centroids(self.index)

    def set_parameters(self, parameters: str | None, k: int) -> str:
        """Set search parameters in FAISS's notation, such as "nprobe=32" or "efSearch=128".

        Returns:
            all parameters in effect, in the same notation, including the defaults for k neighbors.

        Raises:
            UsageError: the index has no such parameter, or cannot be searched with its value.
        """
        space = faiss.ParameterSpace()
        invalid = (
            f"--index-parameters {parameters!r} cannot be used with {self.factory} (examples: nprobe=32 for IVF, "
            "efSearch=128 for HNSW): "
        )
        applied: dict[str, str] = {}
        for name, default in {"nprobe": _NPROBE, "efSearch": max(_EF_SEARCH, k)}.items():
            with contextlib.suppress(RuntimeError):  # not every index has both
                space.set_index_parameter(self.index, name, default)
                applied[name] = str(default)
        if parameters:
            try:
                space.set_index_parameters(self.index, parameters)  # type: ignore[arg-type]
                given = dict(part.split("=", 1) for part in re.split("[ ,]+", parameters) if part)
                for name, value in given.items():
                    # FAISS accepts it and then finds nothing, or fails at the first search.
                    if name in applied and not float(value) >= 1:
                        raise UsageError(f"{invalid}{name} must be at least 1.")
                self.index.search(np.zeros((1, self.index.d), np.float32), 1)
            except (RuntimeError, ValueError) as error:
                raise UsageError(f"{invalid}{_reason(error)}.") from error
            applied |= given
        return ",".join(f"{name}={value}" for name, value in applied.items())

    def search(
        self, queries: FeatureMatrix, k: int, query_rows: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The neighbors of queries (M,D) as `exact.search` returns them; where the index finds fewer than k, row -1 with
        similarity -inf.

        Args:
            query_rows: (M,) rows of the index that are the queries themselves, to be left out.
        """
        faiss.omp_set_num_threads(torch.get_num_threads())
        k = min(k, self.index.ntotal - (query_rows is not None))
        if k == 0:
            return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        values, rows = self.index.search(_prepared(queries, self.metric), k + (query_rows is not None))
        if self.metric == "l2":
            values = -values / 2
        values = np.where(rows < 0, -np.inf, values).astype(np.float32)
        if query_rows is None:
            return values, rows
        kept = without_self(rows, query_rows)
        return values[kept].reshape(len(queries), k), rows[kept].reshape(len(queries), k)

    def keep_vectors(self) -> bool:
        """Prepare `vectors`, before several threads use the index; returns whether it can give them."""
        with contextlib.suppress(RuntimeError):  # not an inverted index
            faiss.extract_index_ivf(self.index).make_direct_map()
        try:
            self.vectors([0])
        except RuntimeError:
            return False
        return True

    def vectors(self, rows: Sequence[int]) -> NDArray[np.float32]:
        """The vectors (M,D) of rows as the index stores them: of length one for the cosine, and compressed where it is."""
        return np.stack([self.index.reconstruct(row) for row in rows]).astype(np.float32, copy=False)

    def search_blocks(
        self, queries: FeatureMatrix, k: int, leave_one_out: bool
    ) -> Iterator[tuple[slice, NDArray[np.float32], NDArray[np.int64]]]:
        """As `exact.search_blocks`; with `leave_one_out` the queries are the bank's rows, each without itself."""
        for start in range(0, len(queries), _BLOCK):
            block = queries[start : start + _BLOCK]
            rows = np.arange(start, start + len(block)) if leave_one_out else None
            yield (slice(start, start + len(block)), *self.search(block, k, rows))

    def size(self) -> int:
        """Bytes of the index, on disk and in memory (unless mapped)."""
        size = 0

        def count(data: bytes) -> None:
            nonlocal size
            size += len(data)

        faiss.write_index(self.index, _writer(count))
        return size

    def save(self, path: Path) -> None:
        """Write the index in FAISS's own format, atomically.

        Raises:
            DataError: the file cannot be written.
        """
        with atomic_write(path) as file:

            def write(data: bytes) -> None:
                file.write(data)

            faiss.write_index(self.index, _writer(write))


def build_index(bank: FeatureMatrix, factory: str, metric: str = "cosine", seed: int = 0) -> NeighborIndex:
    """Train an index on a sample of the bank (N,D) and add all rows, reading the bank in blocks.

    Raises:
        UsageError: not a FAISS factory string, or one that does not fit D or rows without ids.
        DataError: the bank has fewer rows than the index has centroids.
    """
    faiss.omp_set_num_threads(torch.get_num_threads())
    index = _empty_index(bank.shape[1], factory, metric)
    if not index.is_trained:
        centroids = _centroids(index)
        count = max(_TRAINING_ROWS, 256 * centroids)
        rows = np.sort(np.random.default_rng(seed).permutation(len(bank))[:count])
        if len(rows) < _ROWS_PER_CENTROID * centroids:
            say(
                f"--index {factory}: only {len(rows)} rows to train {centroids} centroids; FAISS recommends at least "
                f"{_ROWS_PER_CENTROID} rows per centroid."
            )
        try:
            with _standard_error_closed():
                index.train(_prepared(bank[rows], metric))
        except (RuntimeError, MemoryError) as error:
            raise DataError(
                f"--index {factory} cannot be trained on {len(rows)} rows: {_reason(error)}; use a smaller index."
            ) from error
    for start in range(0, len(bank), _BLOCK):
        block = _prepared(bank[start : start + _BLOCK], metric)
        try:
            index.add(block)
        except (RuntimeError, MemoryError) as error:
            raise UsageError(f"Rows cannot be added to --index {factory!r}: {_reason(error)}.") from error
    return NeighborIndex(index, factory, metric)


def _empty_index(width: int, factory: str, metric: str) -> Any:
    """The index of a FAISS factory string, without rows. Raises UsageError."""
    assert metric in METRICS
    if crashing := _CRASHES.search(factory):
        raise UsageError(f"--index {factory!r} cannot be used: {crashing[0]!r} is too small a size.")
    if bits := next((bits for bits in _CODE_BITS.findall(factory) if int(bits) > _MOST_BITS), None):
        raise UsageError(f"--index {factory!r} cannot be used: codes of {bits} bits; expected at most {_MOST_BITS}.")
    faiss_metric = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
    try:
        return faiss.index_factory(width, factory, faiss_metric)
    except (RuntimeError, MemoryError) as error:
        raise UsageError(
            f"--index {factory!r} is not a FAISS factory string for {width}-dimensional features: {_reason(error)}."
        ) from error


def load_index(path: Path, factory: str, metric: str) -> NeighborIndex:
    """Memory-map an index file: pages are read when a search needs them, and shared between processes.

    Raises:
        DataError: the file is missing, or FAISS cannot read it.
    """
    if not path.exists():
        raise DataError(f"Index file {path} does not exist.")
    try:
        return NeighborIndex(faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC), factory, metric)
    except RuntimeError as error:
        raise DataError(f"{path} is not a FAISS index or is damaged: {_reason(error)}. Build it again.") from error


def cached_index(bank: FeatureMatrix, factory: str, metric: str, seed: int) -> NeighborIndex:
    """`build_index`, or the index of the same rows from the cache."""
    _empty_index(bank.shape[1], factory, metric)  # rejects an invalid string before the bank is read
    digest = hashlib.sha256(json.dumps([bank.shape, factory, metric, seed, faiss.__version__]).encode())
    for start in range(0, len(bank), _BLOCK):
        digest.update(np.ascontiguousarray(bank[start : start + _BLOCK], dtype=np.float32).data)
    path = cache_folder() / "indexes" / f"{digest.hexdigest()[:32]}.index"
    if path.exists():
        try:
            index = load_index(path, factory, metric)
        except DataError:
            say(f"index {factory}: the cached file is damaged, building it again")
        else:
            say(f"index {factory}: using the cached {path}")
            return index
    say(f"index {factory}: training, to be cached as {path}")
    make_cache_folder(path.parent)
    index = build_index(bank, factory, metric, seed)
    index.save(path)
    return index


def without_self(rows: NDArray[np.int64], query_rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Mask (M,K) of the neighbors `rows` (M,K) without the query itself (M,), K - 1 in each line. Where a search did not
    find the query, the last neighbor is dropped."""
    drop = rows == query_rows[:, None]
    drop[~drop.any(axis=1), -1] = True
    return ~drop


def _writer(write: Callable[[bytes], None]) -> Any:
    return getattr(faiss, "PyCallbackIOWriter")(write)  # noqa: B009 - made at run time, which mypy cannot see


def _prepared(rows: Any, metric: str) -> NDArray[np.float32]:
    return l2_normalized(rows) if metric == "cosine" else np.ascontiguousarray(rows, dtype=np.float32)


def _centroids(index: Any) -> int:
    try:
        return int(faiss.extract_index_ivf(index).nlist)
    except RuntimeError:
        return 1


def _reason(error: Exception) -> str:
    """The message of a FAISS error without its C++ location."""
    return str(error).split("failed: ")[-1].split(": ")[-1].strip().rstrip(".")


@contextlib.contextmanager
def _standard_error_closed() -> Iterator[None]:
    """FAISS writes one warning per quantizer to the process's standard error; build_index has said it once already."""
    standard_error, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(standard_error, 2)
        os.close(standard_error)
        os.close(null)
