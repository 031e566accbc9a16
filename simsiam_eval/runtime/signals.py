"""Handle Ctrl-C, SIGTERM and a closed terminal as requests to stop at the next safe point."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# SIGUSR1 is what Slurm sends ahead of a time limit (--signal=USR1@60), SIGHUP a terminal or connection that closes.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


class StopRequest:
    """`status` is 0 until a signal arrives, then the exit status: 130 for Ctrl-C, 129 for SIGHUP, 143 for the others."""

    status = 0


@contextmanager
def stop_requests(patient: bool = False) -> Iterator[StopRequest]:
    """Within the block a first signal only sets `status`; a second one has its usual effect at once.

    Args:
        patient: a second signal has no effect either: torchrun forwards a Ctrl-C that the process has already received.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
        yield request
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    if before[signal.SIGHUP] == signal.SIG_IGN:  # nohup
        del before[signal.SIGHUP]

    def handle(number: int, frame: Any) -> None:
        request.status = 143 if number == signal.SIGUSR1 else 128 + number
        if not patient:
            for name, handler in before.items():
                signal.signal(name, handler)

    for number in before:
        signal.signal(number, handle)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ignore_stop_signals(worker: int = 0) -> None:
    """For DataLoader workers, which terminals, torchrun and Slurm signal too: they exit with their parent."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
