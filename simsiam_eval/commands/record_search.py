"""Find the records below folders, and the runs that have none yet."""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simsiam_eval.commands.record_file import NotARecord, Record, read_record
from simsiam_eval.errors import DataError

_RESULT, _LOG, _IDENTITY, _LAST = "result.json", "log.jsonl", "run.json", "checkpoint_last.pth.tar"
_TAIL = 1 << 16  # bytes of a log that are read
_MAX_IDENTITY = 1 << 20


@dataclass(frozen=True)
class Unfinished:
    """A run folder of `pretrain` or `detect` without a result: still training, stopped or failed.

    Attributes:
        last: the last line of its log; empty if there is none yet.
        settings: of the run, where a file says them.
        changed: when the log was last written, such as 2026-12-01T12:00:00Z.
    """

    path: Path
    task: str
    last: dict[str, Any]
    settings: dict[str, Any]
    changed: str | None


@dataclass(frozen=True)
class Unread:
    """A record, or a folder, that cannot be read; `reason` is a sentence that names it."""

    path: Path
    reason: str


Found = Record | Unfinished | Unread


def find_records(paths: Iterable[Path]) -> Iterator[Found]:
    """What is below folders, in the order of the names; a file counts once, however many links lead to it.

    A path may also be a file. Other JSON is skipped, as are hidden folders below the given ones. One record is in memory
    at a time.

    Raises:
        DataError: one of `paths` does not exist, or is a file that is no record.
    """
    seen: set[tuple[int, int]] = set()
    for path in paths:
        try:
            given = path.stat()
        except OSError as error:
            raise DataError(f"{path} cannot be opened: {error.strerror or error}.") from error
        if not stat.S_ISDIR(given.st_mode):
            if not stat.S_ISREG(given.st_mode):
                raise DataError(f"{path} is neither a folder nor a regular file.")
            yield read_record(path)
        else:
            yield from _below(path, seen)


def _below(top: Path, seen: set[tuple[int, int]]) -> Iterator[Found]:
    """What is in a folder and the folders below it; links to folders are followed, but no folder is entered twice."""
    pending = [top]
    while pending:
        folder = pending.pop()
        try:
            if _is_known(folder, seen):
                continue
            with os.scandir(folder) as scanned:
                entries = sorted(scanned, key=lambda entry: entry.name)
        except OSError as error:
            yield Unread(folder, f"{folder} cannot be read: {error.strerror or error}.")
            continue
        folders = []
        for entry in entries:
            path = folder / entry.name
            try:
                if entry.is_dir():
                    folders += [path] if not entry.name.startswith(".") else []
                    continue
                # a pipe named .json would wait for a writer forever
                wanted = entry.name.lower().endswith(".json") and entry.is_file() and not _is_known(path, seen)
            except OSError as error:
                yield Unread(path, f"{path} cannot be read: {error.strerror or error}.")
                continue
            if wanted:
                yield from _read(path)
        if (unfinished := _unfinished(folder, {entry.name for entry in entries})) is not None:
            yield unfinished
        pending += reversed(folders)


def _is_known(path: Path, seen: set[tuple[int, int]]) -> bool:
    """Whether a file or folder was met before. Raises OSError."""
    status = path.stat()
    key = (status.st_dev, status.st_ino)
    known = key in seen
    seen.add(key)
    return known


def _read(path: Path) -> Iterator[Found]:
    try:
        yield read_record(path)
    except NotARecord:
        pass
    except DataError as error:
        yield Unread(path, str(error))


def _unfinished(folder: Path, names: set[str]) -> Unfinished | None:
    """The run without a result that a folder with files of these names is; None if it is none."""
    if _RESULT in names:
        return None
    if {_LOG, _LAST} <= names:
        entries = [entry for entry in _last_lines(folder / _LOG) if entry.get("kind", "epoch") == "epoch"]
        return Unfinished(folder, "pretrain", (entries or [{}])[-1], {}, _changed(folder / _LOG))
    if _IDENTITY in names:
        identity = _json(folder / _IDENTITY)
        if not {"settings", "training_set", "backend"} <= set(identity):
            return None
        logs = sorted(folder.glob(f"*/{_LOG}"), key=lambda log: _changed(log) or "")
        last = (_last_lines(logs[-1]) or [{}])[-1] if logs else {}
        settings = identity["settings"] if isinstance(identity["settings"], dict) else {}
        return Unfinished(folder, "detect", last, settings, _changed(logs[-1] if logs else folder / _IDENTITY))
    return None


def _json(path: Path) -> dict[str, Any]:
    """The JSON object in a small file; empty if it is none."""
    try:
        if not path.is_file() or path.stat().st_size > _MAX_IDENTITY:
            return {}
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def _last_lines(log: Path) -> list[dict[str, Any]]:
    """The JSON objects at the end of a log, without a line that is cut off."""
    try:
        if not log.is_file():
            return []
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            lines = file.read().splitlines()
    except OSError:
        return []
    entries = []
    for line in lines:
        try:
            entries.append(json.loads(line))
        except ValueError:
            continue
    return [entry for entry in entries if isinstance(entry, dict)]


def _changed(path: Path) -> str | None:
    try:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(path.stat().st_mtime))
    except OSError:
        return None
