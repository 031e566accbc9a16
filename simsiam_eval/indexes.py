"""Approximate nearest neighbours: FAISS indexes by factory string, each measured against exact search."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from numpy.typing import NDArray

from simsiam_eval.atomic_file import atomic_write
from simsiam_eval.cache_folder import cache_folder
from simsiam_eval.errors import DataError, UsageError
from simsiam_eval.neighbours import METRICS, l2_normalised, search
from simsiam_eval.progress import say

EXACT = "Flat"
_BLOCK = 1 << 16  # rows added or asked at once
_PER_CENTROID = 39  # training rows a centroid that FAISS asks for; it looks at 256 at most
_TRAIN_ROWS = 1 << 16  # for the product quantisers, of 256 centroids each
_NPROBE, _EF_SEARCH = 16, 64  # FAISS's own defaults, 1 and 16, find too little to be of use


@dataclass(frozen=True)
class NeighbourIndex:
    """A trained FAISS index over the rows of a bank.

    Attributes:
        index: FAISS's.
        factory: the string it was made from.
        metric: cosine or l2, of the similarities it returns (see neighbours.search).
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

    def set_parameters(self, parameters: str | None, k: int) -> None:
        """Search parameters in FAISS's spelling, such as "nprobe=32" or "efSearch=128".

        Raises:
            UsageError: the index has no such parameter.
        """
        space, defaults = faiss.ParameterSpace(), {"nprobe": _NPROBE, "efSearch": max(_EF_SEARCH, k)}
        for name, value in defaults.items():
            with contextlib.suppress(RuntimeError):  # not every index has them
                space.set_index_parameter(self.index, name, value)
        if parameters:
            try:
                space.set_index_parameters(self.index, parameters)  # type: ignore[arg-type]
            except RuntimeError as error:
                raise UsageError(
                    f"--index-parameters {parameters!r} are not parameters of {self.factory} (such as nprobe=32 for IVF, "
                    f"efSearch=128 for HNSW): {_reason(error)}."
                ) from error

    def search(
        self, queries: NDArray[np.floating], k: int, own: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The neighbours of queries (M,D) as neighbours.search returns them; where the index finds fewer than k, row -1
        with similarity -inf.

        Args:
            own: (M,) rows that are the queries themselves, which are left out.
        """
        faiss.omp_set_num_threads(torch.get_num_threads())
        return self._search(queries, min(k, self.index.ntotal - (own is not None)), own)

    def search_blocks(
        self, queries: NDArray[np.floating], k: int, own_rows: bool
    ) -> Iterator[tuple[slice, NDArray[np.float32], NDArray[np.int64]]]:
        """As neighbours.search_blocks; `own_rows`: the queries are the bank's rows, each left out of its neighbours."""
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
        found = rows == own[:, None]
        found[~found.any(axis=1), -1] = True  # an approximate search may miss the row itself: drop the last
        return values[~found].reshape(len(queries), k), rows[~found].reshape(len(queries), k)

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


def build_index(bank: NDArray[np.floating], factory: str, metric: str = "cosine", seed: int = 0) -> NeighbourIndex:
    """Train an index on a sample of the bank (N,D) and fill it, reading the bank in blocks.

    Raises:
        UsageError: FAISS does not know the factory string, or it does not go with D.
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
        index.add(_prepared(bank[start : start + _BLOCK], metric))
    return NeighbourIndex(index, factory, metric)


def load_index(path: Path, factory: str, metric: str) -> NeighbourIndex:
    """Map an index file into memory: pages are read when a search needs them, and shared between processes.

    Raises:
        DataError: there is none, or FAISS cannot read it.
    """
    if not path.exists():
        raise DataError(f"There is no index {path}.")
    try:
        return NeighbourIndex(faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC), factory, metric)
    except RuntimeError as error:
        raise DataError(f"{path} is not a FAISS index, or it is damaged: {_reason(error)}; build it again.") from error


def cached_index(bank: NDArray[np.floating], factory: str, metric: str, seed: int) -> NeighbourIndex:
    """`build_index`, or the one built before for the same rows, from the cache."""
    digest = hashlib.sha256(json.dumps([bank.shape, factory, metric, seed, faiss.__version__]).encode())
    for start in range(0, len(bank), _BLOCK):
        digest.update(np.ascontiguousarray(bank[start : start + _BLOCK], dtype=np.float32).data)
    path = cache_folder() / "indexes" / f"{digest.hexdigest()[:32]}.index"
    if path.exists():
        say(f"index {factory}: from the cache, {path}")
        return load_index(path, factory, metric)
    say(f"index {factory}: training it into the cache, {path}")
    index = build_index(bank, factory, metric, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    index.save(path)
    return index


def index_quality(
    index: NeighbourIndex,
    bank: NDArray[np.floating],
    queries: NDArray[np.floating] | None,
    k: int,
    sample: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """What an approximate index gives away, against exact search on a sample of the queries (None: the bank's own rows).

    Returns:
        factory, k, `recall` (share of the k exact neighbours that it finds), `sample`, `queries_per_second` of both
        on this machine, `bytes` of the index and `bytes_per_row`.
    """
    asked = bank if queries is None else queries
    rows = np.sort(np.random.default_rng(seed).permutation(len(asked))[:sample])
    some, own = asked[rows], rows if queries is None else None
    started = time.perf_counter()
    found = index.search(some, k, own)[1]
    seconds = time.perf_counter() - started
    started = time.perf_counter()
    exact = exact_without(bank, some, k, own, index.metric)
    exact_seconds = time.perf_counter() - started
    hits = sum(len(np.intersect1d(one[one >= 0], two)) for one, two in zip(found, exact, strict=True))
    size = index.size()
    return {
        "index": index.factory,
        "k": exact.shape[1],
        "recall": hits / max(1, exact.size),
        "sample": len(rows),
        "queries_per_second": len(rows) / seconds,
        "exact_queries_per_second": len(rows) / exact_seconds,
        "bytes": size,
        "bytes_per_row": size / len(bank),
    }


def exact_without(
    bank: NDArray[np.floating],
    queries: NDArray[np.floating],
    k: int,
    own: NDArray[np.int64] | None,
    metric: str = "cosine",
) -> NDArray[np.int64]:
    """Rows (M,K) of the exact neighbours, without each query's own row."""
    if own is None:
        return search(bank, queries, k, metric)[1]
    rows = search(bank, queries, min(k + 1, len(bank)), metric)[1]
    found = rows == own[:, None]
    found[~found.any(axis=1), -1] = True
    return rows[~found].reshape(len(queries), rows.shape[1] - 1)


def _writer(write: Callable[[bytes], None]) -> Any:
    return getattr(faiss, "PyCallbackIOWriter")(write)  # noqa: B009 - made at run time, which mypy cannot see


def _prepared(rows: Any, metric: str) -> NDArray[np.float32]:
    return l2_normalised(rows) if metric == "cosine" else np.ascontiguousarray(rows, dtype=np.float32)


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
    """FAISS prints its warnings to the process's standard error, one for every quantiser: ours is said before."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)
