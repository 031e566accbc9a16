"""A run's log: one JSON object per line, cut back to the checkpoint when the run resumes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simsiam_eval.errors import DataError
from simsiam_eval.files.atomic import atomic_write, cannot_write


class JsonLines:
    """A log of JSON objects, each with the `step` after which it was written.

    Opening the log drops lines of steps after `step`, which the resumed run writes again, and a truncated last line.

    Args:
        path: the log; created if missing.
        step: number of steps that the run has completed.

    Raises:
        DataError: the log cannot be written.
    """

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        self._truncated = False  # whether a full disk truncated the last line
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        with atomic_write(path) as file:
            file.writelines(line for line in lines if _is_entry_until(line, step))

    def append(self, entry: Mapping[str, Any]) -> None:
        """Write one line.

        Raises:
            DataError: the line cannot be written, such as on a full disk; lines appended later are valid again.
        """
        start = "\n" if self._truncated else ""
        self._truncated = True
        try:
            with self.path.open("a") as log:
                log.write(start + json.dumps(entry) + "\n")
        except OSError as error:
            raise cannot_write(self.path, error) from error
        self._truncated = False


def read_entries(path: Path) -> list[dict[str, Any]]:
    """The entries of a log. A last line that is incomplete, of a run that is writing it or was killed, is left out.

    Raises:
        DataError: the file cannot be read, or another line is not a JSON object.
    """
    try:
        lines = path.read_bytes().splitlines(keepends=True)
        entries = [json.loads(line) for line in lines if line.endswith(b"\n") and line.strip()]
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as the log of a run: {error}.") from error
    if not all(isinstance(entry, dict) for entry in entries):
        raise DataError(f"{path} is not the log of a run: not every line is a JSON object.")
    return entries


def _is_entry_until(line: bytes, step: int) -> bool:
    try:
        return line.endswith(b"\n") and bool(json.loads(line)["step"] <= step)
    except (ValueError, KeyError, TypeError):
        return False
