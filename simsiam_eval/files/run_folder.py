"""The folder of a training run: one process at a time, one set of settings, and no end of the run when a disk is full."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from simsiam_eval.errors import DataError
from simsiam_eval.files.atomic import cannot_write
from simsiam_eval.files.lock import lock_and_keep, unlock_and_close

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{12}\.tmp")  # as atomic_write names them


class LockedFolder:
    """A run's folder, created if missing and locked for this process until `close` or its death.

    Temporary files that a killed process left in the middle of a write are removed.

    Args:
        path: the folder.
        work: what the other process is doing, for the message: "pretraining", "training".

    Raises:
        DataError: the folder cannot be written, or another process is using it.
    """

    def __init__(self, path: Path, work: str = "training") -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(path / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise cannot_write(path, error) from error
        try:
            lock_and_keep(self._lock)
        except BlockingIOError as error:
            os.close(self._lock)
            raise DataError(
                f"Another process is {work} in {path}: wait until it ends or choose another --out."
            ) from error
        for file in path.glob(".*.tmp"):
            if _TEMPORARY.fullmatch(file.name):
                file.unlink(missing_ok=True)

    def close(self) -> None:
        """Let another process use the folder."""
        if self._lock >= 0:
            unlock_and_close(self._lock)
            self._lock = -1


def reject_other_settings(
    folder: Path,
    saved: Mapping[str, Any],
    given: Mapping[str, Any],
    may_change: Collection[str],
    option_name: Callable[[str], str],
) -> None:
    """Reject settings that would turn the resumed run into a different one.

    Args:
        folder: the run folder, for the message.
        saved: name -> value of the run's settings, as JSON has them.
        given: name -> value of the settings of this start.
        may_change: names that a resumed run may have other values of.
        option_name: from the name of a setting to its option.

    Raises:
        DataError: names the first setting that differs, with both values.
    """
    for name, value in given.items():
        before = saved.get(name)
        if before != value and name not in may_change:
            raise DataError(
                f"{folder} holds a run {_difference(option_name(name), before, value)}: "
                "use the same value or choose another --out."
            )


def _difference(option: str, before: Any, now: Any) -> str:
    """
    >>> _difference("--lr", 0.03, 0.5)
    'with --lr 0.03, not 0.5'
    >>> _difference("--sync-bn", True, False)
    'with --sync-bn, not --no-sync-bn'
    >>> _difference("--lr", None, 0.5), _difference("--lr", 0.5, None)
    ('without --lr, not 0.5', 'with --lr 0.5, not none')
    """
    if isinstance(before, bool) and isinstance(now, bool):
        names = {True: option, False: f"--no-{option.removeprefix('--')}"}
        return f"with {names[before]}, not {names[now]}"
    saved = f"without {option}" if before is None else f"with {option} {before}"
    return f"{saved}, not {'none' if now is None else now}"


def continue_if_unwritable(write: Callable[[], None], warn: Callable[[str], None]) -> bool:
    """Write something that a run can do without for now, such as a checkpoint or a line of its log.

    A full disk must not end a run: the previous checkpoint is intact, and the next one is written when it is due.

    Args:
        write: raises DataError where it cannot write.
        warn: takes the warning.

    Returns:
        Whether it was written.
    """
    try:
        write()
    except DataError as error:
        warn(f"Warning: {error}; training continues")
        return False
    return True
