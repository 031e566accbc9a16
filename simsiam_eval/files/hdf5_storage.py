"""Which rows of an HDF5 dataset are not stored anywhere: HDF5 reads them as its fill value (zeros unless the file says
otherwise), without an error.

Chunks and datasets that were never written, virtual parts that are gone or shorter than they were, and external files that
are too short. Only the layout is read, not the values.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from simsiam_eval.errors import DataError
from simsiam_eval.files.hdf5_filters import require_filters
from simsiam_eval.files.hdf5_links import member
from simsiam_eval.wording import counted

if TYPE_CHECKING:
    import h5py

_NEVER_WRITTEN = "it was never written"
_Place = tuple[str, str]  # file and name of a dataset


@dataclass(frozen=True)
class UnstoredRows:
    """The rows of a dataset of N rows that are not stored.

    Attributes:
        codes: (N,) int32, 0 for a stored row, else 1 + the index of the reason.
        reasons: why rows are not stored, as clauses of a sentence.
    """

    codes: NDArray[np.int32]
    reasons: tuple[str, ...]

    def reason(self, row: int) -> str | None:
        """Why a row is not stored; None if it is."""
        code = int(self.codes[row])
        return self.reasons[code - 1] if code else None


def unstored_rows(dataset: h5py.Dataset, _within: tuple[_Place, ...] = ()) -> UnstoredRows | None:
    """The rows of a dataset with at least one dimension that are not stored, even in part; None if all are.

    Raises:
        DataError: it is compressed with a filter that is missing, or it is virtual and one of its own parts.
    """
    shape = dataset.shape
    if not shape or not math.prod(shape):
        return None
    place = os.path.realpath(dataset.file.filename), dataset.name
    require_filters(dataset, f"{dataset.name} of {dataset.file.filename}")
    if place in _within:
        raise DataError(f"{place[1]} of {dataset.file.filename} is a virtual dataset that is a part of itself.")
    if dataset.is_virtual:
        found = _unstored_virtual(dataset, (*_within, place))
    elif dataset.external:
        found = _unstored_external(dataset)
    elif dataset.chunks:
        found = _unstored_chunks(dataset)
    else:
        is_stored = dataset.id.get_offset() is not None or dataset.id.get_storage_size() > 0  # the latter: compact
        found = [] if is_stored else [(np.arange(shape[0]), _NEVER_WRITTEN)]
    codes, reasons = np.zeros(shape[0], dtype=np.int32), dict[str, int]()
    for rows, reason in found:
        codes[rows] = reasons.setdefault(reason, len(reasons) + 1)
    return UnstoredRows(codes, tuple(reasons)) if reasons else None


def require_stored(dataset: h5py.Dataset, where: str) -> None:
    """Raises DataError: a row of the dataset, which messages call `where`, is not stored."""
    if unstored := unstored_rows(dataset):
        rows = np.flatnonzero(unstored.codes)
        raise DataError(
            f"{where} is incomplete: {counted(len(rows), 'row')} of {len(unstored.codes)} "
            f"{'is' if len(rows) == 1 else 'are'} not stored (row "
            f"{rows[0]}: {unstored.reason(int(rows[0]))})."
        )


def virtual_sources(dataset: h5py.Dataset) -> Iterator[tuple[Any, Path]]:
    """The mappings of a virtual dataset, and the file of each as HDF5 finds it: beside the dataset's, or in the working
    folder."""
    file = Path(dataset.file.filename)
    for source in dataset.virtual_sources():
        name = source.file_name.replace("%%", "%")
        beside = file.resolve().parent / name
        yield source, file if name == "." else Path(name) if not beside.exists() and Path(name).exists() else beside


def _unstored_chunks(dataset: h5py.Dataset) -> list[tuple[NDArray[np.int64], str]]:
    shape, chunks = dataset.shape, dataset.chunks
    grid = [math.ceil(length / chunk) for length, chunk in zip(shape, chunks, strict=True)]
    if dataset.id.get_num_chunks() == math.prod(grid):
        return []
    stored = np.zeros(grid[0], dtype=np.int64)

    def count(chunk: Any) -> None:
        stored[chunk.chunk_offset[0] // chunks[0]] += 1

    dataset.id.chunk_iter(count)
    missing = np.flatnonzero(stored < math.prod(grid[1:]))
    rows = (missing[:, None] * chunks[0] + np.arange(chunks[0])).ravel()
    return [(rows[rows < shape[0]], _NEVER_WRITTEN)]


def _unstored_external(dataset: h5py.Dataset) -> list[tuple[NDArray[np.int64], str]]:
    row_bytes = dataset.dtype.itemsize * math.prod(dataset.shape[1:])
    found, start, total = [], 0, row_bytes * dataset.shape[0]
    for name, offset, size in dataset.external:
        path = os.path.join(os.fsdecode(dataset.id.get_access_plist().get_efile_prefix() or b""), name)
        size = min(size, total - start)
        there = os.path.getsize(path) if os.path.isfile(path) else None
        stored = 0 if there is None else min(max(there - offset, 0), size)
        if stored < size:
            rows = np.arange((start + stored) // row_bytes, min(-(-(start + size) // row_bytes), dataset.shape[0]))
            state = "is missing" if there is None else "is too short"
            found.append((rows, f"the external file {path} {state}"))
        start += size
    return found


def _unstored_virtual(dataset: h5py.Dataset, within: tuple[_Place, ...]) -> list[tuple[NDArray[np.int64], str]]:
    shape = dataset.shape
    covered, found = np.zeros(shape[0], dtype=np.int64), []
    for source, path in virtual_sources(dataset):
        if "%b" in source.file_name.replace("%%", ""):  # one file per block, as many as there are: HDF5 cuts the shape
            return []
        blocks = _blocks(source.vspace, shape)
        rows = np.unique(np.concatenate([np.arange(first[0], last[0] + 1) for first, last in blocks]))
        for first, last in blocks:
            covered[first[0] : last[0] + 1] += math.prod((last[1:] - first[1:] + 1).tolist())
        found += _unstored_part(dataset, rows, source, path, within)
    uncovered = np.flatnonzero(covered < math.prod(shape[1:]))
    return [(uncovered, "no part of the virtual dataset contains it"), *found] if len(uncovered) else found


def _unstored_part(
    dataset: h5py.Dataset, rows: NDArray[np.int64], source: Any, path: Path, within: tuple[_Place, ...]
) -> list[tuple[NDArray[np.int64], str]]:
    """Those of `rows` whose part of a virtual dataset is not stored."""
    import h5py

    try:
        # Opened as the dataset's file is, because HDF5 may have opened it already.
        settings = dataset.file.id.get_access_plist()
        with h5py.File(h5py.h5f.open(os.fsencode(path), h5py.h5f.ACC_RDONLY, settings)) as file:
            part = member(file, source.dset_name)
            if not isinstance(part, h5py.Dataset) or not part.shape:
                return [(rows, f"{path} has no dataset {source.dset_name}")]
            if not _fits(source, part.shape):  # of a part that shrank, HDF5 may read what lies behind it, or crash
                return [(rows, f"its part {path} does not have the shape that it had")]
            selection = _blocks(source.src_space, part.shape)
            unstored = unstored_rows(part, within)
    except OSError:
        return [(rows, f"its file {path} is {'not a readable HDF5 file' if path.exists() else 'missing'}")]
    if not unstored:
        return []
    part_rows = np.unique(np.concatenate([np.arange(first[0], last[0] + 1) for first, last in selection]))
    if len(part_rows) < len(rows):  # not row by row
        return [(rows, f"its part {path} is incomplete")]
    codes = unstored.codes[part_rows[: len(rows)]]
    found = []
    for code, reason in enumerate(unstored.reasons, start=1):
        found.append((rows[codes == code], reason if ".h5" in reason else f"in its part {path}, {reason}"))
    return [(missing, reason) for missing, reason in found if len(missing)]


def _fits(source: Any, shape: tuple[int, ...]) -> bool:
    """Whether a part still has what a virtual dataset selects of it."""
    import h5py

    if source.src_space.get_select_type() == h5py.h5s.SEL_HYPERSLABS:
        rows = int(_blocks(source.src_space, shape)[:, 1, 0].max()) + 1
        return rows <= shape[0] and tuple(source.src_space.shape[1:]) == shape[1:]
    first, last = _blocks(source.vspace, shape)[0]
    row, selected = math.prod((last[1:] - first[1:] + 1).tolist()), source.vspace.get_select_npoints()
    # A part that grew is read from its start.
    return math.prod(shape) == selected or (math.prod(shape[1:]) == row and math.prod(shape) >= selected)


def _blocks(space: Any, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """(B,2,D) the first and last corners of the blocks that a data space selects."""
    import h5py

    if space.get_select_type() == h5py.h5s.SEL_HYPERSLABS:
        return np.asarray(space.get_select_hyper_blocklist(), dtype=np.int64)
    return np.array([[[0] * len(shape), [length - 1 for length in shape]]], dtype=np.int64)
