"""The record a command returns: one JSON document, and one table for the terminal."""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from simsiam_eval.runtime.machine import usable_cores, versions

RECORD_VERSION = 1


@dataclass(frozen=True)
class Table:
    """What the terminal shows: a title, column names, rows of text and notes below."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Result:
    """What a command returns.

    Attributes:
        task: name of the command.
        protocol: name of the preset whose settings were used, or None.
        settings: every setting with its value.
        metrics: accuracies as fractions in [0, 1], intervals as [low, high], counts, losses.
        provenance: what it ran on: encoder, images, versions, machine, seconds.
        files: what it wrote, by role.
        table: the same for the terminal; not part of the record.
        faults: what is wrong with what was looked at, a sentence each, for standard error: the record is printed all the
            same, and the exit status is 1.
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
            "provenance": self.provenance,
            "files": self.files,
            "settings": self.settings,
        }

    def to_json(self) -> str:
        """The record as JSON text; a number that is not finite becomes null, which strict parsers accept."""
        text = json.dumps(_finite(self.to_dict()), indent=2, ensure_ascii=False, allow_nan=False)
        return text.encode("utf-8", "backslashreplace").decode()  # a path that is not UTF-8, as JSON escapes it


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def provenance(started: float, device: str = "cpu", **more: Any) -> dict[str, Any]:
    """What every record says of its run; `started` is a `time.perf_counter()` reading, `more` is the task's own."""
    return {
        **more,
        "device": device,
        "machine": f"{platform.system()} {platform.machine()}, {usable_cores()} cores",
        "versions": versions(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": round(time.perf_counter() - started, 3),
    }
