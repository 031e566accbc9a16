"""How a feature file is written so that no kill costs a row, at a memory that does not grow with the rows.

While it is written the file is called NAME.part (NAME.part.new until its datasets are allocated and ids and labels are in
it). Rows go to their place with pwrite, and HDF5 touches the file again only at the very end. A row counts as written when
its flag is set, and flags are set after the rows are on disk: whatever the moment of a kill, the .part file is whole, and
what is not flagged is computed again. The flags are the bytes of `valid`: 1, and until the end 2 for a row that could not be
read, whose reason then stands in NAME.part.errors.K, K being the process that found it. Several processes may write rows of
one file; the first creates and finishes it.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from simsiam_eval.errors import BeingWritten, DataError
from simsiam_eval.features.file import JSON_ATTRIBUTES, UNREADABLE, VALID, differences, part_of
from simsiam_eval.features.layout import Rows, complete_layout, create_layout, places_in, pwrite_all, storable
from simsiam_eval.files.atomic import sync_folder
from simsiam_eval.files.lock import lock_and_keep, unlock_and_close

_SYNC_SECONDS, _SYNC_BLOCKS = 5.0, 1024
_BLOCK = 1 << 20  # flags looked at at once
_LONGEST_NAME = 255 - len(".part.errors.9999")  # of a file, in bytes


class FeatureWriter:
    """Writes one feature file by row ranges; goes on with an unfinished one of the same attributes.

    Args:
        path: the final name.
        rows: ids and labels of all N rows.
        columns: dataset -> shape of a row in it: `features` (D,), perhaps `layers/NAME` (D,) and `views` (V,D).
        dtype: float32 or float16.
        attributes: encoder, preprocessing, source, views (dicts or None) and precision.
        number: which of several processes this is; number 0 must have made its writer before the others.

    Raises:
        DataError: the file is there already; another process writes it; the unfinished file belongs to another
            extraction or is damaged; the disk is full.
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
        if len(os.fsencode(path.name)) > _LONGEST_NAME:
            raise DataError(f"{path} cannot be written: its name is too long (at most {_LONGEST_NAME} bytes).")
        self._pending: list[tuple[int, NDArray[np.uint8]]] = []
        self._columns, self._dtype, self._rows = dict(columns), np.dtype(dtype), len(rows)
        self._synced = time.monotonic()
        self._fd = self._notes = -1
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if number == 0:
                self._fd = self._open_and_lock(rows, attributes)
                self._roll_back_finish()
                self._refuse_another(attributes)
            else:
                self._fd = os.open(self._part, os.O_RDWR)
            notes = path.with_name(f"{path.name}.part.errors.{number}")
            self._notes = self._locked(os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666))
            places = places_in(self._part, ("labels", "ids", "valid", *self._columns))
        except OSError as error:
            self.close()
            raise self._disk_error(error) from error
        except BaseException:
            self.close()
            raise
        self._raw = sorted(places.values())
        self._at = {name: place for name, (place, _) in places.items()}
        self._map_flags()

    def _open_and_lock(self, rows: Rows, attributes: Mapping[str, Any]) -> int:
        """The .part file, made where there is none; no other process can have it."""
        new = self._part.with_name(self._part.name + ".new")
        name, fd = self._part, -1
        while not _is_named(fd, name) or (name == new and self._part.exists()):
            # Another process may have given the file its next name before its lock was free.
            if fd >= 0:
                unlock_and_close(fd)
            name = self._part if self._part.exists() else new
            fd = self._locked(os.open(name, os.O_RDWR | os.O_CREAT, 0o666))
        try:
            if self._path.exists():
                raise BeingWritten(f"{self._path} is there already: delete it or choose another --out.")
            for notes in self._all_notes():  # a process of an earlier run, whose first process was killed, may go on
                unlock_and_close(self._locked(os.open(notes, os.O_RDWR)))
            if name == new:
                self._create(new, fd, rows, attributes)
        except BaseException:
            if name == new:
                new.unlink(missing_ok=True)
            unlock_and_close(fd)
            raise
        return fd

    def _locked(self, fd: int) -> int:
        try:
            lock_and_keep(fd)
        except BlockingIOError as error:
            os.close(fd)
            raise BeingWritten(
                f"Another process is writing {self._path}; wait for it or choose another --out."
            ) from error
        return fd

    def _create(self, new: Path, fd: int, rows: Rows, attributes: Mapping[str, Any]) -> None:
        for old in (self._undo, *self._all_notes()):
            old.unlink(missing_ok=True)
        # All of the disk's room is taken here: a disk too small says so now, not after a night.
        create_layout(new, fd, rows, self._columns, self._dtype, attributes)
        os.replace(new, self._part)
        sync_folder(self._part.parent)

    def _refuse_another(self, attributes: Mapping[str, Any]) -> None:
        try:
            with h5py.File(self._part, "r", locking=False) as file:
                keys = [key for key in JSON_ATTRIBUTES if key != "versions"]
                there = {key: json.loads(file.attrs[key]) for key in keys} | {"precision": file.attrs["precision"]}
                differ = differences(there, {key: attributes.get(key) for key in there})
                same = ("views" in file) == ("views" in self._columns)
                same = same and len(file.get("layers", ())) == sum(name.startswith("layers/") for name in self._columns)
                for name, shape in self._columns.items():
                    same = same and name in file
                    same = same and file[name].shape == (self._rows, *shape) and file[name].dtype == self._dtype
                differ += [] if same else ["columns"]
        except (OSError, KeyError, ValueError) as error:
            raise DataError(f"{self._part} is damaged ({error}): delete it to begin anew.") from error
        if differ:
            raise DataError(
                f"{self._part} is the beginning of another extraction (other encoder, images or settings: "
                f"{', '.join(differ)}): delete it or choose another --out."
            )

    def _map_flags(self) -> None:
        # Mapped, not read: ten million flags need no memory of their own. Mapping anew shows what other machines wrote.
        self._flags = np.memmap(self._part, np.uint8, "r", self._at["valid"], (self._rows,))

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
            columns: dataset -> (B, ...) finite values, of each of the file's columns.
            reasons: row -> (id, why it has no features); 0 is stored for it.

        Raises:
            DataError: the disk is full, or a value does not fit in float16.
            ValueError: rows that the file has not, or of another shape; nothing is written then.
        """
        reasons, count = reasons or {}, len(columns["features"])
        self._refuse_misfit(range(start, start + count), columns, reasons)
        flags = np.full(count, VALID, dtype=np.uint8)
        flags[[row - start for row in reasons]] = UNREADABLE
        try:
            for name, shape in self._columns.items():
                with np.errstate(over="ignore"):  # refused below
                    values = np.ascontiguousarray(columns[name], dtype=self._dtype)
                if reasons:
                    values = np.where((flags == VALID).reshape(-1, *(1 for _ in shape)), values, self._dtype.type(0))
                if not np.isfinite(values).all():
                    raise DataError(f"A feature is too large for {self._dtype}: use --dtype float32.")
                row_bytes = int(np.prod(shape)) * self._dtype.itemsize
                pwrite_all(self._fd, values.reshape(-1).view(np.uint8).data, self._at[name] + start * row_bytes)
            if reasons:
                # The newline comes first: the line before may be torn by a kill.
                lines = ["\n" + json.dumps([row, name, reason]) for row, (name, reason) in sorted(reasons.items())]
                with open(self._notes, "w", encoding="utf-8", closefd=False) as file:
                    file.writelines(lines)
                os.fsync(self._notes)
            self._pending.append((start, flags))
            if time.monotonic() - self._synced > _SYNC_SECONDS or len(self._pending) >= _SYNC_BLOCKS:
                self.sync()
        except OSError as error:
            raise self._disk_error(error) from error

    def _refuse_misfit(
        self, rows: range, columns: Mapping[str, NDArray[np.floating]], reasons: Mapping[int, tuple[str, str]]
    ) -> None:
        shapes = {name: np.shape(values) for name, values in columns.items()}
        if shapes != {name: (len(rows), *shape) for name, shape in self._columns.items()}:
            raise ValueError(f"a file with rows of {self._columns} cannot take {shapes}")
        if rows.start < 0 or rows.stop > self._rows or not all(row in rows for row in reasons):
            raise ValueError(f"{rows} or the reasons of {list(reasons)} are not in a file of {self._rows} rows")

    def sync(self) -> None:
        """Put the rows on disk, then the flags that say so."""
        if self._pending:
            os.fdatasync(self._fd)
            for start, flags in self._pending:
                pwrite_all(self._fd, flags.tobytes(), self._at["valid"] + start)
            os.fdatasync(self._fd)  # the first process, perhaps on another machine, is to see them
            self._pending.clear()
        self._synced = time.monotonic()

    def finish(self) -> int:
        """Add `errors` (row, id, reason), mark the file complete and give it its name; returns how many errors.

        Raises:
            DataError: rows are missing; the disk is full.
        """
        try:
            self.sync()
            self._map_flags()
            missing = len(self._flags) - int(np.count_nonzero(self._flags))
            if missing:
                raise DataError(f"{missing} rows of {self._path} are not written: run the same command again.")
            errors = self._errors()
            self._remember_for_roll_back([row for row, *_ in errors])
            complete_layout(self._part, self._fd, errors)
            for row, *_ in errors:
                pwrite_all(self._fd, b"\0", self._at["valid"] + row)
            os.fsync(self._fd)
            os.replace(self._part, self._path)
            sync_folder(self._path.parent)
            remove_notes(self._path)
        except OSError as error:
            raise self._disk_error(error) from error
        return len(errors)

    def _errors(self) -> list[tuple[int, str, str]]:
        """(row, id, reason) of every row flagged as unreadable, from what all processes noted."""
        found = {}
        for path in self._all_notes():
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                # Torn by a kill: its row is not flagged, or was noted again.
                with contextlib.suppress(ValueError, TypeError, IndexError):
                    row, name, reason = json.loads(line)
                    if self._flags[row] == UNREADABLE:
                        found[row] = (row, storable(name), storable(reason))
        lost = [row for row in self._rows_flagged_unreadable() if row not in found]
        for row in lost:
            pwrite_all(self._fd, b"\0", self._at["valid"] + row)
        if lost:
            raise DataError(
                f"The reasons of {len(lost)} unreadable rows of {self._path} are lost: run the same command again."
            )
        return [found[row] for row in sorted(found)]

    def unreadable(self) -> int:
        """How many rows are known to be unreadable."""
        return sum(1 for _ in self._rows_flagged_unreadable())

    def _rows_flagged_unreadable(self) -> Iterator[int]:
        for start in range(0, self._rows, _BLOCK):
            yield from (start + np.flatnonzero(self._flags[start : start + _BLOCK] == UNREADABLE)).tolist()

    def _all_notes(self) -> list[Path]:
        return _beside(self._path, ".part.errors.")

    def _remember_for_roll_back(self, unreadable: list[int]) -> None:
        """Keep the bytes that are about to change (HDF5's, and flags): a kill in between must not cost the rows."""
        size, at = os.fstat(self._fd).st_size, 0
        pieces: list[tuple[int, bytes]] = [(self._at["valid"] + row, bytes([UNREADABLE])) for row in unreadable]
        for start, length in [*self._raw, (size, 0)]:
            pieces.append((at, os.pread(self._fd, start - at, at)))
            at = start + length
        kept = {"size": size, "pieces": [[place, base64.b64encode(piece).decode()] for place, piece in pieces]}
        new = self._undo.with_name(self._undo.name + ".new")
        with new.open("w", encoding="ascii") as file:
            json.dump(kept, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, self._undo)
        sync_folder(self._undo.parent)

    def _roll_back_finish(self) -> None:
        if not self._undo.exists():
            return
        kept = json.loads(self._undo.read_text())
        for at, piece in kept["pieces"]:
            pwrite_all(self._fd, base64.b64decode(piece), at)
        os.ftruncate(self._fd, kept["size"])
        os.fsync(self._fd)
        self._undo.unlink()

    def _disk_error(self, error: OSError) -> DataError:
        room = ""
        with contextlib.suppress(OSError):
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                room = f" ({shutil.disk_usage(self._path.parent).free / 1e6:.1f} MB are free there)"
        return DataError(
            f"Cannot write {self._path}: {error.strerror or error}{room}; what is done is kept, run the same command again "
            "once that is mended."
        )

    def close(self) -> None:
        """Leave the file as it is; unfinished, it can be gone on with."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):  # the rows not flagged are computed again
                self.sync()
        for fd in (self._fd, self._notes):
            if fd >= 0:
                unlock_and_close(fd)
        self._fd = self._notes = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _is_named(fd: int, path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return fd >= 0 and os.path.samestat(os.fstat(fd), path.stat())
    return False


def remove_notes(path: Path) -> None:
    """Remove what the writer of the finished file `path` kept beside it; a kill may have left some."""
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
        features: (N,D) float32 or float16, N and D at least 1; a row that is not finite becomes an invalid one.
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
        or not features.size
        or not len(features) == len(labels) == len(ids)
        or str(features.dtype) not in ("float32", "float16")
    ):
        raise ValueError(
            f"features (N,D) float32 or float16 with N labels and ids are wanted, got {features.dtype} {features.shape}, "
            f"{len(labels)} labels and {len(ids)} ids"
        )
    if path.exists() or part_of(path).exists():
        raise DataError(f"{path} (or its .part) is there already: delete it or choose another name.")
    attributes = {"encoder": encoder, "preprocessing": preprocessing or {}, "source": source, "precision": "float32"}
    rows, columns = _GivenRows(ids, labels), {"features": (features.shape[1],)}
    with FeatureWriter(path, rows, columns, str(features.dtype), attributes) as writer:
        bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
        writer.write(
            0, {"features": features}, {row: (ids[row], "the features are not finite") for row in bad.tolist()}
        )
        writer.finish()
