"""The command line of a record: what to type to repeat it."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping
from typing import Any

from simsiam_eval.commands.fields import field_types, spelling
from simsiam_eval.commands.table import COMMANDS


def command_line(task: str, settings: Mapping[str, Any]) -> str | None:
    """The command with these settings, without those at their default; None for a task that is no command.

    Args:
        settings: name -> value, as in a record.

    >>> command_line("knn", {"train": "my train.h5", "test": "test.h5", "k": [20, 200], "preset": "dino"})
    "simsiam-eval knn --train 'my train.h5' --test test.h5"
    """
    if task not in COMMANDS:
        return None
    settings_class = COMMANDS[task].settings_class()
    kinds = field_types(settings_class)
    preset = settings_class.PRESETS.get(str(settings.get("preset")), {})
    words = ["simsiam-eval", *task.split()]
    positional: list[str] = []
    for field in dataclasses.fields(settings_class):
        if field.name not in settings:  # left out of the record, or newer than it
            continue
        value, default = settings[field.name], preset.get(field.name, field.default)
        if value is None or _plain(value) == _plain(default):
            continue
        if field.metadata["positional"]:
            positional += map(str, value if isinstance(value, list | tuple) else [value])
        elif isinstance(value, bool):
            words.append(spelling(field) if value else spelling(field).replace("--", "--no-", 1))
        elif kinds[field.name].several:
            words += [word for item in value for word in (spelling(field), str(item))]
        else:
            words += [spelling(field), str(value)]
    return shlex.join([*words, *positional])


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, bool | int | float | type(None)) else str(value)
