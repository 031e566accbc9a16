"""End the process at a signal with one sentence. Imports little, so that it is in force before the other imports."""

from __future__ import annotations

import os
import signal

# Set for processes that `--num-gpus` started: the folder of their reports (exit_report.py).
EXIT_REPORTS = "SIMSIAM_EVAL_EXIT_REPORTS"
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
AFTER_A_SIGNAL = (
    "Finished files are complete. Run the same command again: `extract`, `pretrain`, `detect`, "
    "`linear-eval --end-to-end --out` and `report --checkpoint` resume, other commands start over."
)


def signal_message(number: int) -> str:
    """The sentence about a signal that ends a process."""
    name = "Interrupted" if number == signal.SIGINT else signal.Signals(number).name
    return f"Error: {name}. {AFTER_A_SIGNAL}"


def end_at_signals() -> None:
    """From now on Ctrl-C, SIGTERM and SIGHUP end the process at once, while nothing needs to be cleaned up."""
    for number in ENDING_SIGNALS:
        if signal.getsignal(number) not in (signal.SIG_IGN, None):  # nohup ignores SIGHUP
            signal.signal(number, lambda number, frame: end(number))


def end(number: int) -> None:
    """End the process as a signal does; one that `--num-gpus` started leaves the sentence to the one that started it."""
    if EXIT_REPORTS not in os.environ:
        try:  # noqa: SIM105 - contextlib would be one more import
            os.write(2, f"{signal_message(number)}\n".encode())
        except OSError:
            pass  # a closed terminal
    os._exit(128 + number)
