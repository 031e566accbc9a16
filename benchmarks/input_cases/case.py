"""One input, and what is expected of it."""

from __future__ import annotations

import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from click.testing import CliRunner

from cli import main
from simsiam_eval.runtime import notes

ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class Case:
    """One input, and what is expected of it.

    Attributes:
        name: what is special about the input.
        expected: what should come of it, in a few words for the table.
        check: makes the input in an empty folder, tries it, and returns what is wrong; None if nothing is.
    """

    name: str
    expected: str
    check: Callable[[Path], str | None]


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command in this process; standard error includes the traceback of an unhandled exception."""
    command = [str(argument) for argument in arguments]
    notes._said.clear()  # what a process prints once
    done = CliRunner().invoke(main, command)
    handled = done.exception is None or isinstance(done.exception, SystemExit)
    errors = done.stderr if handled else done.stderr + "".join(traceback.format_exception(done.exception))
    return subprocess.CompletedProcess(command, done.exit_code, done.stdout, errors)


def run_in(env: dict[str, str], *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run `python cli.py ARGUMENTS` in an environment."""
    command = [sys.executable, str(ROOT / "cli.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False)


def difference(found: object, expected: object) -> str | None:
    """A sentence if two values differ; None if they are equal.

    >>> difference(1, 2)
    'expected 2, got 1'
    """
    return None if found == expected else f"expected {expected}, got {found}"
