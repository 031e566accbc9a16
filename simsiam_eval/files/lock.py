"""A lock on an open file that ends with the process that took it, whatever its children do."""

from __future__ import annotations

import contextlib
import fcntl
import os

_held: set[int] = set()


def lock_and_keep(descriptor: int) -> None:
    """Lock the file for this process until `unlock_and_close`, or its death.

    A forked child (a DataLoader worker outlives a killed parent by seconds) would hold the lock on: it closes its copy.

    Raises:
        BlockingIOError: another process has it.
    """
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    _held.add(descriptor)


def unlock_and_close(descriptor: int) -> None:
    """Close the file, and let another process lock it."""
    _held.discard(descriptor)
    os.close(descriptor)


def _close_in_child() -> None:
    for descriptor in _held:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_close_in_child)
