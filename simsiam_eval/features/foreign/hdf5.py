"""Datasets of HDF5 files that other programs wrote."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from simsiam_eval.errors import DataError
from simsiam_eval.features.file import FORMAT, open_hdf5
from simsiam_eval.features.foreign.arrays import TEXT, ForeignArray, rows_per_block
from simsiam_eval.files.hdf5_links import broken_links
from simsiam_eval.files.hdf5_storage import require_stored
from simsiam_eval.files.hdf5_texts import is_text, texts


def hdf5_arrays(path: Path) -> list[ForeignArray]:
    """The datasets of an HDF5 file with at least one dimension, also those in groups.

    Raises:
        DataError: not an HDF5 file, or one of our own feature files.
    """
    arrays: list[ForeignArray] = []

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.shape:
            arrays.append(_array(path, name, item))

    with open_hdf5(path) as file:
        if file.attrs.get("format") == FORMAT:
            raise DataError(f"{path} already is a feature file of this program; use it as it is.")
        file.visititems(visit)
        broken = broken_links(file)
    if not arrays and broken:
        raise DataError(f"{path} has no datasets: {'; '.join(broken)}.")
    return arrays


def _array(path: Path, name: str, dataset: h5py.Dataset) -> ForeignArray:
    text = is_text(dataset)
    dtype, shape = (TEXT if text else dataset.dtype), tuple(dataset.shape)
    if not text and dtype.kind not in "fiub":
        return ForeignArray(
            name, shape, dtype, lambda: iter(()), f"has the data type {dtype}; expected numbers or text"
        )
    step = rows_per_block(shape, 8 if text else dtype.itemsize)
    if dataset.chunks and not text:  # whole chunks, or each would be read several times
        step = max(dataset.chunks[0], step // dataset.chunks[0] * dataset.chunks[0])

    def blocks() -> Iterator[NDArray[Any]]:
        with open_hdf5(path) as file:
            rows, where = file[name], f"{name} of {path}"
            require_stored(rows, where)
            try:
                for start in range(0, shape[0], step):
                    block = slice(start, start + step)
                    yield np.array(texts(rows, where, block), dtype=object) if text else np.asarray(rows[block])
            except OSError as error:
                raise DataError(f"{path} is damaged ({name}: {error}).") from error

    return ForeignArray(name, shape, dtype, blocks)
