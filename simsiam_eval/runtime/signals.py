"""Ctrl-C, SIGTERM and a closed terminal: they end the process at once, raise an exception, or ask to stop at the next safe
point, as what runs needs it."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from simsiam_eval.runtime.immediate_exit import ENDING_SIGNALS, end

# SIGUSR1 is what Slurm sends ahead of a time limit (--signal=USR1@60), SIGHUP a terminal or connection that closes.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
_IMPORT_SECONDS = 0.05  # between two looks whether an import has ended


class CaughtSignal(BaseException):
    """A signal that ends a command, such as SIGTERM; Ctrl-C is a KeyboardInterrupt."""


class Received:
    """`number` is 0 until a signal arrives."""

    number = 0


@contextmanager
def raised_signals() -> Iterator[Received]:
    """Within the block a signal raises KeyboardInterrupt or CaughtSignal; a second one during an import ends the process.

    While a module is imported, the exception waits for the end of the import: it would leave the module half imported, and C
    code that imports turns it into another exception or loses it.
    """
    received = Received()

    def act(number: int, frame: FrameType | None) -> None:
        if not _is_importing(frame):
            raise KeyboardInterrupt if received.number == signal.SIGINT else CaughtSignal
        signal.setitimer(signal.ITIMER_REAL, _IMPORT_SECONDS)

    def handle(number: int, frame: FrameType | None) -> None:
        if received.number and _is_importing(frame):
            end(number)
        received.number = number
        sys.unraisablehook = lost
        signal.signal(signal.SIGALRM, act)
        act(number, frame)

    def lost(unraisable: Any) -> None:
        """Of exceptions in `__del__`, which Python would print: try again if it is ours."""
        if isinstance(unraisable.exc_value, KeyboardInterrupt | CaughtSignal):
            signal.setitimer(signal.ITIMER_REAL, _IMPORT_SECONDS)

    before = _handle(handle)
    try:
        yield received
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def _handle(handler: Callable[[int, FrameType | None], None]) -> dict[signal.Signals, Any]:
    """Set the handler of the signals that are not ignored, as nohup has it; returns the handlers before."""
    before = {number: signal.getsignal(number) for number in ENDING_SIGNALS}
    before = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, handler)
    return before


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


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
