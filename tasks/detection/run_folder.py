"""The run folder: locked while in use, and rejected if it contains a run with other settings or data."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from simsiam_eval.commands.settings import option_name
from simsiam_eval.errors import DataError
from simsiam_eval.files.atomic import atomic_write
from simsiam_eval.files.run_folder import LockedFolder, reject_other_settings
from simsiam_eval.files.strict_json import strict_json


@dataclass(frozen=True)
class RunIdentity:
    """What a run folder is a run of.

    Attributes:
        settings: name -> value, as in the record.
        training_set, test_set: fingerprints.
        backend: name of the backend that was chosen.
    """

    settings: dict[str, Any]
    training_set: str
    test_set: str
    backend: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON reads them again."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values


@contextmanager
def run_folder(path: Path, identity: RunIdentity, may_change: Collection[str], may_resume: bool) -> Iterator[None]:
    """Create or resume the run folder, locked within the block; `run.json` in it keeps the identity.

    Args:
        path: the folder.
        identity: of this run.
        may_change: names of the settings that a resumed run may have other values of.
        may_resume: whether the folder may hold an earlier run.

    Raises:
        DataError: the folder cannot be written, another process is using it, or it holds a run that cannot be resumed.
    """
    folder = LockedFolder(path)
    try:
        saved = read_json(path / "run.json")
        if saved is None:
            write_json(path / "run.json", identity.to_dict())
        elif not may_resume:
            raise DataError(f"{path} already contains a run; choose another --out, or resume it with --resume auto.")
        else:
            _reject_other_run(path, saved, identity, may_change)
        yield
    finally:
        folder.close()


def _reject_other_run(path: Path, saved: dict[str, Any], identity: RunIdentity, may_change: Collection[str]) -> None:
    given = identity.to_dict()
    settings = {"intensity": "auto"} | saved["settings"]  # the default for runs older than this setting
    reject_other_settings(path, settings, given["settings"], may_change, option_name)
    for name, option in (("training_set", "--train"), ("test_set", "--test")):
        if saved.get(name) != given[name]:
            raise DataError(f"{path} contains a run on other data than {option}; choose another --out.")
    if saved.get("backend") != identity.backend:  # --backend auto can choose differently at any time
        raise DataError(
            f"{path} contains a run of backend {saved.get('backend')}, not {identity.backend}; use --backend "
            f"{saved.get('backend')} or choose another --out."
        )


def write_json(path: Path, values: Any) -> None:
    """Write a JSON file atomically; NaN becomes null."""
    with atomic_write(path) as file:
        file.write(strict_json(values, indent=1).encode())


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None if there is no file.

    Raises:
        DataError: it is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is damaged ({error}); delete it or choose another --out.") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} is damaged (not a JSON object); delete it or choose another --out.")
    return content
