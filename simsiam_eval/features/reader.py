"""Read a feature file: whole, with features that stay on disk, or block by block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from simsiam_eval.errors import DataError
from simsiam_eval.features.file import attributes_of, open_hdf5
from simsiam_eval.features.layers import chosen_layers
from simsiam_eval.features.provenance import is_imported
from simsiam_eval.features.rows import FeatureRows
from simsiam_eval.features.table import Features
from simsiam_eval.runtime.progress import say
from simsiam_eval.wording import counted

_BLOCK_BYTES = 1 << 24  # of features in memory at once when a file is read block by block


def read_images(
    file: h5py.File, rows: slice = slice(None)
) -> tuple[NDArray[np.str_], NDArray[np.int64], NDArray[np.bool_]]:
    """Ids (B,), labels (B,) and `valid` (B,) of rows of an open file; `valid` is true where the file has no such dataset.

    Raises:
        KeyError, OSError, UnicodeDecodeError: the file is damaged.
    """
    ids, labels = file["ids"].asstr()[rows].astype(str), file["labels"][rows].astype(np.int64)
    return ids, labels, file["valid"][rows].astype(bool) if "valid" in file else np.ones(len(ids), dtype=bool)


def read_features(path: Path, columns: Sequence[str] = ()) -> Features:
    """Read a whole feature file, without the rows whose image could not be read.

    Args:
        columns: further datasets to read, of those in `read_attributes(path)["columns"]`.

    Raises:
        DataError: as `read_attributes`; also features that are not finite, datasets that do not fit together, no
            readable row.
    """
    with open_hdf5(path) as file:
        attributes = attributes_of(file)
        try:
            ids, labels, valid = read_images(file)
            arrays = {name: file[name][:] for name in ("features", *columns)}
        except (KeyError, OSError, TypeError, UnicodeDecodeError) as error:
            raise DataError(f"{path} is damaged: {error}; extract it again.") from error
    kept = _valid_rows(path, attributes, ids, labels, valid, [values.shape for values in arrays.values()])
    arrays["features"] = arrays["features"].astype(np.float32, copy=False)
    arrays = {name: values if valid.all() else values[kept] for name, values in arrays.items()}
    for values in arrays.values():
        if not np.isfinite(values).all():
            row = int(kept[~np.isfinite(values).reshape(len(kept), -1).all(axis=1)][0])
            raise DataError(f"{path} contains a feature that is not finite (row {row}); extract it again in float32.")
    features = arrays.pop("features")
    return Features(
        features=features,
        columns=arrays,
        ids=ids[kept],
        labels=labels[kept],
        rows=kept,
        width=features.shape[1],
        attributes=attributes,
        unreadable=len(ids) - len(kept),
        path=path,
    )


def open_features(path: Path, layers: Sequence[str] = ()) -> Features:
    """As `read_features`, but the features stay on the disk (`FeatureRows`) and are read in blocks.

    Args:
        layers: of which layer (the first that `layers.chosen_layers` gives), which the attributes then name; default: the
            file's own.

    Raises:
        DataError: as `read_features`; features that are not finite only when they are read.
    """
    with open_hdf5(path) as file:
        attributes = attributes_of(file)
        try:
            ids, labels, valid = read_images(file)
        except (KeyError, OSError, TypeError, UnicodeDecodeError) as error:
            raise DataError(f"{path} is damaged: {error}; extract it again.") from error
    column = "features"
    if layers:
        layer, column = next(iter(chosen_layers(layers, path).items()))
        if column != "features":
            attributes["encoder"] |= {"layer": layer}
            attributes["shape"] = (attributes["shape"][0], *attributes["columns"][column])
    kept = _valid_rows(path, attributes, ids, labels, valid, [attributes["shape"]])
    return Features(
        features=FeatureRows(path, column, None if valid.all() else kept),
        columns={},
        ids=ids[kept],
        labels=labels[kept],
        rows=kept,
        width=attributes["shape"][1],
        attributes=attributes,
        unreadable=len(ids) - len(kept),
        path=path,
    )


def _valid_rows(
    path: Path,
    attributes: dict[str, Any],
    ids: NDArray[np.str_],
    labels: NDArray[np.int64],
    valid: NDArray[np.bool_],
    shapes: Sequence[tuple[int, ...]],
) -> NDArray[np.int64]:
    """Rows whose image could be read; the others are left out, and counted on the terminal.

    Args:
        shapes: of the features and the other arrays that are read.

    Raises:
        DataError: the datasets do not fit together, no image could be read, or a label has no class name.
    """
    if len(shapes[0]) != 2 or {shape[0] for shape in shapes} | {len(labels), len(valid)} != {len(ids)}:
        raise DataError(f"{path} is damaged: features {shapes[0]}, labels {labels.shape} and ids do not match.")
    if not valid.any():
        raise DataError(f"{path} contains no readable images.")
    if not valid.all():
        what = "invalid row" if is_imported(attributes) else "unreadable image"
        say(f"{path}: {counted(int((~valid).sum()), what)} skipped.")
    names = attributes["source"].get("class_names")
    if names is not None and labels.max() >= len(names):
        row = int(labels.argmax())
        raise DataError(
            f"{path} is damaged: row {row} has the label {labels[row]}, but there are only {len(names)} class names."
        )
    return np.flatnonzero(valid)


@dataclass(frozen=True)
class FeatureBlock:
    """Consecutive rows of a feature file as they are stored.

    Attributes:
        columns: dataset (`features`, `layers/NAME`, `views`) -> (B, ...) of the file's dtype.
        labels: (B,) int64. valid: (B,) bool. ids: B strings.
    """

    rows: range
    columns: dict[str, NDArray[np.floating]]
    labels: NDArray[np.int64]
    valid: NDArray[np.bool_]
    ids: list[str]


class FeatureReader:
    """A complete feature file, read block by block, at a memory that does not grow with its rows.

    Raises:
        DataError: as `read_attributes`.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.file = path, open_hdf5(path)
        try:
            self.attributes = attributes_of(self.file)
        except BaseException:
            self.file.close()
            raise
        self.columns: dict[str, tuple[int, ...]] = self.attributes["columns"]

    def __len__(self) -> int:
        return int(self.attributes["shape"][0])

    @property
    def block_rows(self) -> int:
        """Number of rows in a block."""
        row_bytes = sum(int(np.prod(shape)) for shape in self.columns.values()) * self.file["features"].dtype.itemsize
        return max(1, min(1 << 13, _BLOCK_BYTES // row_bytes))

    def ranges(self) -> Iterator[range]:
        """The rows of each block, in order."""
        return (range(start, min(start + self.block_rows, len(self))) for start in range(0, len(self), self.block_rows))

    def blocks(self) -> Iterator[FeatureBlock]:
        """All rows in order.

        Raises:
            DataError: a block cannot be read.
        """
        return map(self.block, self.ranges())

    def block(self, rows: range) -> FeatureBlock:
        """A range of rows. Raises DataError as `blocks`."""
        try:
            columns = {name: self.file[name][rows.start : rows.stop] for name in self.columns}
            ids, labels, valid = read_images(self.file, slice(rows.start, rows.stop))
        except (OSError, KeyError, UnicodeDecodeError) as error:
            raise DataError(f"{self.path} is damaged (rows {rows.start} to {rows.stop}): {error}.") from error
        return FeatureBlock(rows, columns, labels, valid, ids.tolist())

    def labels(self, rows: range) -> NDArray[np.int64]:
        """Labels (B,) of a range of rows."""
        labels: NDArray[np.int64] = self.file["labels"][rows.start : rows.stop]
        return labels

    def ids(self, rows: range) -> list[str]:
        """Ids of a range of rows."""
        return self.file["ids"].asstr()[rows.start : rows.stop].tolist()

    def reasons(self, rows: range) -> dict[int, tuple[str, str]]:
        """row -> (id, why its image could not be read), for a range of rows."""
        first, last = np.searchsorted(self._error_rows, (rows.start, rows.stop))
        return {int(row): (name.decode(), reason.decode()) for row, name, reason in self.file["errors"][first:last]}

    @cached_property
    def _error_rows(self) -> NDArray[np.int64]:
        rows: NDArray[np.int64] = self.file["errors"]["row"]
        return rows

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()
