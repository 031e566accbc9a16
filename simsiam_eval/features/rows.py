"""Feature matrices indexed by row: NumPy arrays, and datasets of a feature file that stay on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray

from simsiam_eval.errors import DataError


class FeatureMatrix(Protocol):
    """(N, ...) floats by row number. NumPy arrays are such matrices, and so are `FeatureRows`."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice | NDArray[np.int64], /) -> NDArray[np.floating]: ...


class FeatureRows:
    """Rows of a dataset of a feature file, as an array (N,D) float32 that stays on the disk.

    `rows[a:b]` and `rows[numbers]` read float32 arrays. A contiguous dataset, as all of ours are, is memory-mapped.

    Args:
        column: `features`, `views` or `layers/NAME`.
        rows: which rows of the file, in this order; default: all.

    Raises:
        DataError: the file lacks the column; on reading, a feature that is not finite.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, path: Path, column: str = "features", rows: NDArray[np.int64] | None = None) -> None:
        self.path, self._column, self._rows = path, column, rows
        file = h5py.File(path, "r", locking=False)
        if column not in file:
            raise DataError(f"{path} has no dataset {column}.")
        stored = file[column]
        self._stored: Any = stored
        plain = stored.chunks is None and stored.external is None and not stored.is_virtual
        if plain and stored.size and stored.id.get_offset() is not None:
            self._stored = np.memmap(path, stored.dtype, "r", stored.id.get_offset(), stored.shape)
            file.close()
        count = self._stored.shape[0] if rows is None else len(rows)
        self.shape: tuple[int, ...] = (int(count), *self._stored.shape[1:])

    def __repr__(self) -> str:
        column = "" if self._column == "features" else f"{self._column} of "
        shape = " x ".join(map(str, self.shape))
        return f"{type(self).__name__}({shape} from {column}{self.path.name})"

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def take(self, rows: NDArray[np.int64]) -> FeatureRows:
        """A part of these rows, on the disk too."""
        return FeatureRows(self.path, self._column, self.in_file(rows))

    def in_file(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The numbers that rows have in the file."""
        return rows if self._rows is None else self._rows[rows]

    def __getitem__(self, index: Any, /) -> NDArray[np.float32]:
        """float32 copies, of what NumPy's indexing of an array (N,D) gives: a row, rows, a mask, `rows, columns`."""
        rows, *columns = index if isinstance(index, tuple) else (index,)
        if rows is Ellipsis:
            rows = slice(None)
        if isinstance(rows, slice):
            block = self._read(rows)
            return block[(slice(None), *columns)] if columns else block
        chosen = np.arange(len(self))[rows]  # NumPy's rules: negative numbers, masks, what is out of bounds
        block = self._read(np.atleast_1d(chosen))
        return block[(slice(None) if chosen.ndim else 0, *columns)]

    def _read(self, rows: slice | NDArray[np.int64]) -> NDArray[np.float32]:
        in_file = rows if self._rows is None else self._rows[rows]
        if isinstance(in_file, slice) or isinstance(self._stored, np.memmap):
            block = np.array(self._stored[in_file], dtype=np.float32)  # a copy: the file is mapped read-only
        else:  # h5py wants ascending numbers without repetition
            numbers, positions = np.unique(in_file, return_inverse=True)
            block = np.asarray(self._stored[numbers], dtype=np.float32)[positions]
        if not np.isfinite(block).all():
            at = int(np.flatnonzero(~np.isfinite(block).reshape(len(block), -1).all(axis=1))[0])
            row = range(self._stored.shape[0])[in_file][at] if isinstance(in_file, slice) else int(in_file[at])
            raise DataError(
                f"{self.path} contains a feature that is not finite (row {row}); extract it again in float32."
            )
        return block

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype=dtype)
