"""The outcome of a command: its record or table on standard output, or an error message, and the exit status."""

from __future__ import annotations

import codecs
import io
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping

import click

from simsiam_eval.commands.record import Result
from simsiam_eval.errors import DataError, Stopped, UserError, spelled_as
from simsiam_eval.runtime.exit_report import report_exit
from simsiam_eval.runtime.immediate_exit import end_at_signals, signal_message
from simsiam_eval.runtime.launch import torchrun_group
from simsiam_eval.runtime.progress import say
from simsiam_eval.runtime.signals import CaughtSignal, Received, raised_signals


def report(run: Callable[[], Result], as_json: bool, debug: bool, typed: Mapping[str, str] | None = None) -> None:
    """Run, print the result, and turn what can go wrong into one sentence and an exit status.

    Args:
        typed: as in `spelled_as`.
    """
    with spelled_as("options", typed):
        try:
            with raised_signals() as received:
                _report(lambda: _uninterrupted(run, received), as_json, debug)
        except (KeyboardInterrupt, CaughtSignal):  # outside of the block: no exception of the same signal can follow
            end_at_signals()
            if debug:
                traceback.print_exc()
            number = received.number or signal.SIGINT
            if not report_exit("signal", signal_message(number), 128 + number):
                say(signal_message(number))
            raise SystemExit(128 + number) from None
        except Exception:
            if not report_exit("traceback", traceback.format_exc().rstrip(), 1):
                raise
            raise SystemExit(1) from None


def _report(run: Callable[[], Result], as_json: bool, debug: bool) -> None:
    is_main = True
    try:
        is_main = (torchrun_group() or (0, 1))[0] == 0  # the first process prints for all
        try:
            result = run()
        finally:
            _end_workers()
        if is_main:
            _print(result, as_json)
    except Stopped as stopped:
        message = str(stopped) if is_main else ""  # all processes stop together
        if not report_exit("complete", message, stopped.exit_status) and message:
            say(message)
        raise SystemExit(stopped.exit_status) from stopped
    except UserError as error:
        _fail(str(error), error.exit_status, debug)
    except OSError as error:
        where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        _fail(f"{where}{error.strerror}." if error.strerror else f"{type(error).__name__}: {error}", 1, debug)
    except MemoryError as error:
        _fail(f"{type(error).__name__}: {error}", 1, debug)
    except RuntimeError as error:
        # torch's, which is not imported here; on a CPU it has no class of its own
        if type(error).__name__ != "OutOfMemoryError" and "can't allocate memory" not in str(error):
            raise
        what = str(error).splitlines()[0].partition("DefaultCPUAllocator: ")[2] or str(error).splitlines()[0]
        _fail(f"The device is out of memory: use a smaller batch or smaller images ({what})", 1, debug)
    else:
        if result.faults:
            report_exit("complete", "", 1)
            raise SystemExit(1)


def _uninterrupted(run: Callable[[], Result], received: Received) -> Result:
    """What `run` returns. An exception after a signal is the signal's: code that a signal interrupts may turn its exception
    into another one, or lose it."""
    try:
        result = run()
    except Exception as error:
        if received.number and not isinstance(error, Stopped):
            raise CaughtSignal from error
        raise
    if received.number:
        raise CaughtSignal
    return result


def _print(result: Result, as_json: bool) -> None:
    """The record or the table on standard output, and on standard error the faults that the table does not show."""
    try:
        text = result.to_json() if as_json else str(result.table)  # which writes nothing yet, but flushes
        if isinstance(sys.stdout, io.TextIOWrapper) and codecs.lookup(sys.stdout.encoding).name != "utf-8":
            text = json.dumps(json.loads(text), indent=2) if as_json else text  # ASCII
            sys.stdout.reconfigure(errors="backslashreplace")  # names that the terminal's encoding lacks
        click.echo(text)
    except BrokenPipeError:  # the reader (head, jq) has left: not an error of ours
        sys.stderr.close()  # Python would tell it again
        return
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise DataError(f"Cannot write the result to standard output: {reason}.") from error
    shown = [] if as_json else [cell for row in result.table.rows for cell in row]
    for fault in result.faults:
        if not any(fault in cell for cell in shown):
            say(f"Error: {fault}")


def _end_workers() -> None:
    """End DataLoader workers, which ignore signals: otherwise the exit after an error would wait for them forever."""
    if (multiprocessing := sys.modules.get("multiprocessing")) and (workers := multiprocessing.active_children()):
        # torch's handler raises when a worker was killed, wherever the program then is.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for worker in workers:
            worker.kill()
            worker.join()


def _fail(message: str, status: int, debug: bool) -> None:
    if debug:
        raise
    if not report_exit("error", f"Error: {message}", status):
        say(f"Error: {message}")
    raise SystemExit(status)
