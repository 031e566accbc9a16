"""The folder of a training run: its lock, the settings of a resumed run, and writes that may fail on a full disk."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from simsiam_eval.errors import DataError
from simsiam_eval.files.atomic import cannot_write, make_folder
from simsiam_eval.files.lock import lock_and_keep, unlock_and_close

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{12}\.tmp")  # as atomic_write names them


class LockedFolder:
    """A run's folder, created if missing and locked for this process until `close` or its death.

    Temporary files of a killed process are removed.

    Args:
        path: the folder.
        activity: what processes do in such a folder, for the message: "training" or "pretraining".

    Raises:
        DataError: the folder cannot be written, or another process is using it.
    """

    def __init__(self, path: Path, activity: str = "training") -> None:
        self.path = path
        make_folder(path)
        try:
            self._lock = os.open(path / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise cannot_write(path, error) from error
        try:
            lock_and_keep(self._lock)
        except BlockingIOError as error:
            os.close(self._lock)
            raise DataError(
                f"Another process is {activity} in {path}: wait until it ends or choose another --out."
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
    """Reject settings with which a resumed run would be a different one.

    Args:
        folder: the run folder, for the message.
        saved: settings of the run, by name, as read from JSON.
        given: settings of this command, by name.
        may_change: names of settings that a resumed run may change.
        option_name: returns the option of a setting.

    Raises:
        DataError: a setting differs; the message has both values.
    """
    for name, value in given.items():
        saved_value = saved.get(name)
        if saved_value != value and name not in may_change:
            raise DataError(
                f"{folder} contains a run {_difference(option_name(name), saved_value, value)}: "
                "use the same value or choose another --out."
            )


def _difference(option: str, saved: Any, given: Any) -> str:
    """The part of the message about the two values.

    >>> _difference("--lr", 0.03, 0.5)
    'with --lr 0.03, not 0.5'
    >>> _difference("--sync-bn", True, False)
    'with --sync-bn, not --no-sync-bn'
    >>> _difference("--lr", None, 0.5), _difference("--lr", 0.5, None)
    ('without --lr, not 0.5', 'with --lr 0.5, not none')
    """
    if isinstance(saved, bool) and isinstance(given, bool):
        flags = {True: option, False: f"--no-{option.removeprefix('--')}"}
        return f"with {flags[saved]}, not {flags[given]}"
    run = f"without {option}" if saved is None else f"with {option} {saved}"
    return f"{run}, not {'none' if given is None else given}"


def continue_if_unwritable(write: Callable[[], None], warn: Callable[[str], None]) -> bool:
    """Call `write`, such as of a checkpoint or a line of the log, and warn if it fails.

    A full disk need not end a run: the previous checkpoint is intact, and the next one is written when it is due.

    Args:
        write: raises DataError if it cannot write.
        warn: called with the warning.

    Returns:
        Whether `write` succeeded.
    """
    try:
        write()
    except DataError as error:
        warn(f"Warning: {error}; training continues")
        return False
    return True
