"""The record that a command returns, as JSON, and its table for the terminal."""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from simsiam_eval.commands.result_table import Table
from simsiam_eval.files.strict_json import strict_json
from simsiam_eval.runtime.machine import usable_cores, versions

if TYPE_CHECKING:
    import pandas

__all__ = ["RECORD_VERSION", "Result", "Table", "provenance"]

RECORD_VERSION = 1


@dataclass(frozen=True, repr=False)
class Result:
    """What a command returns. In a notebook, and where it is printed, it shows its table.

    Attributes:
        task: name of the command.
        protocol: name of the preset whose settings were used, or None.
        settings: every setting with its value.
        metrics: accuracies as fractions in [0, 1], intervals as [low, high], counts, losses.
        provenance: what it ran on: encoder, images, versions, machine, seconds.
        files: what it wrote, by role.
        table: the numbers for people; not part of the record.
        faults: what is wrong with what was checked or read, a sentence each, for standard error; the record is printed all
            the same, and the exit status is 1. One that the table shows is not printed twice.
    """

    task: str
    settings: dict[str, Any]
    metrics: dict[str, Any]
    provenance: dict[str, Any]
    table: Table
    protocol: str | None = None
    files: dict[str, str] = field(default_factory=dict)
    faults: Sequence[str] = ()

    def to_dict(self) -> dict[str, Any]:
        """The JSON record as plain values."""
        return {
            "record": "simsiam-eval",
            "record_version": RECORD_VERSION,
            "task": self.task,
            "protocol": self.protocol,
            "metrics": self.metrics,
            "faults": list(self.faults),
            "provenance": self.provenance,
            "files": self.files,
            "settings": self.settings,
        }

    def to_json(self) -> str:
        """The record as JSON text; a number that is not finite becomes null, which strict parsers accept."""
        text = strict_json(self.to_dict(), indent=2)
        return text.encode("utf-8", "backslashreplace").decode()  # a path that is not UTF-8, as JSON escapes it

    def to_frame(self) -> pandas.DataFrame:
        """The table as a pandas DataFrame; columns of numbers are numbers.

        Raises:
            UsageError: pandas is not installed.
        """
        return self.table.to_frame()

    def __repr__(self) -> str:
        return str(self.table)

    def _repr_html_(self) -> str:
        return self.table.to_html()


def provenance(started: float, device: str = "cpu", **more: Any) -> dict[str, Any]:
    """The provenance in every record. `started` is a `time.perf_counter()` reading; `more` is added by the task."""
    return {
        **more,
        "device": device,
        "machine": f"{platform.system()} {platform.machine()}, {usable_cores()} cores",
        "versions": versions(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": round(time.perf_counter() - started, 3),
    }
