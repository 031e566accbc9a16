"""Detect changed files without reading them, by path, size and times."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from typing import Any


def file_state(path: str | os.PathLike[str]) -> tuple[int, int, int, int]:
    """Size in bytes, modification and change time in ns, and inode, which a copy cannot all restore; -1 each: no file."""
    try:
        state = os.stat(path)
    except (OSError, ValueError):  # ValueError: a name with a NUL
        return -1, -1, -1, -1
    return state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino


def files_key(files: Iterable[str | os.PathLike[str]], *settings: Any) -> str:
    """A sha256 that changes when the settings, or the path, size or times of a file, change."""
    digest = hashlib.sha256(json.dumps(settings).encode())
    for file in files:
        digest.update(json.dumps([os.path.abspath(file), *file_state(file)]).encode())
    return digest.hexdigest()
