"""What the paths given to `report` are: feature files, heads, records, and the folders of runs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from simsiam_eval.commands.record_file import Record, read_record
from simsiam_eval.commands.record_search import Unread, find_records
from simsiam_eval.errors import DataError
from simsiam_eval.runtime.progress import say
from simsiam_eval.vocabulary import FEATURE_ENDINGS

LOG = "log.jsonl"


@dataclass
class Results:
    """The results that were given or found, each once, in the order given; those of a folder by name."""

    features: list[Path] = field(default_factory=list)
    heads: list[Path] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    trainings: list[Path] = field(default_factory=list)

    def of_task(self, *tasks: str) -> list[Record]:
        """The records of these commands, the newest last."""
        found = [record for record in self.records if record.task in tasks]
        return sorted(found, key=lambda record: record.finished or "")


def collect(paths: Sequence[Path]) -> Results:
    """Sort paths by what they are. Unreadable records in folders are reported and left out.

    Raises:
        DataError: a path does not exist or is none of these, or a folder contains none of these.
    """
    results = Results()
    for path in paths:
        if path.is_dir():
            _add_folder(results, path)
        elif path.suffix.lower() in FEATURE_ENDINGS:
            _append(results.features, path)
        elif path.suffix.lower() == ".safetensors":
            _append(results.heads, path)
        elif path.name == LOG:
            _append(results.trainings, path.parent)
        else:
            _append_record(results, read_record(path))
    return results


def _add_folder(results: Results, folder: Path) -> None:
    empty = True
    for path in _files_below(folder):
        suffix = path.suffix.lower()
        if suffix in FEATURE_ENDINGS and _is_feature_file(path):
            _append(results.features, path)
        elif suffix == ".safetensors" and _is_head(path):
            _append(results.heads, path)
        elif path.name == LOG and (path.parent / "checkpoint_last.pth.tar").exists():
            _append(results.trainings, path.parent)
        else:
            continue
        empty = False
    for found in find_records([folder]):
        if isinstance(found, Record):
            _append_record(results, found)
            empty = False
        elif isinstance(found, Unread):
            say(f"Left out: {found.reason}")
    if empty:
        raise DataError(f"{folder} contains no feature file, record, head or run of this program.")


def _files_below(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders.sort()
        yield from (Path(parent) / name for name in sorted(files) if not name.startswith("."))


def _append_record(results: Results, record: Record) -> None:
    if all(not record.path.samefile(other.path) for other in results.records):
        results.records.append(record)


def _append(paths: list[Path], path: Path) -> None:
    if all(path.resolve() != other.resolve() for other in paths):
        paths.append(path)


def _is_feature_file(path: Path) -> bool:
    from simsiam_eval.features.file import read_attributes

    try:
        read_attributes(path)
    except DataError:
        return False
    return True


def _is_head(path: Path) -> bool:
    from simsiam_eval.linear.head_file import FORMAT

    with path.open("rb") as file:
        return FORMAT.encode() in file.read(1 << 20)
