"""What is slow to find out about files, kept in the cache folder until the files change."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from simsiam_eval.files.cache import cache_folder

_Value = TypeVar("_Value")
Arrays = dict[str, np.ndarray[Any, Any]]


def files_key(files: Iterable[str | os.PathLike[str]], *settings: Any) -> str:
    """A name for what is found out about these files with these settings: by paths, sizes and times, not by content."""
    digest = hashlib.sha256(json.dumps(settings).encode())
    for file in files:
        digest.update(json.dumps([os.path.abspath(file), *state_of_file(file)]).encode())
    return digest.hexdigest()


def state_of_file(path: str | os.PathLike[str]) -> tuple[int, int, int, int]:
    """Bytes, modification and change time (ns) and inode of a file, which a copy cannot all set back; -1: no file."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # a name with a NUL is a ValueError
        return -1, -1, -1, -1
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def remembered_text(key: str, compute: Callable[[], tuple[str, bool]]) -> str:
    """compute(), a sha256 in hexadecimal and whether to remember it, or what it gave for this key before."""

    def read(note: Path) -> str:
        known = note.read_text()
        if len(known) != 64:
            raise ValueError(known)
        return known

    kept = True

    def computed() -> str:
        nonlocal kept
        value, kept = compute()
        return value

    return _remembered("fingerprints", key, read, lambda note, value: note.write_text(value), computed, lambda: kept)


def remembered_arrays(key: str, compute: Callable[[], Arrays]) -> Arrays:
    """compute(), or the arrays that it gave for this key before."""

    def read(note: Path) -> Arrays:
        with np.load(note, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}

    def write(note: Path, arrays: Arrays) -> None:
        with note.open("wb") as file:  # a name would be given another ending
            np.savez(file, **arrays)  # type: ignore[arg-type]

    return _remembered("indexes", key, read, write, compute)


def _remembered(
    kind: str,
    key: str,
    read: Callable[[Path], _Value],
    write: Callable[[Path, _Value], Any],
    compute: Callable[[], _Value],
    keep: Callable[[], bool] = lambda: True,
) -> _Value:
    """A cache that cannot be read or written does no harm."""
    note = cache_folder() / kind / key
    try:
        return read(note)
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        pass
    value = compute()
    if not keep():
        return value
    temporary = note.with_name(f"{key}.{secrets.token_hex(6)}")
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        write(temporary, value)
        os.replace(temporary, note)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
    return value
