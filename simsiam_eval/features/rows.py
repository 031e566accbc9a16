"""The rows of a feature file, read when they are asked for: a file larger than memory is an array like any other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np
from numpy.typing import NDArray

from simsiam_eval.errors import DataError
from simsiam_eval.features.file import Features, read_attributes, refuse_unnamed, say_left_out
from simsiam_eval.features.layers import chosen_layers


class FeatureRows:
    """Some rows of a dataset of a feature file, as `(N,D)` float32 that lies on the disk.

    `rows[a:b]` and `rows[numbers]` read float32 arrays; a contiguous dataset, as ours all are, is memory-mapped.

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

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def take(self, rows: NDArray[np.int64]) -> FeatureRows:
        """These rows of these rows."""
        return FeatureRows(self.path, self._column, self.numbers(rows))

    def numbers(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows of the file that these are."""
        return rows if self._rows is None else self._rows[rows]

    def __getitem__(self, which: slice | NDArray[np.int64]) -> NDArray[np.float32]:
        rows = which if self._rows is None else self._rows[which]
        if isinstance(rows, slice) or isinstance(self._stored, np.memmap):
            block = np.array(self._stored[rows], dtype=np.float32)  # a copy: the file is mapped read-only
        else:  # h5py wants rising numbers, each once
            there, back = np.unique(rows, return_inverse=True)
            block = np.asarray(self._stored[there], dtype=np.float32)[back]
        if not np.isfinite(block).all():
            place = int(np.flatnonzero(~np.isfinite(block).reshape(len(block), -1).all(axis=1))[0])
            row = range(self._stored.shape[0])[rows][place] if isinstance(rows, slice) else int(rows[place])
            raise DataError(f"{self.path} holds a feature that is not finite (row {row}); extract it again in float32.")
        return block

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype=dtype)


def open_features(path: Path, wanted: Sequence[str] = ()) -> Features:
    """As feature_file.read_features, but `features` stay on the disk: `FeatureRows` without the unreadable rows.

    Args:
        wanted: of which layer (the first that feature_layers.chosen_layers gives), which the attributes then name; default:
            the file's own.

    Raises:
        DataError: as read_features; features that are not finite only when they are read.
    """
    attributes = read_attributes(path)
    with h5py.File(path, "r", locking=False) as file:
        try:
            labels, valid = file["labels"][:].astype(np.int64), file["valid"][:].astype(bool)
            ids = file["ids"].asstr()[:].astype(str)
        except (KeyError, OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path} is damaged: {error}; extract it again.") from error
    column = "features"
    if wanted:
        layer, column = next(iter(chosen_layers(wanted, path).items()))
        if column != "features":
            attributes["encoder"] |= {"layer": layer}
            attributes["shape"] = (attributes["shape"][0], *attributes["columns"][column])
    shape = attributes["shape"]
    if len(shape) != 2 or not shape[0] == len(labels) == len(ids) == len(valid):
        raise DataError(f"{path} is damaged: features {shape}, labels {labels.shape} and ids do not fit.")
    if not valid.any():
        raise DataError(f"{path} holds no row whose image could be read.")
    say_left_out(path, valid)
    refuse_unnamed(path, labels, attributes)
    kept = np.flatnonzero(valid)
    # It has of an array what is used of one: shape, len, slices and lists of rows.
    values = cast("NDArray[np.float32]", FeatureRows(path, column, None if valid.all() else kept))
    return Features(values, labels[valid], ids[valid], attributes, int((~valid).sum()), path, kept, {})
