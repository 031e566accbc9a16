"""The folder of one run: locked while a process works in it, and refused to a run of other settings or data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from simsiam_eval.commands.settings import may_change, option_name
from simsiam_eval.errors import DataError
from simsiam_eval.files.atomic import atomic_write
from simsiam_eval.files.run_folder import LockedFolder, reject_other_settings
from tasks.detection.settings import DetectSettings

# What may differ when a folder is gone on with: each start has a folder of its own below it.
_FREE = may_change(DetectSettings) | {"init", "checkpoint", "trials", "seed", "backend", "arch", "stem"}


class RunFolder:
    """`--out`, with `run.json`: what it is a run of. In all processes but the main one it does nothing.

    Raises:
        DataError: it cannot be written, another process uses it, or it holds a run of other settings or data.
    """

    def __init__(self, settings: DetectSettings, facts: dict[str, str], main: bool) -> None:
        self._folder: LockedFolder | None = None
        if not main:
            return
        self._folder = LockedFolder(settings.out)
        try:
            self._check(settings.out, settings, facts)
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
        reject_other_settings(out, was["settings"], now["settings"], _FREE, option_name)
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
        if self._folder is not None:
            self._folder.close()


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
