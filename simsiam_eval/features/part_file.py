"""The unfinished feature file NAME.part: its lock, the list of unreadable images, and undoing an interrupted finish.

Files next to NAME.part: NAME.part.new, until its datasets are allocated; NAME.part.errors.K, the notes of process K; and
NAME.part.undo, the bytes that the finish is about to change.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from simsiam_eval.errors import BeingWritten, DataError
from simsiam_eval.features.file import JSON_ATTRIBUTES, NOT_COMPARED, differences, part_of
from simsiam_eval.features.layout import pwrite_all
from simsiam_eval.files.atomic import sync_folder
from simsiam_eval.files.lock import lock_and_keep, unlock_and_close

MAX_NAME_BYTES = 255 - len(".part.errors.9999")  # of a feature file's name


def open_and_lock(path: Path, create: Callable[[Path, int], None]) -> int:
    """A descriptor of the .part file of `path`, locked so that no other process can open it this way.

    Args:
        create: allocates the datasets in a new file, given its path and descriptor.

    Raises:
        BeingWritten: another process is writing it, or has just finished it.
    """
    part = part_of(path)
    new = part.with_name(part.name + ".new")
    name, fd = part, -1
    while not _is_named(fd, name) or (name == new and part.exists()):
        # Another process may have renamed the file before it released its lock.
        if fd >= 0:
            unlock_and_close(fd)
        name = part if part.exists() else new
        fd = lock(os.open(name, os.O_RDWR | os.O_CREAT, 0o666), path)
    try:
        if path.exists():
            raise BeingWritten(f"{path} already exists: delete it or choose another --out.")
        for notes in note_files(
            path
        ):  # a process of an earlier run, whose main process was killed, may still be running
            unlock_and_close(lock(os.open(notes, os.O_RDWR), path))
        if name == new:
            for stale in (undo_file(path), *note_files(path)):
                stale.unlink(missing_ok=True)
            create(new, fd)
            os.replace(new, part)
            sync_folder(part.parent)
    except BaseException:
        if name == new:
            new.unlink(missing_ok=True)
        unlock_and_close(fd)
        raise
    return fd


def lock(fd: int, path: Path) -> int:
    """`fd`, locked.

    Raises:
        BeingWritten: another process has the lock; `fd` is then closed.
    """
    try:
        lock_and_keep(fd)
    except BlockingIOError as error:
        os.close(fd)
        raise BeingWritten(f"Another process is writing {path}: wait for it or choose another --out.") from error
    return fd


def _is_named(fd: int, path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return fd >= 0 and os.path.samestat(os.fstat(fd), path.stat())
    return False


def reject_other_extraction(
    path: Path, rows: int, columns: Mapping[str, tuple[int, ...]], dtype: np.dtype, attributes: Mapping[str, Any]
) -> None:
    """Check that the .part file of `path` is the beginning of this extraction.

    Raises:
        DataError: it belongs to another, or is damaged.
    """
    part = part_of(path)
    try:
        with h5py.File(part, "r", locking=False) as file:
            keys = [key for key in JSON_ATTRIBUTES if key not in NOT_COMPARED | {"versions"}]
            actual = {key: json.loads(file.attrs[key]) for key in keys} | {"precision": file.attrs["precision"]}
            differing = differences(actual, {key: attributes.get(key) for key in actual})
            same = ("views" in file) == ("views" in columns)
            same = same and len(file.get("layers", ())) == sum(name.startswith("layers/") for name in columns)
            for name, shape in columns.items():
                same = same and name in file and file[name].shape == (rows, *shape) and file[name].dtype == dtype
            differing += [] if same else ["columns"]
    except (OSError, KeyError, ValueError) as error:
        raise DataError(f"{part} is damaged ({error}): delete it to start over.") from error
    if differing:
        raise DataError(
            f"{part} belongs to another extraction (it differs in {', '.join(differing)}): delete it or choose another "
            "--out."
        )


def open_notes(path: Path, process: int) -> int:
    """A locked descriptor of the notes of a process, opened for appending. Raises BeingWritten as `lock`."""
    notes = path.with_name(f"{path.name}.part.errors.{process}")
    return lock(os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666), path)


def write_notes(fd: int, reasons: Sequence[tuple[int, str, str]]) -> None:
    """Append (row, id, reason) of unreadable images, synced to the disk."""
    # The newline comes first, because a kill may have torn the line before.
    lines = ["\n" + json.dumps(reason) for reason in reasons]
    with open(fd, "w", encoding="utf-8", closefd=False) as file:
        file.writelines(lines)
    os.fsync(fd)


def read_notes(path: Path) -> Iterator[tuple[int, str, str]]:
    """(row, id, reason) of unreadable images, from the notes of all processes."""
    for notes in note_files(path):
        for line in notes.read_text(encoding="utf-8", errors="replace").splitlines():
            # The row of a line that a kill has torn is not flagged, or was noted again.
            with contextlib.suppress(ValueError, TypeError, IndexError):
                row, name, reason = json.loads(line)
                yield row, name, reason


def note_files(path: Path) -> list[Path]:
    """The notes of all processes."""
    return _sidecars(path, ".part.errors.")


def undo_file(path: Path) -> Path:
    """Where the bytes that a finish changes are kept."""
    return path.with_name(path.name + ".part.undo")


def save_undo(path: Path, fd: int, data: Sequence[tuple[int, int]], flags: Sequence[tuple[int, bytes]]) -> None:
    """Save the bytes that a finish is about to change, so that a kill in the middle of it does not cost the rows.

    Args:
        data: offset and size of every dataset, ascending; everything else, which is HDF5's, is saved.
        flags: further (offset, bytes) to restore.
    """
    size, at = os.fstat(fd).st_size, 0
    pieces = list(flags)
    for start, length in [*data, (size, 0)]:
        pieces.append((at, os.pread(fd, start - at, at)))
        at = start + length
    saved = {"size": size, "pieces": [[offset, base64.b64encode(piece).decode()] for offset, piece in pieces]}
    undo = undo_file(path)
    new = undo.with_name(undo.name + ".new")
    with new.open("w", encoding="ascii") as file:
        json.dump(saved, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, undo)
    sync_folder(undo.parent)


def undo_finish(path: Path, fd: int) -> None:
    """Restore the .part file that a finish, then killed, has changed."""
    undo = undo_file(path)
    if not undo.exists():
        return
    saved = json.loads(undo.read_text())
    for offset, piece in saved["pieces"]:
        pwrite_all(fd, base64.b64decode(piece), offset)
    os.ftruncate(fd, saved["size"])
    os.fsync(fd)
    undo.unlink()


def remove_sidecars(path: Path) -> None:
    """Remove what the writer of the finished file `path` kept next to it, some of which a kill may have left."""
    if not part_of(path).exists():
        for stale in (*_sidecars(path, ".part.undo"), *note_files(path)):
            stale.unlink(missing_ok=True)


def _sidecars(path: Path, ending: str) -> list[Path]:
    prefix = path.name + ending
    return [entry for entry in sorted(path.parent.iterdir()) if entry.name.startswith(prefix)]
