"""The arrays of a foreign file: described first, and read block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsiam_eval.errors import DataError
from simsiam_eval.files.text import label_text

TEXT = np.dtype(object)  # of an array whose rows are str, or None where there is none
_BLOCK_BYTES, _BLOCK_ROWS = 1 << 24, 1 << 13


@dataclass(frozen=True)
class ForeignArray:
    """One array, or column, of a foreign file.

    Attributes:
        name: key in the file; "" for the only array of a file without keys.
        shape: (N, ...).
        dtype: of the rows; `TEXT` for strings.
        blocks: reads all rows in order, as arrays (B, ...); a missing number is NaN, a missing string None.
        problem: why the array cannot be read, such as "contains Python objects"; None if it can.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    blocks: Callable[[], Iterator[NDArray[Any]]]
    problem: str | None = None

    @property
    def is_text(self) -> bool:
        return self.dtype.kind in "OUS"

    @property
    def is_matrix(self) -> bool:
        """Whether these are numbers with several per row."""
        return self.dtype.kind in "fiu" and len(self.shape) > 1

    def described(self) -> str:
        """Name, shape and data type, such as `X (10, 512) float32`."""
        kind = "text" if self.is_text else str(self.dtype)
        return f"{self.name} {self.shape} {kind}".strip()


def rows_per_block(shape: Sequence[int], itemsize: int) -> int:
    """Rows of an array (N, ...) that are in memory at once."""
    row_bytes = max(1, int(np.prod(shape[1:], dtype=np.int64)) * itemsize)
    return max(1, min(_BLOCK_ROWS, _BLOCK_BYTES // row_bytes))


def sliced_array(name: str, rows: Any, problem: str | None = None) -> ForeignArray:
    """An array that is read by slices: NumPy's, memory-mapped or not, or a dataset of HDF5."""
    step = rows_per_block(rows.shape, rows.dtype.itemsize)

    def blocks() -> Iterator[NDArray[Any]]:
        return (np.asarray(rows[start : start + step]) for start in range(0, rows.shape[0], step))

    return ForeignArray(name, tuple(rows.shape), rows.dtype, blocks, problem)


def text_array(name: str, texts: Sequence[str | None]) -> ForeignArray:
    """An array of strings in memory."""

    def blocks() -> Iterator[NDArray[Any]]:
        for start in range(0, len(texts), _BLOCK_ROWS):
            yield np.array(texts[start : start + _BLOCK_ROWS], dtype=object)

    return ForeignArray(name, (len(texts),), TEXT, blocks)


def joined_arrays(arrays: Sequence[ForeignArray], names: Sequence[str]) -> ForeignArray:
    """Parts of one array, one after the other.

    Args:
        names: of the files of the parts, for messages.

    Raises:
        DataError: they differ in the shape of their rows, or some are text and others numbers.
    """
    first = arrays[0]
    for array, name in zip(arrays, names, strict=True):
        if array.shape[1:] != first.shape[1:] or array.is_text != first.is_text:
            raise DataError(
                f"{names[0]} and {name} cannot be joined: {first.described()} and {array.described()} differ; expected "
                "rows of the same shape and type."
            )
    dtype = first.dtype if first.is_text else np.result_type(*(array.dtype for array in arrays))

    def blocks() -> Iterator[NDArray[Any]]:
        for array in arrays:
            yield from array.blocks()

    rows = sum(array.shape[0] for array in arrays)
    problem = next((array.problem for array in arrays if array.problem), None)
    return replace(first, shape=(rows, *first.shape[1:]), dtype=dtype, blocks=blocks, problem=problem)


def texts_of(array: ForeignArray) -> Iterable[str | None]:
    """The rows of a one-dimensional array as text, None where there is none; 3.0 is "3"."""
    for block in array.blocks():
        for value in block.tolist():
            if isinstance(value, bytes):
                yield label_text(value, array.name or "The array")
            elif isinstance(value, float):
                yield None if np.isnan(value) else str(int(value)) if value.is_integer() else str(value)
            else:
                yield None if value is None else str(value)
