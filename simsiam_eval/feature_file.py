"""The feature file (HDF5): what is in it, how it is read, and how it is written so that a kill loses nothing.

Layout (docs/feature-file.md): `features` (N,D), `labels`, `ids`, `valid` (N,), `errors`, and root attributes.

While it is written the file is called NAME.part. All its data sets are allocated and its metadata written before the
first row; rows then go to their place with pwrite, and HDF5 touches the file again only at the very end. A row counts as
written when its `valid` flag is set, and flags are set after the rows are on disk: whatever the moment of a kill, the
.part file is whole, and what is not flagged is computed again.
"""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from simsiam_eval.atomic_file import atomic_write
from simsiam_eval.errors import DataError
from simsiam_eval.file_lock import lock_and_keep, unlock_and_close

FORMAT, FORMAT_VERSION = "simsiam-eval-features", 1
_SYNC_SECONDS = 5.0
_JSON_ATTRIBUTES = ("encoder", "preprocessing", "source", "versions")
_TEXT = h5py.string_dtype("utf-8")


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
    """

    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    ids: NDArray[np.str_]
    attributes: dict[str, Any]
    unreadable: int
    path: Path

    @property
    def class_names(self) -> list[str] | None:
        """Name of each label, or None where labels are numbers of their own."""
        names: list[str] | None = self.attributes["source"].get("class_names")
        return names


def read_attributes(path: Path) -> dict[str, Any]:
    """Root attributes of a feature file, its JSON texts parsed, with `shape` and `dtype` of the features and the number of
    `unreadable` images.

    Raises:
        DataError: missing, not HDF5, not a feature file, of a newer version, or not complete.
    """
    with _open(path) as file:
        return _attributes(file)


def read_features(path: Path) -> Features:
    """Read a whole feature file.

    Raises:
        DataError: as read_attributes; also features that are not finite, data sets that do not fit together, no
            readable row.
    """
    with _open(path) as file:
        attributes = _attributes(file)
        try:
            features, labels, valid = file["features"][:], file["labels"][:], file["valid"][:].astype(bool)
            ids = file["ids"].asstr()[:].astype(str)
        except (KeyError, OSError) as error:
            raise DataError(f"{path} is damaged: {error}; extract it again.") from error
    if features.ndim != 2 or not len(features) == len(labels) == len(ids) == len(valid):
        raise DataError(f"{path} is damaged: features {features.shape}, labels {labels.shape} and ids do not fit.")
    if not valid.any():
        raise DataError(f"{path} holds no row whose image could be read.")
    features = features[valid].astype(np.float32)
    if not np.isfinite(features).all():
        row = int(np.flatnonzero(valid)[~np.isfinite(features).all(axis=1)][0])
        raise DataError(f"{path} holds a feature that is not finite (row {row}); extract it again in float32.")
    return Features(features, labels[valid].astype(np.int64), ids[valid], attributes, int((~valid).sum()), path)


def _open(path: Path) -> h5py.File:
    if not path.exists():
        partial = _part(path)
        hint = f" ({partial.name} is an unfinished extraction: run its command again)" if partial.exists() else ""
        raise DataError(f"There is no feature file {path}{hint}.")
    try:
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        raise DataError(f"{path} is not an HDF5 file, or it is damaged.") from error


def _attributes(file: h5py.File) -> dict[str, Any]:
    name = file.filename
    found = {key: value.item() if isinstance(value, np.generic) else value for key, value in file.attrs.items()}
    if found.get("format") != FORMAT:
        raise DataError(f"{name} is HDF5 but not a feature file (no attribute format = {FORMAT}).")
    if found["format_version"] > FORMAT_VERSION:
        raise DataError(f"{name} has format version {found['format_version']}; this program reads {FORMAT_VERSION}.")
    if not found["complete"]:
        raise DataError(f"{name} is not complete: run its extraction again to finish it.")
    for key in _JSON_ATTRIBUTES:
        found[key] = json.loads(found[key])
    features = file["features"]
    found["shape"], found["dtype"], found["unreadable"] = features.shape, str(features.dtype), len(file["errors"])
    return found


def write_features(
    path: Path,
    features: NDArray[np.floating],
    labels: NDArray[np.int64],
    ids: Sequence[str],
    *,
    encoder: dict[str, Any],
    source: dict[str, Any],
    preprocessing: dict[str, Any] | None = None,
) -> None:
    """Write features that were computed elsewhere, so that every task can judge them.

    Args:
        features: (N,D) float32 or float16.
        labels: (N,) int64, -1 for none.
        ids: N texts.
        encoder, source, preprocessing: what the root attributes say; two files are only used together where
            encoder and preprocessing are equal.

    Raises:
        DataError: the file is there already or cannot be written.
    """
    if path.exists():
        raise DataError(f"{path} is there already: delete it or choose another name.")
    attributes = {"encoder": encoder, "preprocessing": preprocessing or {}, "source": source, "precision": "float32"}
    _part(path).unlink(missing_ok=True)
    with FeatureWriter(path, ids, labels, features.shape[1], str(features.dtype), attributes) as writer:
        writer.write(0, features, np.isfinite(features).all(axis=1))
        writer.finish([])


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


class FeatureWriter:
    """Writes one feature file by row ranges; goes on with an unfinished one of the same attributes.

    Args:
        path: the final name.
        ids, labels: of all N rows, known before the first.
        width: D.
        dtype: float32 or float16.
        attributes: encoder, preprocessing, source (dicts) and precision.

    Raises:
        DataError: another process writes it; the unfinished file belongs to another extraction; the disk is full.
    """

    def __init__(
        self,
        path: Path,
        ids: Sequence[str],
        labels: NDArray[np.int64],
        width: int,
        dtype: str,
        attributes: dict[str, Any],
    ) -> None:
        self._path, self._part, self._undo = path, _part(path), path.with_name(path.name + ".part.undo")
        self._pending: list[tuple[int, NDArray[np.bool_]]] = []
        self._synced = time.monotonic()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self._part, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise DataError(f"Cannot write {path}: {error.strerror}.") from error
        try:
            self._lock()
            self._roll_back_finish()
            if not self._fits(len(ids), width, dtype, attributes):
                self._create(ids, labels, width, dtype, attributes)
            self._read_layout()
        except OSError as error:
            self.close()
            raise self._disk_error(error) from error
        except BaseException:
            self.close()
            raise

    def _lock(self) -> None:
        try:
            lock_and_keep(self._fd)
        except BlockingIOError as error:
            raise DataError(f"Another process is writing {self._path}; wait for it or choose another --out.") from error

    def _fits(self, rows: int, width: int, dtype: str, attributes: dict[str, Any]) -> bool:
        """Whether the .part file is one of ours to go on with; False: there is nothing in it yet."""
        try:
            with h5py.File(self._part, "r", locking=False) as file:
                if not file.attrs.get("created", False):
                    return False
                same = file["features"].shape == (rows, width) and file["features"].dtype == dtype
                same = same and file.attrs["precision"] == attributes["precision"]
                same = same and all(
                    json.loads(file.attrs[key]) == attributes[key] for key in ("encoder", "preprocessing", "source")
                )
        except (OSError, KeyError):
            return False
        if not same:
            raise DataError(
                f"{self._part} is the beginning of another extraction (other encoder, images or settings): "
                "delete it or choose another --out."
            )
        return True

    def _create(
        self, ids: Sequence[str], labels: NDArray[np.int64], width: int, dtype: str, attributes: dict[str, Any]
    ) -> None:
        from simsiam_eval.result import versions

        encoded = [one.encode("utf-8") for one in ids]
        longest = max(1, max(map(len, encoded)))
        with h5py.File(self._part, "w", locking=False, libver=("earliest", "v108")) as file:
            file.create_dataset("labels", data=np.asarray(labels, dtype=np.int64))
            file.create_dataset("ids", data=np.array(encoded, dtype=h5py.string_dtype("utf-8", longest)))
            _allocate(file, "valid", (len(ids),), np.bool_)
            _allocate(file, "features", (len(ids), width), np.dtype(dtype))
            file.attrs["format"], file.attrs["format_version"] = FORMAT, FORMAT_VERSION
            file.attrs["complete"] = False
            file.attrs["precision"] = attributes["precision"]
            for key in _JSON_ATTRIBUTES:
                value = versions() if key == "versions" else attributes[key]
                file.attrs[key] = json.dumps(value, ensure_ascii=False)
            file.attrs["created"] = True  # last: without it the header may be half written
        # The disk's room is taken now: a disk too small says so here, not after a night.
        os.posix_fallocate(self._fd, 0, os.fstat(self._fd).st_size)
        os.fsync(self._fd)

    def _read_layout(self) -> None:
        with h5py.File(self._part, "r", locking=False) as file:
            self._raw = [
                (file[name].id.get_offset(), file[name].id.get_storage_size())
                for name in ("labels", "ids", "valid", "features")
            ]
            self._valid_at, self._features_at = self._raw[2][0], self._raw[3][0]
            self._dtype, self._width = file["features"].dtype, file["features"].shape[1]
            self.valid = file["valid"][:].astype(bool)

    def write(self, start: int, features: NDArray[np.floating], valid: NDArray[np.bool_]) -> None:
        """Store rows start, start+1, ...: features (B,D) and whether each is valid (B,); others are stored as 0.

        Raises:
            DataError: the disk is full, or a value does not fit in float16.
        """
        with np.errstate(over="ignore"):  # refused below
            rows = np.where(valid[:, None], features, 0).astype(self._dtype)
        if not np.isfinite(rows).all():
            raise DataError("A feature is too large for float16: use --dtype float32.")
        try:
            _pwrite_all(self._fd, rows.tobytes(), self._features_at + start * self._width * self._dtype.itemsize)
            self._pending.append((start, np.asarray(valid, dtype=bool)))
            if time.monotonic() - self._synced > _SYNC_SECONDS:
                self.sync()
        except OSError as error:
            raise self._disk_error(error) from error

    def sync(self) -> None:
        """Put the rows on disk, then the flags that say so."""
        os.fdatasync(self._fd)
        for start, valid in self._pending:
            _pwrite_all(self._fd, valid.astype(np.uint8).tobytes(), self._valid_at + start)
            self.valid[start : start + len(valid)] = valid
        self._pending.clear()
        self._synced = time.monotonic()

    def finish(self, errors: Sequence[tuple[int, str, str]]) -> None:
        """Add `errors` (row, id, reason), mark the file complete and give it its name."""
        try:
            self.sync()
            self._remember_for_roll_back()
            with h5py.File(self._part, "r+", locking=False) as file:
                table = np.array(list(errors), dtype=[("row", "<i8"), ("id", _TEXT), ("reason", _TEXT)])
                file.create_dataset("errors", data=table)
                del file.attrs["created"]
                file.attrs["complete"] = True
            os.fsync(self._fd)
            os.replace(self._part, self._path)
            self._undo.unlink()
        except OSError as error:
            raise self._disk_error(error) from error

    def _remember_for_roll_back(self) -> None:
        """Keep the bytes that HDF5 is about to change (all but the raw data): a kill in between must not cost the rows."""
        size, at, pieces = os.fstat(self._fd).st_size, 0, []
        for start, length in [*sorted(self._raw), (size, 0)]:
            pieces.append([at, base64.b64encode(os.pread(self._fd, start - at, at)).decode()])
            at = start + length
        with atomic_write(self._undo) as file:
            file.write(json.dumps({"size": size, "pieces": pieces}).encode())

    def _roll_back_finish(self) -> None:
        if not self._undo.exists():
            return
        kept = json.loads(self._undo.read_text())
        if os.fstat(self._fd).st_size >= kept["size"]:  # smaller: a new .part, the kept bytes are of a finished file
            for at, piece in kept["pieces"]:
                _pwrite_all(self._fd, base64.b64decode(piece), at)
            os.ftruncate(self._fd, kept["size"])
            os.fsync(self._fd)
        self._undo.unlink()

    def _disk_error(self, error: OSError) -> DataError:
        return DataError(
            f"Cannot write {self._path}: {error.strerror or error}; what is done is kept, run the same command again "
            "once that is mended."
        )

    def close(self) -> None:
        """Leave the file as it is; unfinished, it can be gone on with."""
        if self._fd >= 0:
            try:
                if self._pending:
                    self.sync()
            except OSError:
                pass  # the rows not flagged are computed again
            unlock_and_close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _allocate(file: h5py.File, name: str, shape: tuple[int, ...], dtype: Any) -> None:
    """A contiguous data set whose bytes have their place in the file from the start."""
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_layout(h5py.h5d.CONTIGUOUS)
    creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    space, kind = h5py.h5s.create_simple(shape), h5py.h5t.py_create(np.dtype(dtype), logical=True)
    h5py.h5d.create(file.id, name.encode(), kind, space, dcpl=creation)


def _pwrite_all(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written
