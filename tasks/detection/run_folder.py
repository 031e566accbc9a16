"""The folder of one run: locked while a process works in it, and refused to a run of other settings or data."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from simsiam_eval.commands.settings import may_change, option_name
from simsiam_eval.errors import DataError
from simsiam_eval.files.atomic import atomic_write, cannot_write
from simsiam_eval.files.lock import lock_and_keep, unlock_and_close
from tasks.detection.settings import DetectSettings

# What may differ when a folder is gone on with: each start has a folder of its own below it.
_FREE = may_change(DetectSettings) | {"init", "checkpoint", "trials", "seed", "backend", "arch", "stem"}


class RunFolder:
    """`--out`, with `run.json`: what it is a run of. In all processes but the main one it does nothing.

    Raises:
        DataError: it cannot be written, another process uses it, or it holds a run of other settings or data.
    """

    def __init__(self, settings: DetectSettings, facts: dict[str, str], main: bool) -> None:
        self._lock = -1
        if not main:
            return
        out = settings.out
        try:
            out.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(out / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise cannot_write(out, error) from error
        try:
            lock_and_keep(self._lock)
        except BlockingIOError as error:
            os.close(self._lock)
            raise DataError(f"Another process is training in {out}: wait for it or choose another --out.") from error
        try:
            self._check(out, settings, facts)
        except BaseException:
            self.close()
            raise

    def _check(self, out: Path, settings: DetectSettings, facts: dict[str, str]) -> None:
        now = {"settings": json.loads(json.dumps(settings.to_dict())), "facts": facts}
        was = read_json(out / "run.json")
        if was is None:
            with atomic_write(out / "run.json") as file:
                file.write(json.dumps(now, indent=1).encode())
            return
        if settings.resume == "never":
            raise DataError(f"{out} holds an earlier run: choose another --out, or go on with it by --resume auto.")
        for name, value in now["settings"].items():
            if was["settings"].get(name) != value and name not in _FREE:
                before, option = was["settings"].get(name), option_name(name)
                with_it = f"without {option}" if before is None else f"with {option} {before}"
                now_is = "none" if value is None else value
                raise DataError(f"{out} holds a run {with_it}, not {now_is}: give that, or choose another --out.")
        for name, value in facts.items():
            if name != "backend" and was["facts"].get(name) != value:
                raise DataError(f"{out} holds a run with another {name} than this: choose another --out.")
        backend = was["facts"].get("backend")
        if backend != facts["backend"]:  # which --backend auto may choose anew at any time
            raise DataError(
                f"{out} holds a run of backend {backend}, not {facts['backend']}: give --backend {backend}, or choose "
                "another --out."
            )

    def close(self) -> None:
        """Let another process use it."""
        if self._lock >= 0:
            unlock_and_close(self._lock)
            self._lock = -1


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object that was written whole; None where there is no file.

    Raises:
        DataError: it is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is damaged ({error}): delete it, or choose another --out.") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} is damaged (no JSON object): delete it, or choose another --out.")
    return content
