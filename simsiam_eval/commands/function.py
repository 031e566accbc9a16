"""Commands as Python functions: settings are arguments, and a Result is returned."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any

from simsiam_eval.commands.table import COMMANDS
from simsiam_eval.errors import spelled, spelled_as

if TYPE_CHECKING:
    from simsiam_eval.commands.record import Result


def command_function(name: str) -> Callable[..., Result]:
    """The command `name` as a function with its settings as keyword arguments; those that are positional on the command
    line may be given by position."""
    command = COMMANDS[name]

    def run(*values: Any, **settings: Any) -> Result:
        return command(*values, **settings)

    settings_class = command.settings_class()
    ordered = sorted(
        fields(settings_class), key=lambda field: (not field.metadata["positional"], field.default is not MISSING)
    )
    hints = typing.get_type_hints(settings_class)
    run.__name__ = run.__qualname__ = command.python_name
    run.__module__ = "simsiam_eval"
    text = f"{command.summary}\n\n{inspect.cleandoc(settings_class.__doc__ or '')}\n\nArgs:\n"
    with spelled_as("arguments"):
        run.__doc__ = spelled(text + "\n".join(f"    {field.name}: {field.metadata['help']}" for field in ordered))
    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(
                field.name,
                inspect.Parameter.POSITIONAL_OR_KEYWORD
                if field.metadata["positional"]
                else inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if field.default is MISSING else field.default,
                annotation=hints[field.name],
            )
            for field in ordered
        ],
        return_annotation="Result",
    )
    return run
