"""Messages and progress bars on standard error; standard output is only for the record."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, Protocol, cast

from simsiam_eval.errors import spelled
from simsiam_eval.wording import printable

_PLAIN_SECONDS = 10.0  # between two lines, where there is no terminal for a bar


def say(message: str) -> None:
    """Print one line; nothing where it cannot be written (a closed terminal, a full disk): the command continues."""
    if sys.stderr is not None:
        print(printable(spelled(message), lines=True), file=cast("IO[str]", _Lenient(sys.stderr)), flush=True)


class _Lenient:
    """A stream whose errors are ignored: the pipe may be closed."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):  # ValueError: it is closed
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


class Advance(Protocol):
    def __call__(self, steps: int, note: str = "") -> None: ...


@contextmanager
def progress(title: str, total: int, done: int = 0, shown: bool = True) -> Iterator[Advance]:
    """A progress bar (a terminal) or a line every ten seconds (a log file); call the value with the steps done.

    Args:
        title: what is done.
        total: number of steps.
        done: steps done before.
        shown: off for all processes but the main one.
    """
    if not shown:
        yield lambda steps, note="": None
        return
    if sys.stderr is not None and sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        console = Console(file=cast("IO[str]", _Lenient(sys.stderr)))
        with Progress(*columns, TextColumn("{task.fields[note]}"), console=console) as bar:
            task = bar.add_task(title, total=total, completed=done, note="")

            def advance(steps: int, note: str = "") -> None:
                bar.update(task, advance=steps, note=note)

            yield advance
        return

    last = time.monotonic()

    def advance_plain(steps: int, note: str = "") -> None:
        nonlocal done, last
        done += steps
        if time.monotonic() - last >= _PLAIN_SECONDS:
            last = time.monotonic()
            say(f"{title}: {done}/{total} {note}".rstrip())

    yield advance_plain
