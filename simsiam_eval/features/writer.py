"""Write a feature file in constant memory, so that no row is lost if the process is killed.

During writing the file is named NAME.part. Rows are written in place with pwrite, and HDF5 opens the file again only at the
end. Each row has a flag, which is set after the row is on disk. If the process is killed, the .part file is therefore
intact, and rows without a flag are computed again. Flags are the bytes of `valid`: 1 for a written row, and until the end 2
for an unreadable image, whose reason is in NAME.part.errors.K of process K (part_file.py). Several processes may write rows
of one file; the first process creates and finishes it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from simsiam_eval.errors import DataError
from simsiam_eval.features.file import UNREADABLE, VALID, part_of
from simsiam_eval.features.layout import Rows, complete_layout, create_layout, dataset_extents, pwrite_all, storable
from simsiam_eval.features.part_file import (
    MAX_NAME_BYTES,
    open_and_lock,
    open_notes,
    read_notes,
    reject_other_extraction,
    remove_sidecars,
    save_undo,
    undo_finish,
    write_notes,
)
from simsiam_eval.files.atomic import make_folder, sync_folder
from simsiam_eval.files.lock import unlock_and_close

_SYNC_SECONDS, _SYNC_BLOCKS = 5.0, 1024
_BLOCK = 1 << 20  # flags read at once


class FeatureWriter:
    """Writes one feature file by ranges of rows; resumes an unfinished one of the same attributes.

    Args:
        path: the final name.
        rows: ids and labels of all N rows.
        columns: dataset -> shape of a row in it: `features` (D,), perhaps `layers/NAME` (D,) and `views` (V,D).
        dtype: float32 or float16.
        attributes: encoder, assumptions, preprocessing, source, views and precision.
        process: which of several processes this is; process 0 must have created its writer before the others.

    Raises:
        DataError: the file already exists; another process writes it; the unfinished file belongs to another
            extraction or is damaged; the disk is full.
    """

    def __init__(
        self,
        path: Path,
        rows: Rows,
        columns: Mapping[str, tuple[int, ...]],
        dtype: str,
        attributes: Mapping[str, Any],
        process: int = 0,
    ) -> None:
        self._path, self._part = path, part_of(path)
        if len(os.fsencode(path.name)) > MAX_NAME_BYTES:
            raise DataError(f"{path} cannot be written: its name is too long (at most {MAX_NAME_BYTES} bytes).")
        self._pending: list[tuple[int, NDArray[np.uint8]]] = []
        self._columns, self._dtype, self._rows = dict(columns), np.dtype(dtype), len(rows)
        self._synced = time.monotonic()
        self._fd = self._notes = -1

        def create(new: Path, fd: int) -> None:
            # All of the disk space is allocated here: a disk that is too small fails now, not after a night.
            create_layout(new, fd, rows, self._columns, self._dtype, attributes)

        try:
            make_folder(path.parent)
            if process == 0:
                self._fd = open_and_lock(path, create)
                undo_finish(path, self._fd)
                reject_other_extraction(path, len(rows), self._columns, self._dtype, attributes)
            else:
                self._fd = os.open(self._part, os.O_RDWR)
            self._notes = open_notes(path, process)
            extents = dataset_extents(self._part, ("labels", "ids", "valid", *self._columns))
        except OSError as error:
            self.close()
            raise self._disk_error(error) from error
        except BaseException:
            self.close()
            raise
        self._data = sorted(extents.values())
        self._at = {name: offset for name, (offset, _) in extents.items()}
        self._map_flags()

    def _map_flags(self) -> None:
        # Mapped, not read: ten million flags need no memory of their own. A new map shows what other machines wrote.
        self._flags = np.memmap(self._part, np.uint8, "r", self._at["valid"], (self._rows,))

    def is_written(self, rows: range) -> bool:
        """Whether all of these rows are in the file, or known to be unreadable."""
        return bool(self._flags[rows.start : rows.stop].all())

    def write(
        self,
        start: int,
        columns: Mapping[str, NDArray[np.floating]],
        reasons: Mapping[int, tuple[str, str]] | None = None,
    ) -> None:
        """Store rows start, start+1, ...

        Args:
            columns: dataset -> (B, ...) finite values, for every column of the file.
            reasons: row -> (id, why it has no features); 0 is stored for it.

        Raises:
            DataError: the disk is full, or a value does not fit in float16.
            ValueError: rows that the file does not have, or of another shape; nothing is written then.
        """
        reasons, count = reasons or {}, len(columns["features"])
        self._reject_misfit(range(start, start + count), columns, reasons)
        flags = np.full(count, VALID, dtype=np.uint8)
        flags[[row - start for row in reasons]] = UNREADABLE
        try:
            for name, shape in self._columns.items():
                with np.errstate(over="ignore"):  # rejected below
                    values = np.ascontiguousarray(columns[name], dtype=self._dtype)
                if reasons:
                    values = np.where((flags == VALID).reshape(-1, *(1 for _ in shape)), values, self._dtype.type(0))
                if not np.isfinite(values).all():
                    raise DataError(f"A feature is too large for {self._dtype}: use --dtype float32.")
                row_bytes = int(np.prod(shape)) * self._dtype.itemsize
                pwrite_all(self._fd, values.reshape(-1).view(np.uint8).data, self._at[name] + start * row_bytes)
            if reasons:
                write_notes(self._notes, [(row, *reason) for row, reason in sorted(reasons.items())])
            self._pending.append((start, flags))
            if time.monotonic() - self._synced > _SYNC_SECONDS or len(self._pending) >= _SYNC_BLOCKS:
                self.sync()
        except OSError as error:
            raise self._disk_error(error) from error

    def _reject_misfit(
        self, rows: range, columns: Mapping[str, NDArray[np.floating]], reasons: Mapping[int, tuple[str, str]]
    ) -> None:
        shapes = {name: np.shape(values) for name, values in columns.items()}
        if shapes != {name: (len(rows), *shape) for name, shape in self._columns.items()}:
            raise ValueError(f"expected columns with rows of shape {self._columns} for the file, got {shapes}")
        if rows.start < 0 or rows.stop > self._rows or not all(row in rows for row in reasons):
            raise ValueError(
                f"{rows} and the reasons of {list(reasons)} must be within the {self._rows} rows of the file"
            )

    def sync(self) -> None:
        """Put the rows on the disk, then the flags that say so."""
        if self._pending:
            os.fdatasync(self._fd)
            for start, flags in self._pending:
                pwrite_all(self._fd, flags.tobytes(), self._at["valid"] + start)
            os.fdatasync(self._fd)  # the first process, perhaps on another machine, must see them
            self._pending.clear()
        self._synced = time.monotonic()

    def finish(self) -> int:
        """Add `errors` (row, id, reason), mark the file complete and give it its name; returns the number of errors.

        Raises:
            DataError: rows are missing; the disk is full.
        """
        try:
            self.sync()
            self._map_flags()
            missing = len(self._flags) - int(np.count_nonzero(self._flags))
            if missing:
                raise DataError(f"{missing} rows of {self._path} are not written: rerun the command.")
            errors = self._errors()
            flags = [(self._at["valid"] + row, bytes([UNREADABLE])) for row, *_ in errors]
            save_undo(self._path, self._fd, self._data, flags)
            complete_layout(self._part, self._fd, errors)
            for offset, _ in flags:
                pwrite_all(self._fd, b"\0", offset)
            os.fsync(self._fd)
            os.replace(self._part, self._path)
            sync_folder(self._path.parent)
            remove_sidecars(self._path)
        except OSError as error:
            raise self._disk_error(error) from error
        return len(errors)

    def _errors(self) -> list[tuple[int, str, str]]:
        """(row, id, reason) of every row flagged as unreadable, from the notes of all processes."""
        unreadable = list(self._unreadable_rows())
        errors = dict.fromkeys(unreadable, ("", ""))
        noted = set()
        for row, name, reason in read_notes(self._path):
            if row in errors:
                errors[row] = storable(name), storable(reason)
                noted.add(row)
        lost = [row for row in unreadable if row not in noted]
        for row in lost:
            pwrite_all(self._fd, b"\0", self._at["valid"] + row)
        if lost:
            raise DataError(f"The reasons of {len(lost)} unreadable rows of {self._path} were lost: rerun the command.")
        return [(row, *errors[row]) for row in unreadable]

    def unreadable(self) -> int:
        """Number of rows that are known to be unreadable."""
        return sum(1 for _ in self._unreadable_rows())

    def _unreadable_rows(self) -> Iterator[int]:
        for start in range(0, self._rows, _BLOCK):
            yield from (start + np.flatnonzero(self._flags[start : start + _BLOCK] == UNREADABLE)).tolist()

    def _disk_error(self, error: OSError) -> DataError:
        free = ""
        with contextlib.suppress(OSError):
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                free = f" ({shutil.disk_usage(self._path.parent).free / 1e6:.1f} MB are free there)"
        kept = "The rows written so far are kept; fix" if self._part.exists() else "Fix"
        return DataError(
            f"Cannot write {self._path}: {error.strerror or error}{free}. {kept} this and rerun the command."
        )

    def close(self) -> None:
        """Leave the file as it is; an unfinished one can be resumed."""
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


class _ArrayRows:
    """Ids and labels in memory."""

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
    """Write features that were computed elsewhere, so that every task can read them.

    Args:
        features: (N,D) float32 or float16, N and D at least 1; a row that is not finite is marked as invalid.
        labels: (N,) int64, -1 for none.
        ids: N strings.
        encoder, source, preprocessing: root attributes; two files can be used together only if encoder and
            preprocessing are equal.

    Raises:
        DataError: the file already exists or cannot be written.
        ValueError: other shapes or dtypes.
    """
    if (
        features.ndim != 2
        or not features.size
        or not len(features) == len(labels) == len(ids)
        or str(features.dtype) not in ("float32", "float16")
    ):
        raise ValueError(
            f"expected features (N,D) float32 or float16 with N labels and ids, got {features.dtype} {features.shape}, "
            f"{len(labels)} labels and {len(ids)} ids"
        )
    if path.exists() or part_of(path).exists():
        raise DataError(f"{path} (or its .part) already exists: delete it or choose another name.")
    attributes = {"encoder": encoder, "preprocessing": preprocessing or {}, "source": source, "precision": "float32"}
    rows, columns = _ArrayRows(ids, labels), {"features": (features.shape[1],)}
    with FeatureWriter(path, rows, columns, str(features.dtype), attributes) as writer:
        bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
        writer.write(
            0, {"features": features}, {row: (ids[row], "the features are not finite") for row in bad.tolist()}
        )
        writer.finish()
