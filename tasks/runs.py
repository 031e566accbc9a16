"""`runs`: every record below some folders as one table, with the runs that are not finished."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from simsiam_eval.commands.main_metrics import Measured, measured
from simsiam_eval.commands.record import Result, Table, provenance
from simsiam_eval.commands.record_file import Record, encoder_label
from simsiam_eval.commands.record_search import Unfinished, Unread, find_records
from simsiam_eval.commands.settings import Settings, setting
from simsiam_eval.commands.table import COMMANDS
from simsiam_eval.errors import DataError
from simsiam_eval.wording import counted, first_few

_TABLE_ROWS, _NAMED = 200, 3
_UNFINISHED = "unfinished"
COLUMNS = ("task", "encoder", "data", "protocol", "metric", "value [95 %]", "date (UTC)", "file")  # of `Run.cells`


@dataclass(frozen=True, kw_only=True)
class RunsSettings(Settings):
    """List every record below folders: --json output kept in a file, and the records in run folders.

    Records of all versions of simsiam-eval are read. Run folders of pretrain and detect without a result are listed as
    unfinished.
    """

    GROUPS: ClassVar[dict[str, str]] = {"data": "folder task", "output": "sort reverse csv"}
    EXAMPLES: ClassVar[tuple[str, ...]] = ("runs", "runs results --task knn --sort value --csv runs.csv")

    folder: tuple[Path, ...] = setting(positional=True, help="Folders to search, with all folders below; or records.")
    task: tuple[str, ...] = setting(
        (), choices=tuple(COMMANDS), once=True, help="Only records of this command; repeatable. Default: all."
    )
    sort: str = setting(
        "date",
        choices=("date", "task", "encoder", "data", "protocol", "metric", "value", "file"),
        help="Column to sort by: date with the newest first, value with the highest first, others alphabetically.",
    )
    reverse: bool = setting(False, help="Reverse the order of --sort; rows without a value stay last.")
    csv: Path | None = setting(
        None, output=True, endings=(".csv",), help="CSV file with a line for each main metric of each record."
    )


@dataclass(frozen=True)
class Run:
    """A line of the table: a record, or one encoder, initialization or file that it measures.

    Attributes:
        of: which of these; None if the record measures only one.
        metrics: the main metrics, the one that is shown first.
        date: when it ended; of an unfinished run, when its log was last written.
        state: "" or "unfinished ...".
    """

    file: str
    task: str
    encoders: tuple[str, ...]
    data: tuple[str, ...]
    protocol: str | None
    of: str | None
    metrics: tuple[Measured, ...]
    date: str | None
    state: str = ""
    version: int | None = None
    faults: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As in the record of `runs`."""
        return {
            "file": self.file,
            "task": self.task,
            "encoders": list(self.encoders),
            "data": list(self.data),
            "protocol": self.protocol,
            "of": self.of,
            "metrics": {entry.metric.name: entry.to_dict() for entry in self.metrics},
            "date": self.date,
            "state": self.state or "finished",
            "faults": self.faults,
            "record_version": self.version,
        }

    def cells(self) -> list[str]:
        """Row of the table."""
        shown = self.metrics[0] if self.metrics else None
        name = "-" if shown is None else " ".join(filter(None, [shown.metric.label, shown.metric.unit]))
        value = "-" if shown is None else shown.cell()
        encoder = ", ".join(self.encoders) or "-"
        where = self.file if self.of is None else f"{self.file}: {self.of}"
        texts = [self.task, encoder, ", ".join(self.data) or "-", self.protocol or "-", name]
        date = (self.date or "-").replace("T", " ").removesuffix("Z")
        state = [self.state] if self.state else []
        return [*texts, value, ", ".join([*state, date]), where]


def runs(settings: RunsSettings) -> Result:
    """Run `runs`. Records that cannot be read are counted and named.

    Raises:
        DataError: a path does not exist, or there is no record below any of them.
    """
    started = time.perf_counter()
    found: list[Run] = []
    unread: list[Unread] = []
    records = unfinished = 0
    for entry in find_records(settings.folder):
        if isinstance(entry, Unread):
            unread.append(entry)
        elif not settings.task or entry.task in settings.task:
            records, unfinished = records + isinstance(entry, Record), unfinished + isinstance(entry, Unfinished)
            found += runs_of(entry) if isinstance(entry, Record) else [_unfinished(entry)]
    if not found and not unread:
        wanted = f" of {' or '.join(settings.task)}" if settings.task else ""
        raise DataError(
            f"No records{wanted} found below {first_few(map(str, settings.folder))}; save one with `--json > FILE.json`."
        )
    found = in_order(found, settings.sort, settings.reverse)
    files = {}
    if settings.csv is not None:
        _write_csv(settings.csv, found)
        files["table"] = str(settings.csv)
    return Result(
        task="runs",
        settings=settings.to_dict(),
        metrics={
            "records": records,
            "unfinished": unfinished,
            "unread": [{"file": str(entry.path), "reason": entry.reason} for entry in unread],
            "runs": [run.to_dict() for run in found],
        },
        provenance=provenance(started),
        files=files,
        table=_table(found, records, unfinished, unread),
    )


def runs_of(record: Record) -> list[Run]:
    """The lines of a record: one, or one for each encoder that it measures."""
    values = measured(record)
    parts = list(dict.fromkeys(value.of for value in values)) or [None]
    return [
        Run(
            file=str(record.path),
            task=record.task,
            encoders=(record.encoders[number],) if len(parts) == len(record.encoders) else record.encoders,
            data=record.data,
            protocol=record.protocol,
            of=part,
            metrics=tuple(value for value in values if value.of == part),
            date=record.finished,
            version=record.version,
            faults=len(record.faults),
        )
        for number, part in enumerate(parts)
    ]


def _unfinished(run: Unfinished) -> Run:
    """The line of a run without a result, with what its log said last."""
    record = Record(run.task, None, run.last, run.settings, {}, {}, (), 0, run.path)
    epoch, step = run.last.get("epoch"), run.last.get("step")
    reached = f" after epoch {epoch}" if epoch is not None else f" after step {step}" if step is not None else ""
    train = run.settings.get("train") or []
    return Run(
        file=str(run.path),
        task=run.task,
        encoders=(encoder_label(run.settings),) if run.settings.get("arch") else (),
        data=tuple(map(str, train if isinstance(train, list) else [train])),
        protocol=None if run.settings.get("preset") is None else str(run.settings["preset"]),
        of=None,
        metrics=tuple(measured(record)),
        date=run.changed,
        state=f"{_UNFINISHED}{reached}",
    )


def in_order(found: Iterable[Run], column: str, reverse: bool) -> list[Run]:
    """The lines sorted by a column (see `RunsSettings.sort`), those without a value last, equal ones by file."""
    keys: dict[str, Callable[[Run], Any]] = {
        "date": lambda run: run.date,
        "task": lambda run: run.task,
        "encoder": lambda run: ", ".join(run.encoders) or None,
        "data": lambda run: ", ".join(run.data) or None,
        "protocol": lambda run: run.protocol,
        "metric": lambda run: run.metrics[0].metric.label if run.metrics else None,
        "value": lambda run: run.metrics[0].value if run.metrics else None,
        "file": lambda run: run.file,
    }
    key = keys[column]
    by_file = sorted(found, key=lambda run: (run.file, run.of or ""))
    with_value = [run for run in by_file if key(run) is not None]
    ordered = sorted(with_value, key=key, reverse=(column in ("date", "value")) != reverse)
    return ordered + [run for run in by_file if key(run) is None]


def _write_csv(path: Path, found: Sequence[Run]) -> None:
    from simsiam_eval.files.atomic import write_csv

    names = (
        "file",
        "task",
        "encoder",
        "data",
        "protocol",
        "of",
        "metric",
        "value",
        "low",
        "high",
        "std",
        "date",
        "state",
    )
    lines = []
    for run in found:
        start = [run.file, run.task, ", ".join(run.encoders), ", ".join(run.data), run.protocol or "", run.of or ""]
        end = [run.date or "", run.state or "finished"]
        for entry in run.metrics:
            low, high = entry.interval or ("", "")
            std = "" if entry.std is None else entry.std
            lines.append([*start, entry.metric.name, entry.value, low, high, std, *end])
        if not run.metrics:
            lines.append([*start, "", "", "", "", "", *end])
    write_csv(path, names, lines)


def _table(found: Sequence[Run], records: int, unfinished: int, unread: Sequence[Unread]) -> Table:
    notes = []
    if len(found) > _TABLE_ROWS:
        notes.append(f"The first {_TABLE_ROWS} of {len(found):,} lines; --csv and --json have all.")
    if unread:
        reasons = " ".join(entry.reason for entry in unread[:_NAMED])
        more = f" And {len(unread) - _NAMED} more." if len(unread) > _NAMED else ""
        number = "1 file or folder" if len(unread) == 1 else f"{len(unread):,} files or folders"
        notes.append(f"Not read: {number}. {reasons}{more}")
    title = counted(records, "record") + (f", {counted(unfinished, 'unfinished run')}" if unfinished else "")
    return Table(
        title,
        COLUMNS,
        [run.cells() for run in found[:_TABLE_ROWS]],
        notes,
    )
