"""How a feature file is written so that no kill costs a row, at a memory that does not grow with the rows.

While it is written the file is called NAME.part. All its data sets are allocated and its metadata written before the
first row; rows then go to their place with pwrite, and HDF5 touches the file again only at the very end. A row counts as
written when its flag is set, and flags are set after the rows are on disk: whatever the moment of a kill, the .part file is
whole, and what is not flagged is computed again. The flags are the bytes of `valid`: 1, and until the end 2 for a row that
could not be read, whose reason then stands in NAME.part.errors. Several processes may write rows of one file; the first
creates and finishes it.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from simsiam_eval.atomic_file import atomic_write
from simsiam_eval.errors import DataError
from simsiam_eval.feature_file import FORMAT, FORMAT_VERSION, JSON_ATTRIBUTES, part_of
from simsiam_eval.file_lock import lock_and_keep, unlock_and_close

_SYNC_SECONDS = 5.0
_BLOCK = 1 << 16  # rows whose ids and labels are held at once
_TEXT = h5py.string_dtype("utf-8")
_VALID, _UNREADABLE = 1, 2


class Rows(Protocol):
    """What a feature file's rows are of; an ImageSource is one."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,) -1 for none."""

    def __len__(self) -> int: ...

    def ids_of(self, rows: range) -> list[str]:
        """Names of those rows."""


class FeatureWriter:
    """Writes one feature file by row ranges; goes on with an unfinished one of the same attributes.

    Args:
        path: the final name.
        rows: ids and labels of all N rows.
        columns: data set -> shape of a row in it: `features` (D,), perhaps `layers/NAME` (D,) and `views` (V,D).
        dtype: float32 or float16.
        attributes: encoder, preprocessing, source, views (dicts or None) and precision.
        number: which of several processes this is; number 0 must have made its writer before the others.

    Raises:
        DataError: another process writes it; the unfinished file belongs to another extraction; the disk is full.
    """

    def __init__(
        self,
        path: Path,
        rows: Rows,
        columns: Mapping[str, tuple[int, ...]],
        dtype: str,
        attributes: Mapping[str, Any],
        number: int = 0,
    ) -> None:
        self._path, self._part, self._undo = path, part_of(path), path.with_name(path.name + ".part.undo")
        self._reasons = path.with_name(f"{path.name}.part.errors.{number}")
        self._pending: list[tuple[int, NDArray[np.uint8]]] = []
        self._columns, self._dtype = dict(columns), np.dtype(dtype)
        self._synced = time.monotonic()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self._part, os.O_RDWR | os.O_CREAT * (number == 0), 0o666)
        except OSError as error:
            raise DataError(f"Cannot write {path}: {error.strerror}.") from error
        try:
            if number == 0:
                self._lock()
                self._roll_back_finish()
                if not self._fits(len(rows), attributes):
                    self._create(rows, attributes)
                # The disk's room is taken now: a disk too small says so here, not after a night.
                os.posix_fallocate(self._fd, 0, os.fstat(self._fd).st_size)
                os.fsync(self._fd)
            self._read_layout(len(rows))
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

    def _fits(self, rows: int, attributes: Mapping[str, Any]) -> bool:
        """Whether the .part file is one of ours to go on with; False: there is nothing in it yet."""
        try:
            with h5py.File(self._part, "r", locking=False) as file:
                if not file.attrs.get("created", False):
                    return False
                same = file.attrs["precision"] == attributes["precision"]
                same = same and ("views" in file) == ("views" in self._columns)
                same = same and len(file.get("layers", ())) == sum(name.startswith("layers/") for name in self._columns)
                for name, shape in self._columns.items():
                    same = same and file[name].shape == (rows, *shape) and file[name].dtype == self._dtype
                same = same and all(
                    json.loads(file.attrs[key]) == attributes.get(key) for key in JSON_ATTRIBUTES if key != "versions"
                )
        except (OSError, KeyError):
            return False
        if not same:
            raise DataError(
                f"{self._part} is the beginning of another extraction (other encoder, images or settings): "
                "delete it or choose another --out."
            )
        return True

    def _create(self, rows: Rows, attributes: Mapping[str, Any]) -> None:
        from simsiam_eval.result import versions

        for old in self._all_reasons():
            old.unlink()
        longest = max((len(name) for _, names in _encoded_ids(rows) for name in names), default=0)
        with h5py.File(self._part, "w", locking=False, libver=("earliest", "v108")) as file:
            count = len(rows)
            for name, shape, dtype in (
                ("labels", (count,), np.dtype(np.int64)),
                ("ids", (count,), h5py.string_dtype("utf-8", max(1, longest))),
                ("valid", (count,), np.dtype(np.bool_)),
                *((name, (count, *shape), self._dtype) for name, shape in self._columns.items()),
            ):
                _allocate(file, name, shape, dtype)
            for block, names in _encoded_ids(rows):
                file["ids"][block.start : block.stop] = np.array(names, dtype=file["ids"].dtype)
                file["labels"][block.start : block.stop] = rows.labels[block.start : block.stop]
            file.attrs["format"], file.attrs["format_version"] = FORMAT, FORMAT_VERSION
            file.attrs["complete"] = False
            file.attrs["precision"] = attributes["precision"]
            for key in JSON_ATTRIBUTES:
                value = versions() if key == "versions" else attributes.get(key)
                file.attrs[key] = json.dumps(value, ensure_ascii=False)
            file.attrs["created"] = True  # last: without it the header may be half written

    def _read_layout(self, rows: int) -> None:
        with h5py.File(self._part, "r", locking=False) as file:
            places = {
                name: (file[name].id.get_offset(), file[name].id.get_storage_size())
                for name in ("labels", "ids", "valid", *self._columns)
            }
        self._raw = sorted(places.values())
        self._at = {name: place for name, (place, _) in places.items()}
        # Mapped, not read: ten million flags need no memory of their own.
        self._flags = np.memmap(self._part, np.uint8, "r", self._at["valid"], (rows,))

    def is_written(self, rows: range) -> bool:
        """Whether all those rows are in the file, or known to be unreadable."""
        return bool(self._flags[rows.start : rows.stop].all())

    def write(
        self,
        start: int,
        columns: Mapping[str, NDArray[np.floating]],
        reasons: Mapping[int, tuple[str, str]] | None = None,
    ) -> None:
        """Store rows start, start+1, ...

        Args:
            columns: data set -> (B, ...) finite values, of each of the file's columns.
            reasons: row -> (id, why it has no features); 0 is stored for it.

        Raises:
            DataError: the disk is full, or a value does not fit in float16.
        """
        reasons = reasons or {}
        flags = np.full(len(columns["features"]), _VALID, dtype=np.uint8)
        flags[[row - start for row in reasons]] = _UNREADABLE
        try:
            for name, shape in self._columns.items():
                with np.errstate(over="ignore"):  # refused below
                    values = np.asarray(columns[name]).astype(self._dtype)
                values[flags == _UNREADABLE] = 0
                if not np.isfinite(values).all():
                    raise DataError("A feature is too large for float16: use --dtype float32.")
                row_bytes = int(np.prod(shape)) * self._dtype.itemsize
                _pwrite_all(self._fd, values.tobytes(), self._at[name] + start * row_bytes)
            if reasons:
                # The newline comes first: the line before may be torn by a kill.
                lines = ["\n" + json.dumps([row, name, reason]) for row, (name, reason) in sorted(reasons.items())]
                with self._reasons.open("a", encoding="utf-8") as file:
                    file.writelines(lines)
                    file.flush()
                    os.fsync(file.fileno())
            self._pending.append((start, flags))
            if time.monotonic() - self._synced > _SYNC_SECONDS:
                self.sync()
        except OSError as error:
            raise self._disk_error(error) from error

    def sync(self) -> None:
        """Put the rows on disk, then the flags that say so."""
        os.fdatasync(self._fd)
        for start, flags in self._pending:
            _pwrite_all(self._fd, flags.tobytes(), self._at["valid"] + start)
        self._pending.clear()
        self._synced = time.monotonic()

    def finish(self) -> int:
        """Add `errors` (row, id, reason), mark the file complete and give it its name; returns how many errors.

        Raises:
            DataError: rows are missing; the disk is full.
        """
        try:
            self.sync()
            missing = len(self._flags) - int(np.count_nonzero(self._flags))
            if missing:
                raise DataError(f"{missing} rows of {self._path} are not written: run the same command again.")
            errors = self._errors()
            self._remember_for_roll_back()
            with h5py.File(self._part, "r+", locking=False) as file:
                table = np.array(errors, dtype=[("row", "<i8"), ("id", _TEXT), ("reason", _TEXT)])
                file.create_dataset("errors", data=table)
                del file.attrs["created"]
                file.attrs["complete"] = True
            for row, *_ in errors:
                _pwrite_all(self._fd, b"\0", self._at["valid"] + row)
            os.fsync(self._fd)
            os.replace(self._part, self._path)
            remove_leftovers(self._path)
        except OSError as error:
            raise self._disk_error(error) from error
        return len(errors)

    def _errors(self) -> list[tuple[int, str, str]]:
        """(row, id, reason) of every row flagged as unreadable, from what all processes noted."""
        found = {}
        for path in self._all_reasons():
            for line in path.read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(ValueError):  # torn by a kill: its row is not flagged, or was noted again
                    row, name, reason = json.loads(line)
                    if self._flags[row] == _UNREADABLE:
                        found[row] = (row, name, reason)
        return [found[row] for row in sorted(found)]

    def _all_reasons(self) -> list[Path]:
        return _beside(self._path, ".part.errors.")

    def _remember_for_roll_back(self) -> None:
        """Keep the bytes that HDF5 is about to change (all but the raw data): a kill in between must not cost the rows."""
        size, at, pieces = os.fstat(self._fd).st_size, 0, []
        for start, length in [*self._raw, (size, 0)]:
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


def remove_leftovers(path: Path) -> None:
    """Remove what a kill just after `path` got its name has left beside it."""
    if not part_of(path).exists():
        for old in (*_beside(path, ".part.undo"), *_beside(path, ".part.errors.")):
            old.unlink(missing_ok=True)


def _beside(path: Path, ending: str) -> list[Path]:
    prefix = path.name + ending
    return [entry for entry in sorted(path.parent.iterdir()) if entry.name.startswith(prefix)]


class _GivenRows:
    """Ids and labels that are in memory."""

    def __init__(self, ids: Sequence[str], labels: NDArray[np.int64]) -> None:
        self.ids, self.labels = ids, np.asarray(labels, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.ids)

    def ids_of(self, rows: range) -> list[str]:
        return [str(name) for name in self.ids[rows.start : rows.stop]]


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
        features: (N,D) float32 or float16; a row that is not finite becomes an invalid one.
        labels: (N,) int64, -1 for none.
        ids: N texts.
        encoder, source, preprocessing: what the root attributes say; two files are only used together where
            encoder and preprocessing are equal.

    Raises:
        DataError: the file is there already or cannot be written.
        ValueError: shapes or dtype are not those above.
    """
    if (
        features.ndim != 2
        or not len(features) == len(labels) == len(ids)
        or str(features.dtype) not in ("float32", "float16")
    ):
        raise ValueError(
            f"features (N,D) float32 or float16 with N labels and ids are wanted, got {features.dtype} {features.shape}, "
            f"{len(labels)} labels and {len(ids)} ids"
        )
    if path.exists():
        raise DataError(f"{path} is there already: delete it or choose another name.")
    attributes = {"encoder": encoder, "preprocessing": preprocessing or {}, "source": source, "precision": "float32"}
    part_of(path).unlink(missing_ok=True)
    rows, columns = _GivenRows(ids, labels), {"features": (features.shape[1],)}
    with FeatureWriter(path, rows, columns, str(features.dtype), attributes) as writer:
        bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
        writer.write(
            0, {"features": features}, {row: (ids[row], "the features are not finite") for row in bad.tolist()}
        )
        writer.finish()


def _encoded_ids(rows: Rows) -> Iterator[tuple[range, list[bytes]]]:
    for start in range(0, len(rows), _BLOCK):
        block = range(start, min(start + _BLOCK, len(rows)))
        yield block, [name.encode("utf-8") for name in rows.ids_of(block)]


def _allocate(file: h5py.File, name: str, shape: tuple[int, ...], dtype: Any) -> None:
    """A contiguous data set whose bytes have their place in the file from the start."""
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_layout(h5py.h5d.CONTIGUOUS)
    creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    creation.set_obj_track_times(False)  # the same rows make the same bytes
    links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
    links.set_create_intermediate_group(True)
    space, kind = h5py.h5s.create_simple(shape), h5py.h5t.py_create(np.dtype(dtype), logical=True)
    h5py.h5d.create(file.id, name.encode(), kind, space, dcpl=creation, lcpl=links)


def _pwrite_all(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written
