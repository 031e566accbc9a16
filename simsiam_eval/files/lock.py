"""Locks on open files that end with the process that holds them, even if its child processes live on."""

from __future__ import annotations

import contextlib
import fcntl
import os

_locked_descriptors: set[int] = set()


def lock_and_keep(descriptor: int) -> None:
    """Lock an open file until `unlock_and_close` or the end of this process.

    Forked children close their copy of the descriptor; otherwise a DataLoader worker, which outlives a killed parent by
    seconds, would keep the file locked.

    Raises:
        BlockingIOError: another process holds the lock.
    """
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    _locked_descriptors.add(descriptor)


def unlock_and_close(descriptor: int) -> None:
    """Close the file, which releases its lock."""
    _locked_descriptors.discard(descriptor)
    os.close(descriptor)


def _close_in_child() -> None:
    for descriptor in _locked_descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _locked_descriptors.clear()


os.register_at_fork(after_in_child=_close_in_child)
