"""How the datasets lie in a feature file: HDF5 makes them and their attributes, in room taken from the disk beforehand.

The room, because HDF5 does not survive a full disk: 2.0 ends in a segmentation fault when it closes a file that it could
not write.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray

from simsiam_eval.features.file import FORMAT, FORMAT_VERSION, JSON_ATTRIBUTES

_BLOCK = 1 << 13  # rows whose ids and labels are held at once
_TEXT = h5py.string_dtype("utf-8")
_VERSIONS: dict[str, Any] = {"locking": False, "libver": ("earliest", "v108")}
# More than HDF5's own records of a file take; what lies behind the end goes back to the disk when HDF5 closes the file.
_SLACK = 1 << 17


class Labels(Protocol):
    """(N,) int64, -1 for none: an array, or what makes its slices when asked."""

    def __getitem__(self, rows: slice, /) -> NDArray[np.int64]: ...


class Rows(Protocol):
    """What a feature file's rows are of; an ImageSource is one."""

    @property
    def labels(self) -> Labels: ...

    def __len__(self) -> int: ...

    def ids_of(self, rows: range) -> list[str]:
        """Names of those rows."""


def create_layout(
    path: Path,
    fd: int,
    rows: Rows,
    columns: Mapping[str, tuple[int, ...]],
    dtype: np.dtype,
    attributes: Mapping[str, Any],
) -> None:
    """Make the file, open as `fd`, one whose datasets are all allocated, with ids, labels and attributes; synced.

    Raises:
        OSError: the disk has no room for all of it, or fails.
    """
    count = len(rows)
    longest = max((len(name) for _, names in _encoded_ids(rows) for name in names), default=0)
    data_sets: dict[str, tuple[tuple[int, ...], Any]] = {
        "labels": ((count,), np.dtype(np.int64)),
        "ids": ((count,), h5py.string_dtype("utf-8", max(1, longest))),
        "valid": ((count,), np.dtype(np.bool_)),
        **{name: ((count, *shape), dtype) for name, shape in columns.items()},
    }
    empty = io.BytesIO()
    h5py.File(empty, "w", **_VERSIONS).close()
    os.ftruncate(fd, 0)
    pwrite_all(fd, empty.getvalue(), 0)
    data = sum(int(np.prod(shape)) * np.dtype(kind).itemsize for shape, kind in data_sets.values())
    _take_room(fd, data + 2 * sum(len(text.encode()) for text in _texts(attributes).values()) + _SLACK)
    with h5py.File(path, "r+", **_VERSIONS) as file:
        for name, (shape, kind) in data_sets.items():
            _allocate(file, name, shape, kind)
        add_header(file, attributes)
    places = places_in(path, ("ids", "labels"))
    for block, names in _encoded_ids(rows):
        width, labels = max(1, longest), np.asarray(rows.labels[block.start : block.stop], dtype=np.int64)
        pwrite_all(fd, np.array(names, dtype=f"S{width}").tobytes(), places["ids"][0] + block.start * width)
        pwrite_all(fd, labels.tobytes(), places["labels"][0] + block.start * labels.itemsize)
    os.fsync(fd)


def complete_layout(path: Path, fd: int, errors: Sequence[tuple[int, str, str]]) -> None:
    """Add `errors` (row, id, reason) and say that the file is complete.

    Raises:
        OSError: the disk has no room for that, or fails.
    """
    texts = sum(len(text.encode()) + 64 for _, *texts in errors for text in texts)
    _take_room(fd, os.fstat(fd).st_size + 2 * texts + _SLACK)
    with h5py.File(path, "r+", locking=False) as file:
        add_errors(file, errors)
        file.attrs["complete"] = True


def add_header(file: h5py.File, attributes: Mapping[str, Any]) -> None:
    """Root attributes of a feature file that is not complete yet."""
    file.attrs["format"], file.attrs["format_version"] = FORMAT, FORMAT_VERSION
    file.attrs["complete"] = False
    file.attrs["precision"] = attributes["precision"]
    for key, text in _texts(attributes).items():
        file.attrs[key] = text


def _texts(attributes: Mapping[str, Any]) -> dict[str, str]:
    from simsiam_eval.runtime.machine import versions

    described = {**attributes, "versions": versions()}
    return {key: json.dumps(described.get(key), ensure_ascii=False) for key in JSON_ATTRIBUTES}


def add_errors(file: h5py.File, errors: Sequence[tuple[int, str, str]]) -> None:
    """The dataset `errors` of a feature file."""
    kind = [("row", "<i8"), ("id", _TEXT), ("reason", _TEXT)]
    file.create_dataset("errors", data=np.array(errors, dtype=kind))


def storable(text: str) -> str:
    """`text` as `errors` can hold it: UTF-8, without zero bytes."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")


def places_in(path: Path, names: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Offset and size in bytes of datasets in the file."""
    with h5py.File(path, "r", locking=False) as file:
        return {name: (file[name].id.get_offset(), file[name].id.get_storage_size()) for name in names}


def pwrite_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    """os.pwrite until all is written."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def _take_room(fd: int, size: int) -> None:
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror} for a file of {size / 1e6:.1f} MB") from error


def _encoded_ids(rows: Rows) -> Iterator[tuple[range, list[bytes]]]:
    for start in range(0, len(rows), _BLOCK):
        block = range(start, min(start + _BLOCK, len(rows)))
        yield block, [name.encode("utf-8") for name in rows.ids_of(block)]


def _allocate(file: h5py.File, name: str, shape: tuple[int, ...], dtype: Any) -> None:
    """A contiguous dataset whose bytes have their place in the file from the start."""
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_layout(h5py.h5d.CONTIGUOUS)
    creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    creation.set_obj_track_times(False)  # the same rows make the same bytes
    links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
    links.set_create_intermediate_group(True)
    space, kind = h5py.h5s.create_simple(shape), h5py.h5t.py_create(np.dtype(dtype), logical=True)
    h5py.h5d.create(file.id, name.encode(), kind, space, dcpl=creation, lcpl=links)
