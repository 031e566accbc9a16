"""The state of a long training of heads, saved so that it can be resumed."""

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
    """The file `path` of a training; `key` holds plain values that identify the training."""

    def __init__(self, path: Path, key: Mapping[str, Any]) -> None:
        self._path, self._key = path, json.dumps(key, sort_keys=True)

    def load(self) -> dict[str, Any] | None:
        """The last saved state: `epoch`, the next one to train, and `heads`; None without a file.

        Raises:
            DataError: the file is damaged, or belongs to another training.
        """
        if not self._path.exists():
            return None
        try:
            saved = torch.load(self._path, map_location="cpu", weights_only=True)
            same = saved["key"] == self._key
        except Exception as error:  # torch.load has a dozen names for a damaged file
            raise DataError(f"{self._path} is damaged. Delete it to start again.") from error
        if not same:
            raise DataError(
                f"{self._path} belongs to other images, settings or encoder weights. Use another --out, or delete it."
            )
        say(f"resuming from epoch {saved['epoch']} ({self._path})")
        return saved

    def save(self, epoch: int, heads: list[dict[str, Any]]) -> None:
        """Save the heads as they are before `epoch`.

        Raises:
            DataError: the file cannot be written.
        """
        with atomic_write(self._path) as file:
            torch.save({"key": self._key, "epoch": epoch, "heads": heads}, file)

    def remove(self) -> None:
        """Delete the file, after the training."""
        self._path.unlink(missing_ok=True)
