"""Approximate nearest neighbors: FAISS indexes by factory string; index_quality.py holds them against exact search."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
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
_BLOCK = 1 << 16  # rows added or asked at once
_PER_CENTROID = 39  # training rows a centroid that FAISS asks for; it looks at 256 at most
_TRAIN_ROWS = 1 << 16  # for the product quantizers, of 256 centroids each
_NPROBE, _EF_SEARCH = 16, 64  # FAISS's own defaults, 1 and 16, find too little to be of use


@dataclass(frozen=True)
class NeighborIndex:
    """A trained FAISS index over the rows of a bank.

    Attributes:
        index: FAISS's.
        factory: the string it was made from.
        metric: cosine or l2, of the similarities it returns (see neighbors.search).
    """

    index: Any
    factory: str
    metric: str

    @property
    def exact(self) -> bool:
        return self.factory == EXACT

    @property
    def lists(self) -> int:
        """Inverted lists of an IVF index, the most that nprobe can be; 1 where there are none."""
        return _centroids(self.index)

    def set_parameters(self, parameters: str | None, k: int) -> str:
        """Search parameters in FAISS's spelling, such as "nprobe=32" or "efSearch=128".

        Returns:
            what it is searched with, in the same spelling, our defaults for k neighbors included.

        Raises:
            UsageError: the index has no such parameter, or cannot be searched with its value.
        """
        space = faiss.ParameterSpace()
        wrong = f"--index-parameters {parameters!r} are not parameters of {self.factory} (such as nprobe=32 for IVF, "
        wrong += "efSearch=128 for HNSW): "
        applied: dict[str, str] = {}
        for name, value in {"nprobe": _NPROBE, "efSearch": max(_EF_SEARCH, k)}.items():
            with contextlib.suppress(RuntimeError):  # not every index has them
                space.set_index_parameter(self.index, name, value)
                applied[name] = str(value)
        if parameters:
            try:
                space.set_index_parameters(self.index, parameters)  # type: ignore[arg-type]
                given = dict(part.split("=", 1) for part in re.split("[ ,]+", parameters) if part)
                low = [part for part in given.items() if part[0] in applied and not float(part[1]) >= 1]
                if low:  # FAISS takes it and then finds nothing, or refuses it at the first search
                    raise UsageError(f"{wrong}{low[0][0]} must be at least 1.")
                self.index.search(np.zeros((1, self.index.d), np.float32), 1)
            except RuntimeError as error:
                raise UsageError(f"{wrong}{_reason(error)}.") from error
            applied |= given
        return ",".join(f"{name}={value}" for name, value in applied.items())

    def search(
        self, queries: FeatureMatrix, k: int, own: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The neighbors of queries (M,D) as neighbors.search returns them; where the index finds fewer than k, row -1
        with similarity -inf.

        Args:
            own: (M,) rows that are the queries themselves, which are left out.
        """
        faiss.omp_set_num_threads(torch.get_num_threads())
        return self._search(queries, min(k, self.index.ntotal - (own is not None)), own)

    def search_blocks(
        self, queries: FeatureMatrix, k: int, own_rows: bool
    ) -> Iterator[tuple[slice, NDArray[np.float32], NDArray[np.int64]]]:
        """As neighbors.search_blocks; `own_rows`: the queries are the bank's rows, each left out of its neighbors."""
        for start in range(0, len(queries), _BLOCK):
            block = queries[start : start + _BLOCK]
            own = np.arange(start, start + len(block)) if own_rows else None
            yield (slice(start, start + len(block)), *self.search(block, k, own))

    def _search(
        self, queries: Any, k: int, own: NDArray[np.int64] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        if k == 0:
            return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        values, rows = self.index.search(_prepared(queries, self.metric), k + (own is not None))
        if self.metric == "l2":
            values = -values / 2
        values = np.where(rows < 0, -np.inf, values).astype(np.float32)
        if own is None:
            return values, rows
        kept = without_own(rows, own)
        return values[kept].reshape(len(queries), k), rows[kept].reshape(len(queries), k)

    def size(self) -> int:
        """Bytes of the index, on disk and (not mapped) in memory."""
        counted = [0]

        def count(data: bytes) -> None:
            counted[0] += len(data)

        faiss.write_index(self.index, _writer(count))
        return counted[0]

    def save(self, path: Path) -> None:
        """Write it in FAISS's own format, all or nothing.

        Raises:
            DataError: it cannot be written.
        """
        with atomic_write(path) as file:

            def write(data: bytes) -> None:
                file.write(data)

            faiss.write_index(self.index, _writer(write))


def build_index(bank: FeatureMatrix, factory: str, metric: str = "cosine", seed: int = 0) -> NeighborIndex:
    """Train an index on a sample of the bank (N,D) and fill it, reading the bank in blocks.

    Raises:
        UsageError: FAISS does not know the factory string, or it does not go with D, or with rows that have no numbers.
        DataError: the bank has fewer rows than the index has centroids.
    """
    assert metric in METRICS
    faiss.omp_set_num_threads(torch.get_num_threads())
    kind = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
    try:
        index = faiss.index_factory(bank.shape[1], factory, kind)
    except RuntimeError as error:
        raise UsageError(
            f"--index {factory!r} is no FAISS factory string for {bank.shape[1]} features: {_reason(error)}."
        ) from error
    if not index.is_trained:
        centroids = _centroids(index)
        wanted = max(_TRAIN_ROWS, 256 * centroids)
        rows = np.sort(np.random.default_rng(seed).permutation(len(bank))[:wanted])
        if len(rows) < _PER_CENTROID * centroids:
            say(
                f"--index {factory}: {len(rows)} rows are few for {centroids} centroids; {_PER_CENTROID} each are advised."
            )
        try:
            with _quiet():
                index.train(_prepared(bank[rows], metric))
        except RuntimeError as error:
            raise DataError(
                f"--index {factory} cannot be trained on {len(rows)} rows: {_reason(error)}; choose a smaller index."
            ) from error
    for start in range(0, len(bank), _BLOCK):
        block = _prepared(bank[start : start + _BLOCK], metric)
        try:
            index.add(block)
        except RuntimeError as error:
            raise UsageError(f"--index {factory!r} cannot be filled with rows: {_reason(error)}.") from error
    return NeighborIndex(index, factory, metric)


def load_index(path: Path, factory: str, metric: str) -> NeighborIndex:
    """Map an index file into memory: pages are read when a search needs them, and shared between processes.

    Raises:
        DataError: there is none, or FAISS cannot read it.
    """
    if not path.exists():
        raise DataError(f"There is no index {path}.")
    try:
        return NeighborIndex(faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC), factory, metric)
    except RuntimeError as error:
        raise DataError(f"{path} is not a FAISS index, or it is damaged: {_reason(error)}; build it again.") from error


def cached_index(bank: FeatureMatrix, factory: str, metric: str, seed: int) -> NeighborIndex:
    """`build_index`, or the one built before for the same rows, from the cache."""
    digest = hashlib.sha256(json.dumps([bank.shape, factory, metric, seed, faiss.__version__]).encode())
    for start in range(0, len(bank), _BLOCK):
        digest.update(np.ascontiguousarray(bank[start : start + _BLOCK], dtype=np.float32).data)
    path = cache_folder() / "indexes" / f"{digest.hexdigest()[:32]}.index"
    if path.exists():
        try:
            found = load_index(path, factory, metric)
        except DataError:
            say(f"index {factory}: the one in the cache is damaged and is made again")
        else:
            say(f"index {factory}: from the cache, {path}")
            return found
    say(f"index {factory}: training it into the cache, {path}")
    make_cache_folder(path.parent)
    index = build_index(bank, factory, metric, seed)
    index.save(path)
    return index


def without_own(rows: NDArray[np.int64], own: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Where rows (M,K) are not the queries' own (M,): all but one a line. An approximate search may miss the own row: then
    the last is the one that is too many."""
    found = rows == own[:, None]
    found[~found.any(axis=1), -1] = True
    return ~found


def _writer(write: Callable[[bytes], None]) -> Any:
    return getattr(faiss, "PyCallbackIOWriter")(write)  # noqa: B009 - made at run time, which mypy cannot see


def _prepared(rows: Any, metric: str) -> NDArray[np.float32]:
    return l2_normalized(rows) if metric == "cosine" else np.ascontiguousarray(rows, dtype=np.float32)


def _centroids(index: Any) -> int:
    try:
        return int(faiss.extract_index_ivf(index).nlist)
    except RuntimeError:
        return 1


def _reason(error: RuntimeError) -> str:
    """FAISS's own words without the C++ around them."""
    return str(error).split("failed: ")[-1].split(": ")[-1].strip().rstrip(".")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """FAISS prints its warnings to the process's standard error, one for every quantizer: ours is said before."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)
