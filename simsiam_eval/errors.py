"""Errors caused by users: one sentence each (what, where, what to do), without a traceback."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

# "--batch-size", "--no-strict" or "-k" in a sentence; commands stand between backticks and are left as they are.
# --no-label is a name of its own.
_OPTION = re.compile(
    r"`[^`]*`|(?<![^\s(\"'])(?:--(?P<negated>no-(?!label\b))?(?P<long>[a-z][a-z0-9-]*)|-(?P<short>[a-zA-Z]))(?![\w-])"
)
_names: Literal["options", "arguments"] = "arguments"
_typed: Mapping[str, str] = {}


@contextmanager
def spelled_as(names: Literal["options", "arguments"], typed: Mapping[str, str] | None = None) -> Iterator[None]:
    """How messages name settings: as options (`--batch-size`) while the command line runs, as arguments from Python.

    Args:
        typed: option, as messages call it -> the other name of it that the user typed, such as {"--out": "--to"}.
    """
    global _names, _typed
    before = _names, _typed
    _names, _typed = names, typed or {}
    try:
        yield
    finally:
        _names, _typed = before


def names_options() -> bool:
    """Whether messages name options, as the command line does."""
    return _names == "options"


def spelled(message: str) -> str:
    """`message`, which names options as the command line spells them, as the reader knows them.

    >>> spelled("--batch-size must be at least 1; `simsiam-eval knn -k 1` uses no -k, see --no-strict.")
    'batch_size must be at least 1; `simsiam-eval knn -k 1` uses no k, see strict=False.'
    >>> with spelled_as("options", {"--out": "--to"}):
    ...     spelled("choose another --out.")
    'choose another --to.'
    """
    return _OPTION.sub(_typed_name if names_options() else _argument_name, message)


def _typed_name(match: re.Match[str]) -> str:
    return _typed.get(match[0], match[0])


def _argument_name(match: re.Match[str]) -> str:
    if match["short"]:
        return match["short"].lower()
    if not match["long"]:
        return match[0]
    name = match["long"].replace("-", "_")
    return f"{name}=False" if match["negated"] else name


class UserError(Exception):
    """A mistake in what the user gave: the message is one sentence for the user, `exit_status` the process's.

    The message names options as the command line spells them; from Python it names the arguments.
    """

    exit_status = 1

    def __str__(self) -> str:
        return spelled(super().__str__())


class DataError(UserError):
    """A file or its content is not what the work needs (missing, corrupt, the wrong shape): exit status 1."""


class BeingWritten(DataError):
    """Another process is writing the file, or has just written it."""


class UsageError(UserError):
    """A setting is impossible, or two contradict each other: exit status 2."""

    exit_status = 2


class Stopped(UserError):
    """The command was stopped by a signal and can be resumed: exit status 130 (Ctrl-C), 129 (SIGHUP) or 143."""

    def __init__(self, message: str, exit_status: int) -> None:
        super().__init__(message)
        self.exit_status = exit_status
