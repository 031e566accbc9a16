"""How a process of `--num-gpus N` ended, reported to the process that started it, which prints a single sentence for all."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import time
from pathlib import Path
from typing import Literal

from simsiam_eval.runtime.immediate_exit import AFTER_A_SIGNAL, ENDING_SIGNALS, EXIT_REPORTS, signal_message
from simsiam_eval.runtime.progress import say

Kind = Literal["error", "traceback", "signal", "complete"]
# A process whose peer has failed fails too, with a traceback or by torchrun's signal: the peer's error comes first.
_ORDER: tuple[Kind, ...] = ("error", "complete", "traceback")


@dataclasses.dataclass(frozen=True)
class ExitReport:
    """The end of a process with a status other than 0.

    Attributes:
        kind: a user error, a traceback, a signal, or "complete" for a message that needs no addition (a stop on request).
        message: what to print; may be empty.
        status: its exit status.
        seconds: when it ended.
    """

    kind: Kind
    message: str
    status: int
    seconds: float


def report_exit(kind: Kind, message: str, status: int) -> bool:
    """Leave the message to the process that started this one; False where `--num-gpus` did not start it."""
    folder = os.environ.get(EXIT_REPORTS)
    if folder is None:
        return False
    for number in ENDING_SIGNALS:  # torchrun ends the others with one
        signal.signal(number, signal.SIG_IGN)
    report = json.dumps(dataclasses.asdict(ExitReport(kind, message, status, time.time())))
    unfinished = Path(folder, f"{os.getpid()}.part")
    unfinished.write_text(report, encoding="utf-8")
    unfinished.rename(unfinished.with_suffix(".json"))
    return True


def read_exit_reports(folder: Path) -> list[ExitReport]:
    """The reports in the order of time."""
    reports = [ExitReport(**json.loads(path.read_text(encoding="utf-8"))) for path in folder.glob("*.json")]
    return sorted(reports, key=lambda report: report.seconds)


def show_exit(reports: list[ExitReport], signal_number: int, rank: int, exit_code: int) -> int:
    """Print why the processes ended, each error once.

    Args:
        reports: their reports in the order of time.
        signal_number: signal that the starting process received, or 0.
        rank, exit_code: the process that failed first, and its exit code; negative for a signal.

    Returns:
        The exit status of the whole.
    """
    for kind in _ORDER:
        if chosen := [report for report in reports if report.kind == kind]:
            shown = chosen[:1] if kind == "traceback" else chosen
            for message in dict.fromkeys(report.message for report in shown if report.message):
                say(message)
            return chosen[0].status
    if signal_number:
        say(signal_message(signal_number))
        return 128 + signal_number
    if exit_code < 0:
        say(f"Error: The process of rank {rank} was ended by {signal.Signals(-exit_code).name}. {AFTER_A_SIGNAL}")
        return 128 - exit_code
    if not reports:
        say(f"Error: The process of rank {rank} ended with exit status {exit_code}.")
    return exit_code
