"""The config file of `--config FILE.toml`: settings for all commands, and tables for single commands."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

from simsiam_eval.commands.settings import DeviceSettings, PrecisionSettings, SeedSettings, Settings
from simsiam_eval.commands.table import COMMANDS
from simsiam_eval.errors import UsageError
from simsiam_eval.files.text import read_text

# A file for several commands may give these at its top even if one of them does not use them.
_MACHINE = {
    field.name for shared in (DeviceSettings, PrecisionSettings, SeedSettings) for field in dataclasses.fields(shared)
}


def read_config(path: Path, command_name: str, settings_class: type[Settings]) -> dict[str, Any]:
    """Settings of a TOML file: its top level, overridden by the table named after the command (`[knn]`; before
    `[retrieval.eval]` its group's, `[retrieval]`); tables of other commands are skipped.

    Raises:
        UsageError: the file cannot be read, is not TOML, or has a setting that the command does not know.
    """
    words = command_name.split()
    tables = _tables(_parse(path), path, words)
    known = {field.name for field in dataclasses.fields(settings_class)}
    values: dict[str, Any] = {}
    for depth, table in enumerate(tables):
        settings = _settings_of(table, path, words, depth)
        if depth < len(words):
            settings = {name: value for name, value in settings.items() if name in known or name not in _MACHINE}
        values |= settings
    for key in values:
        if key not in known:
            raise UsageError(
                f"--config {path} has an unknown setting {key!r} for {command_name}; expected one of: "
                f"{', '.join(sorted(known))}."
            )
    return values


def _parse(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_text(path))
    except OSError as error:
        raise UsageError(f"Cannot read --config {path}: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path} is not TOML: {error}.") from error


def _tables(content: dict[str, Any], path: Path, words: list[str]) -> list[dict[str, Any]]:
    """The top level, the table of the first word, and so on."""
    tables = [content]
    for word in words:
        tables.append(tables[-1].get(word, {}))
        if not isinstance(tables[-1], dict):
            raise UsageError(f"--config {path}: {'.'.join(words)} must be a table of settings, got {tables[-1]!r}.")
    return tables


def _settings_of(table: dict[str, Any], path: Path, words: list[str], depth: int) -> dict[str, Any]:
    """The settings in the table of the first `depth` words, without the tables of commands in it."""
    settings: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict) and (words[depth : depth + 1] == [key] or _is_command(key, words[:depth])):
            continue
        if (name := key.replace("-", "_")) in settings:
            raise UsageError(f"--config {path} gives {name} twice, with - and with _.")
        settings[name] = value
    return settings


def _is_command(name: str, group: list[str]) -> bool:
    """Whether a table `name`, at the top of the file or in the table of a group, is a command's or a group's."""
    return any(known.split()[: len(group) + 1] == [*group, name] for known in COMMANDS)
