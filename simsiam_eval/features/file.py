"""The feature file (HDF5) and how it is read. Layout: docs/feature-file.md; writing: feature_writer."""

from __future__ import annotations

import errno
import json
import os
import resource
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from simsiam_eval.errors import DataError
from simsiam_eval.runtime.progress import say
from simsiam_eval.vocabulary import FEATURE_FILE_FORMAT, PRECISIONS
from simsiam_eval.wording import counted

FORMAT, FORMAT_VERSION = FEATURE_FILE_FORMAT, 1
JSON_ATTRIBUTES = ("encoder", "preprocessing", "source", "views", "computation", "versions")
# Bytes of `valid` in a .part file: 0 for a row that is not written, and these.
VALID, UNREADABLE = 1, 2
_OTHER_FILES = 256  # descriptors for all that is not a part of a virtual file
_parts_of: dict[str, int] = {}  # virtual files that were opened -> how many parts each has
_BLOCK_BYTES = 1 << 24  # of features held at once by those who read block by block


@dataclass(frozen=True)
class Features:
    """A feature file in memory, without the rows whose image could not be read.

    Attributes:
        features: (N,D) float32.
        labels: (N,) int64, -1 for none.
        ids: (N,) str.
        attributes: the root attributes, with encoder, preprocessing, source and versions as dicts.
        unreadable: how many rows were left out.
        path: where it was read.
        rows: (N,) which rows of the file these are.
        columns: further datasets that were asked for, such as `layers/layer3` (N,D) or `views` (N,V,D), of the file's type.
    """

    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    ids: NDArray[np.str_]
    attributes: dict[str, Any]
    unreadable: int
    path: Path
    rows: NDArray[np.int64]
    columns: dict[str, NDArray[np.floating]]

    @property
    def class_names(self) -> list[str] | None:
        """Name of each label, or None where labels are numbers of their own."""
        names: list[str] | None = self.attributes["source"].get("class_names")
        return names

    def subset(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Features:
        """Only these rows, or those that are True in (N,); features that lie on the disk stay there."""
        if rows.dtype == bool:
            if rows.all():
                return self
            rows = np.flatnonzero(rows)
        columns = {name: values[rows] for name, values in self.columns.items()}
        values: Any = self.features
        some = {name: getattr(self, name)[rows] for name in ("labels", "ids", "rows")}
        return replace(
            self,
            features=values[rows] if isinstance(values, np.ndarray) else values.take(rows),
            columns=columns,
            **some,
        )


def read_attributes(path: Path) -> dict[str, Any]:
    """Root attributes of a feature file, its JSON texts parsed, with `shape` and `dtype` of the features, the number of
    `unreadable` images, and `columns`: dataset -> shape of a row, of `features`, `layers/NAME` and `views`.

    Raises:
        DataError: missing, not HDF5, not a feature file, of a newer version, or not complete.
    """
    with _open(path) as file:
        return _attributes(file)


def read_features(path: Path, columns: Sequence[str] = ()) -> Features:
    """Read a whole feature file.

    Args:
        columns: further datasets to read, of those in `read_attributes(path)["columns"]`.

    Raises:
        DataError: as read_attributes; also features that are not finite, datasets that do not fit together, no
            readable row.
    """
    with _open(path) as file:
        attributes = _attributes(file)
        try:
            features, labels, valid = file["features"][:], file["labels"][:], file["valid"][:].astype(bool)
            ids = file["ids"].asstr()[:].astype(str)
            more = {name: file[name][:] for name in columns}
        except (KeyError, OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path} is damaged: {error}; extract it again.") from error
    lengths = {len(one) for one in (features, labels, ids, valid, *more.values())}
    if features.ndim != 2 or len(lengths) > 1:
        raise DataError(f"{path} is damaged: features {features.shape}, labels {labels.shape} and ids do not fit.")
    if not valid.any():
        raise DataError(f"{path} holds no row whose image could be read.")
    say_left_out(path, valid)
    refuse_unnamed(path, labels, attributes)
    features, rows = features[valid].astype(np.float32), np.flatnonzero(valid)
    more = {name: values if valid.all() else values[valid] for name, values in more.items()}
    for values in (features, *more.values()):
        if not np.isfinite(values).all():
            row = int(rows[~np.isfinite(values).reshape(len(rows), -1).all(axis=1)][0])
            raise DataError(f"{path} holds a feature that is not finite (row {row}); extract it again in float32.")
    labels, ids = labels[valid].astype(np.int64), ids[valid]
    return Features(features, labels, ids, attributes, int((~valid).sum()), path, rows, more)


def say_left_out(path: Path, valid: NDArray[np.bool_]) -> None:
    """Rows (N,) of a file whose image could not be read are left out by all who read it, and none does so unsaid."""
    if not valid.all():
        say(f"{path}: {counted(int((~valid).sum()), 'unreadable image')} left out.")


def refuse_unnamed(path: Path, labels: NDArray[np.int64], attributes: Mapping[str, Any]) -> None:
    """Labels (N,) are numbers of the class names, where there are any.

    Raises:
        DataError: one is beyond them.
    """
    names = attributes["source"].get("class_names")
    if names is not None and len(labels) and labels.max() >= len(names):
        row = int(labels.argmax())
        raise DataError(
            f"{path} is damaged: row {row} has the label {labels[row]}, and there are {len(names)} class names."
        )


def _open(path: Path) -> h5py.File:
    if not path.exists():
        partial = part_of(path)
        hint = f" ({partial.name} is an unfinished extraction: run its command again)" if partial.exists() else ""
        raise DataError(f"There is no feature file {path}{hint}.")
    try:
        os.close(os.open(path, os.O_RDONLY))  # HDF5 calls every refusal the same
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}.") from error
    try:
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        raise DataError(f"{path} is not an HDF5 file, or it is damaged.") from error


def _attributes(file: h5py.File) -> dict[str, Any]:
    name = file.filename
    found = {key: value.item() if isinstance(value, np.generic) else value for key, value in file.attrs.items()}
    if found.get("format") != FORMAT:
        raise DataError(f"{name} is HDF5 but not a feature file (no attribute format = {FORMAT}).")
    try:
        if found["format_version"] > FORMAT_VERSION:
            raise DataError(
                f"{name} has format version {found['format_version']}; this program reads {FORMAT_VERSION}."
            )
        if not found["complete"]:
            raise DataError(f"{name} is not complete: delete it and extract it again.")
        for key in JSON_ATTRIBUTES:
            found[key] = json.loads(found.get(key, "null"))
        features = file["features"]
        found["shape"], found["dtype"], found["unreadable"] = features.shape, str(features.dtype), len(file["errors"])
        found["columns"] = {"features": features.shape[1:]}
        found["columns"] |= {f"layers/{name}": layer.shape[1:] for name, layer in file.get("layers", {}).items()}
        if "views" in file:
            found["columns"]["views"] = file["views"].shape[1:]
        if wrong := _malformed(found):
            raise ValueError(wrong)
        found["parts"] = _parts(file, features, found)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{name} is damaged: {error}; extract it again.") from error
    return found


def _malformed(attributes: Mapping[str, Any]) -> str | None:
    """What is wrong with the first attribute that is not as docs/feature-file.md has it."""
    for key in ("encoder", "preprocessing", "source", "views"):
        if not isinstance(attributes[key], dict) and (key, attributes[key]) != ("views", None):
            return f"the attribute {key} is not a JSON object"
    precision, source = attributes.get("precision"), attributes["source"]
    if not isinstance(precision, str) or precision not in PRECISIONS:
        return f"the attribute precision is not one of {', '.join(PRECISIONS)}"
    names = source.get("class_names")
    if names is not None and not (isinstance(names, list) and all(isinstance(one, str) for one in names)):
        return "its source's class_names are no list of names"
    rows = attributes["shape"][0]
    match source.get("rows"):
        case None if "rows" not in source:
            return None
        case [int(first), int(last)] if 0 <= first < last <= source.get("rows_of", last) and last - first == rows:
            return None
    return f"its source says rows {source['rows']} of {source.get('rows_of', 'more')}, and it holds {rows}"


def differences(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Names of the attributes in which a file is not what is wanted of it, "source.fingerprint" for one within another. How
    the source is spelled (spec) is no difference: the fingerprint says what lies there.

    >>> differences({"views": 1, "source": {"spec": "a", "fingerprint": "1"}}, {"source": {"spec": "b", "fingerprint": "2"}})
    ['source.fingerprint']
    """
    found = []
    for key, value in wanted.items():
        other = there.get(key)
        if isinstance(value, dict) and isinstance(other, dict):
            names = sorted({name for name in {*value, *other} if value.get(name) != other.get(name)} - {"spec"})
            found += [f"{key}.{name}" for name in names]
        elif other != value:
            found.append(key)
    return found


def in_hdf5(path: str) -> str:
    """A file's name as a virtual dataset has it: there % begins a block's number (H5Pset_virtual).

    >>> in_hdf5("50% of it.h5")
    '50%% of it.h5'
    """
    return path.replace("%", "%%")


def _parts(file: h5py.File, features: h5py.Dataset, attributes: dict[str, Any]) -> list[Path]:
    """The files that a virtual one points at: HDF5 reads zeros where one is missing, so that it must be seen here."""
    if not features.is_virtual:
        return []
    folder = Path(file.filename).resolve().parent
    _allow_open_files(file.filename, len(features.virtual_sources()))
    sources, first = features.virtual_sources(), attributes["source"].get("rows", [0])[0]
    parts = [folder / source.file_name.replace("%%", "%") for source in sources]
    for source, part in zip(sources, parts, strict=True):
        if not part.exists():
            raise DataError(
                f"{file.filename} is virtual and its part {part} is missing: put it back, or delete the "
                f"virtual file and merge again."
            )
        with _open(part) as other:
            theirs = _attributes(other)
        same = all(
            theirs[key] == attributes[key] for key in ("encoder", "preprocessing", "views", "precision", "dtype")
        )
        start, end = (int(corner[0]) for corner in source.vspace.get_select_bounds())
        same = same and theirs["source"].get("rows") == [first + start, first + end + 1]
        if not same or theirs["source"].get("fingerprint") != attributes["source"].get("fingerprint"):
            raise DataError(
                f"{file.filename} is virtual and its part {part} is not the one it was made of: delete the virtual "
                "file and merge again."
            )
    return parts


def _allow_open_files(name: str, parts: int) -> None:
    """HDF5 keeps all parts of a virtual file open, and reads zeros where it cannot open one more. Of several such files any
    may be open together.

    Raises:
        DataError: the system allows fewer.
    """
    _parts_of[name] = parts
    needed = sum(_parts_of.values()) + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            raise DataError(
                f"{name} points at {parts} parts, which have to be open together ({needed} files with others), and the "
                f"system allows {hard} (ulimit -n): merge them without --virtual."
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


@dataclass(frozen=True)
class FeatureBlock:
    """Consecutive rows of a feature file as they are stored.

    Attributes:
        columns: dataset (`features`, `layers/NAME`, `views`) -> (B, ...) of the file's dtype.
        labels: (B,) int64. valid: (B,) bool. ids: B texts.
    """

    rows: range
    columns: dict[str, NDArray[np.floating]]
    labels: NDArray[np.int64]
    valid: NDArray[np.bool_]
    ids: list[str]


class FeatureReader:
    """A complete feature file, read block by block at a memory that does not grow with its rows.

    Raises:
        DataError: as read_attributes.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.file = path, _open(path)
        try:
            self.attributes = _attributes(self.file)
        except BaseException:
            self.file.close()
            raise
        self.columns: dict[str, tuple[int, ...]] = self.attributes["columns"]

    def __len__(self) -> int:
        return int(self.attributes["shape"][0])

    @property
    def block_rows(self) -> int:
        """Rows of a block."""
        row_bytes = sum(int(np.prod(shape)) for shape in self.columns.values()) * self.file["features"].dtype.itemsize
        return max(1, min(1 << 13, _BLOCK_BYTES // row_bytes))

    def blocks(self) -> Iterator[FeatureBlock]:
        """All rows in order.

        Raises:
            DataError: a block cannot be read.
        """
        for start in range(0, len(self), self.block_rows):
            rows = range(start, min(start + self.block_rows, len(self)))
            yield self.block(rows)

    def block(self, rows: range) -> FeatureBlock:
        """Those rows."""
        here = slice(rows.start, rows.stop)
        try:
            columns = {name: self.file[name][here] for name in self.columns}
            labels, valid = self.labels(rows), self.file["valid"][here].astype(bool)
            return FeatureBlock(rows, columns, labels, valid, self.ids(rows))
        except (OSError, KeyError, UnicodeDecodeError) as error:
            raise DataError(f"{self.path} is damaged (rows {rows.start} to {rows.stop}): {error}.") from error

    def labels(self, rows: range) -> NDArray[np.int64]:
        """Labels of those rows."""
        labels: NDArray[np.int64] = self.file["labels"][rows.start : rows.stop]
        return labels

    def ids(self, rows: range) -> list[str]:
        """Names of those rows."""
        return self.file["ids"].asstr()[rows.start : rows.stop].tolist()

    def reasons(self, rows: range) -> dict[int, tuple[str, str]]:
        """row -> (id, why it could not be read), of those rows."""
        first, last = np.searchsorted(self._error_rows, (rows.start, rows.stop))
        return {int(row): (name.decode(), why.decode()) for row, name, why in self.file["errors"][first:last]}

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


def part_of(path: Path) -> Path:
    """What the feature file `path` is called while it is written."""
    return path.with_name(path.name + ".part")
