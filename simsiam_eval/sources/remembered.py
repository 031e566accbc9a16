"""Cache results that are slow to compute from files. A cache that cannot be read or written is ignored."""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

from simsiam_eval.errors import DataError
from simsiam_eval.files.atomic import atomic_write
from simsiam_eval.files.cache import cache_folder, make_cache_folder

Arrays = dict[str, np.ndarray[Any, Any]]


def remembered_fingerprint(key: str, compute: Callable[[], tuple[str, bool]]) -> str:
    """A sha256 in hexadecimal: that of an earlier call with this key, else computed.

    Args:
        compute: returns the fingerprint, and whether to remember it.
    """
    note = cache_folder() / "fingerprints" / key
    with contextlib.suppress(OSError, ValueError):
        if len(fingerprint := note.read_text()) == 64:
            return fingerprint
    fingerprint, complete = compute()
    if complete:
        with contextlib.suppress(DataError, OSError):
            make_cache_folder(note.parent)
            with atomic_write(note) as file:
                file.write(fingerprint.encode())
    return fingerprint


def remembered_arrays(key: str, compute: Callable[[], Arrays]) -> Arrays:
    """Named arrays: those of an earlier call with this key, else computed."""
    note = cache_folder() / "indexes" / key
    with (
        contextlib.suppress(OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile),
        np.load(note, allow_pickle=False) as file,
    ):
        return {name: file[name] for name in file.files}
    arrays = compute()
    with contextlib.suppress(DataError, OSError):
        make_cache_folder(note.parent)
        with atomic_write(note) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
    return arrays
