"""Heads in the middle of a long training, kept in a file so that a killed one goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from simsiam_eval.errors import DataError
from simsiam_eval.files.atomic import atomic_write
from simsiam_eval.runtime.progress import say


class ProbeState:
    """The file `path` for the training that `key`, plain values, describes."""

    def __init__(self, path: Path, key: Mapping[str, Any]) -> None:
        self._path, self._key = path, json.dumps(key, sort_keys=True)

    def load(self) -> dict[str, Any] | None:
        """What was saved last: `epoch`, the next one, and `heads`; None where nothing was.

        Raises:
            DataError: the file is damaged, or of another training.
        """
        if not self._path.exists():
            return None
        try:
            found = torch.load(self._path, map_location="cpu", weights_only=True)
            same = found["key"] == self._key
        except Exception as error:  # torch.load has a dozen names for a damaged file
            raise DataError(f"{self._path} is damaged: delete it to begin anew.") from error
        if not same:
            raise DataError(f"{self._path} is of other images, settings or encoder: give another --out, or delete it.")
        say(f"{self._path}: going on after epoch {found['epoch'] - 1}.")
        return found

    def save(self, epoch: int, heads: list[dict[str, Any]]) -> None:
        """Keep the heads before `epoch`.

        Raises:
            DataError: the file cannot be written.
        """
        with atomic_write(self._path) as file:
            torch.save({"key": self._key, "epoch": epoch, "heads": heads}, file)

    def remove(self) -> None:
        """The training is over."""
        self._path.unlink(missing_ok=True)
