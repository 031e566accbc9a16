"""The datasets of a feature file: HDF5 creates them and their attributes in space allocated beforehand.

The space is allocated first because HDF5 does not survive a full disk: version 2.0 crashes with a segmentation fault when
it closes a file that it could not write.
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

_BLOCK = 1 << 13  # rows whose ids and labels are in memory at a time
_TEXT = h5py.string_dtype("utf-8")
_FILE_OPTIONS: dict[str, Any] = {"locking": False, "libver": ("earliest", "v108")}
# More bytes than the metadata of HDF5 need; HDF5 truncates the file to its size when it closes it.
_METADATA_BYTES = 1 << 17


class Labels(Protocol):
    """(N,) int64, -1 for none: an array, or an object that computes slices of one."""

    def __getitem__(self, rows: slice, /) -> NDArray[np.int64]: ...


class Rows(Protocol):
    """The ids and labels of a feature file's rows, such as an ImageSource."""

    @property
    def labels(self) -> Labels: ...

    def __len__(self) -> int: ...

    def ids_of(self, rows: range) -> list[str]:
        """Ids of these rows."""


def create_layout(
    path: Path,
    fd: int,
    rows: Rows,
    columns: Mapping[str, tuple[int, ...]],
    dtype: np.dtype,
    attributes: Mapping[str, Any],
) -> None:
    """Allocate all datasets in an open file, write ids, labels and attributes, and sync it to the disk.

    Args:
        path, fd: the file and its descriptor; its content is overwritten.
        rows: ids and labels.
        columns: dataset -> shape of its rows.
        dtype: of the columns.
        attributes: root attributes.

    Raises:
        OSError: the disk is too full or fails.
    """
    count = len(rows)
    longest = max((len(name) for _, names in _encoded_ids(rows) for name in names), default=0)
    datasets: dict[str, tuple[tuple[int, ...], Any]] = {
        "labels": ((count,), np.dtype(np.int64)),
        "ids": ((count,), h5py.string_dtype("utf-8", max(1, longest))),
        "valid": ((count,), np.dtype(np.bool_)),
        **{name: ((count, *shape), dtype) for name, shape in columns.items()},
    }
    empty = io.BytesIO()
    h5py.File(empty, "w", **_FILE_OPTIONS).close()
    os.ftruncate(fd, 0)
    pwrite_all(fd, empty.getvalue(), 0)
    data_bytes = sum(int(np.prod(shape)) * np.dtype(kind).itemsize for shape, kind in datasets.values())
    text_bytes = sum(len(text.encode()) for text in _json_attributes(attributes).values())
    _allocate_space(fd, data_bytes + 2 * text_bytes + _METADATA_BYTES)
    with h5py.File(path, "r+", **_FILE_OPTIONS) as file:
        for name, (shape, kind) in datasets.items():
            _allocate_dataset(file, name, shape, kind)
        add_header(file, attributes)
    extents = dataset_extents(path, ("ids", "labels"))
    width = max(1, longest)
    for block, names in _encoded_ids(rows):
        labels = np.asarray(rows.labels[block.start : block.stop], dtype=np.int64)
        pwrite_all(fd, np.array(names, dtype=f"S{width}").tobytes(), extents["ids"][0] + block.start * width)
        pwrite_all(fd, labels.tobytes(), extents["labels"][0] + block.start * labels.itemsize)
    os.fsync(fd)


def complete_layout(path: Path, fd: int, errors: Sequence[tuple[int, str, str]]) -> None:
    """Add the dataset `errors` (row, id, reason) and mark the file complete.

    Raises:
        OSError: the disk is too full or fails.
    """
    text_bytes = sum(len(text.encode()) + 64 for _, *texts in errors for text in texts)
    _allocate_space(fd, os.fstat(fd).st_size + 2 * text_bytes + _METADATA_BYTES)
    with h5py.File(path, "r+", locking=False) as file:
        add_errors(file, errors)
        file.attrs["complete"] = True


def add_header(file: h5py.File, attributes: Mapping[str, Any]) -> None:
    """Set the root attributes, with `complete` false."""
    file.attrs["format"], file.attrs["format_version"] = FORMAT, FORMAT_VERSION
    file.attrs["complete"] = False
    file.attrs["precision"] = attributes["precision"]
    for key, text in _json_attributes(attributes).items():
        file.attrs[key] = text


def _json_attributes(attributes: Mapping[str, Any]) -> dict[str, str]:
    from simsiam_eval.runtime.machine import versions

    values = {**attributes, "versions": versions()}
    return {key: json.dumps(values.get(key), ensure_ascii=False) for key in JSON_ATTRIBUTES}


def add_errors(file: h5py.File, errors: Sequence[tuple[int, str, str]]) -> None:
    """Create the dataset `errors` (row, id, reason)."""
    kind = [("row", "<i8"), ("id", _TEXT), ("reason", _TEXT)]
    file.create_dataset("errors", data=np.array(errors, dtype=kind))


def storable(text: str) -> str:
    """`text` as the dataset `errors` can store it: valid UTF-8 without zero bytes."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")


def dataset_extents(path: Path, names: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Dataset -> its offset and size in the file, in bytes."""
    with h5py.File(path, "r", locking=False) as file:
        return {name: (file[name].id.get_offset(), file[name].id.get_storage_size()) for name in names}


def pwrite_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    """Call os.pwrite until all bytes are written."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def _allocate_space(fd: int, size: int) -> None:
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror} for a file of {size / 1e6:.1f} MB") from error


def _encoded_ids(rows: Rows) -> Iterator[tuple[range, list[bytes]]]:
    for start in range(0, len(rows), _BLOCK):
        block = range(start, min(start + _BLOCK, len(rows)))
        yield block, [name.encode("utf-8") for name in rows.ids_of(block)]


def _allocate_dataset(file: h5py.File, name: str, shape: tuple[int, ...], dtype: Any) -> None:
    """Create a contiguous dataset whose bytes are allocated in the file at once."""
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_layout(h5py.h5d.CONTIGUOUS)
    creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    creation.set_obj_track_times(False)  # so that equal rows give equal bytes
    links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
    links.set_create_intermediate_group(True)
    space, kind = h5py.h5s.create_simple(shape), h5py.h5t.py_create(np.dtype(dtype), logical=True)
    h5py.h5d.create(file.id, name.encode(), kind, space, dcpl=creation, lcpl=links)
