"""Commands as Python functions: settings are keyword arguments, and a Result is returned."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any

from simsiam_eval.commands.table import COMMANDS

if TYPE_CHECKING:
    from simsiam_eval.commands.record import Result


def command_function(name: str) -> Callable[..., Result]:
    """The command `name` as a function with its settings as keyword arguments."""
    command = COMMANDS[name]

    def run(**settings: Any) -> Result:
        return command(**settings)

    settings_class = command.settings_class()
    ordered = sorted(fields(settings_class), key=lambda field: field.default is not MISSING)
    hints = typing.get_type_hints(settings_class)
    run.__name__ = run.__qualname__ = command.python_name
    run.__module__ = "simsiam_eval"
    run.__doc__ = f"{command.summary}\n\n{inspect.cleandoc(settings_class.__doc__ or '')}\n\nArgs:\n" + "\n".join(
        f"    {field.name}: {field.metadata['help']}" for field in ordered
    )
    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if field.default is MISSING else field.default,
                annotation=hints[field.name],
            )
            for field in ordered
        ],
        return_annotation="Result",
    )
    return run
