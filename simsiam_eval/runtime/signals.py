"""Ctrl-C, SIGTERM and a closed terminal as a request that is met at the next safe moment."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# SIGUSR1 is what Slurm sends ahead of a time limit (--signal=USR1@60), SIGHUP a terminal or connection that closes.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


class StopRequest:
    """`status` is 0 until a signal comes, then the exit status it asks for: 130 for Ctrl-C, 129 for SIGHUP, 143 for the
    others."""

    status = 0


@contextmanager
def stop_requests(patient: bool = False) -> Iterator[StopRequest]:
    """Within the block a first signal only sets `status`; a second one acts at once, as it does outside.

    `patient`: not even a second one does: torchrun passes on a Ctrl-C that the process has had already.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield request
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    if before[signal.SIGHUP] == signal.SIG_IGN:  # nohup
        del before[signal.SIGHUP]

    def asked(number: int, frame: Any) -> None:
        request.status = 143 if number == signal.SIGUSR1 else 128 + number
        if not patient:
            for one, handler in before.items():
                signal.signal(one, handler)

    for number in before:
        signal.signal(number, asked)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ignore_stop_signals(worker: int = 0) -> None:
    """For DataLoader workers, which a terminal, torchrun and Slurm signal too: they end when their parent does."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
