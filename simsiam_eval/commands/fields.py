"""Fields of settings classes: their declaration, their spelling on the command line, and the values they accept."""

from __future__ import annotations

import dataclasses
import os
import types
import typing
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from simsiam_eval.errors import UsageError, names_options

_LONGEST_WHOLE = 1e6
_LARGEST_INTEGER = 10**12  # rows of a source may be billions; libraries count in 64 bits
_LARGEST_FLOAT = 1e36  # float32 ends at 3.4e38, and a learning rate is multiplied by the batch
_LONGEST_VALUE = 200  # characters of a value in a message
_TYPE_NAMES = {int: "an integer", float: "a number", bool: "true or false", str: "a string", Path: "a path"}


def setting(
    default: Any = dataclasses.MISSING,
    *,
    help: str,
    choices: tuple[str, ...] = (),
    at_least: float | None = None,
    at_most: float | None = None,
    above: float | None = None,
    by_preset: bool = False,
    short: str | None = None,
    also: str | None = None,
    may_change: bool = False,
    endings: tuple[str, ...] = (),
    positional: bool = False,
    output: bool = False,
    once: bool = False,
) -> Any:
    """Declare one field of a Settings class.

    Args:
        default: its value where none is given; without a default it is required.
        help: help text.
        choices: permitted values.
        at_least, at_most, above: bounds of a number.
        by_preset: the default comes from the preset.
        also: another name on the command line, such as "--to".
        short: short name on the command line, such as "-k", by which messages call it.
        may_change: resumed work may have another value than it started with.
        endings: permitted suffixes of a path.
        positional: given by position on the command line; of several values it takes all that are left.
        output: a file that the command writes.
        once: of several values equal ones count once.
    """
    metadata = dict(
        help=help, choices=choices, at_least=at_least, at_most=at_most, above=above, by_preset=by_preset,
        short=short, also=also, may_change=may_change, endings=endings, positional=positional, output=output, once=once,
    )  # fmt: skip
    return dataclasses.field(default=None if by_preset else default, metadata=metadata)


def option_name(field_name: str) -> str:
    """The command line's spelling of a field.

    >>> option_name("batch_size")
    '--batch-size'
    """
    return "--" + field_name.replace("_", "-")


def spelling(field: dataclasses.Field[Any]) -> str:
    """How the command line gives a field: `-k`, `--batch-size`, or `FILE` for a positional one."""
    if field.metadata["positional"]:
        return field.name.upper()
    return field.metadata["short"] or option_name(field.name)


def name_of(field: dataclasses.Field[Any]) -> str:
    """How a message names a field; a positional one has no dashes by which `errors.spelled` could know it."""
    return field.name if field.metadata["positional"] and not names_options() else spelling(field)


class FieldType(NamedTuple):
    """Scalar type of a field, whether several values may be given, and whether it may be None."""

    scalar: type
    several: bool
    optional: bool


def field_types(settings_class: type) -> dict[str, FieldType]:
    """The type of each field of a settings class."""
    fields = {}
    for name, hint in typing.get_type_hints(settings_class).items():
        if typing.get_origin(hint) is ClassVar:
            continue
        optional = typing.get_origin(hint) in (types.UnionType, typing.Union)
        if optional:
            hint = next(part for part in typing.get_args(hint) if part is not type(None))
        several = typing.get_origin(hint) is tuple
        fields[name] = FieldType(typing.get_args(hint)[0] if several else hint, several, optional)
    return fields


def plain_value(value: Any) -> Any:
    """A NumPy or torch number or array as plain Python values; anything else as it is."""
    return value.tolist() if hasattr(value, "tolist") else value


def checked_values(field: dataclasses.Field[Any], kind: FieldType, value: Any) -> Any:
    """The value of a field, converted to its type and checked: a tuple where it may have several.

    Raises:
        UsageError: it is of the wrong type, out of range or not among the choices.
    """
    value = plain_value(value)
    if value is None and kind.optional:
        return None
    if not kind.several:
        return _checked(field, kind.scalar, value)
    values = value if isinstance(value, list | tuple | range) else (value,)
    checked = tuple(_checked(field, kind.scalar, plain_value(item)) for item in values)
    if field.metadata["once"]:
        checked = tuple(dict.fromkeys(checked))
    if not checked and field.default != ():
        raise UsageError(f"{name_of(field)} requires a value.")
    return checked


def _checked(field: dataclasses.Field[Any], scalar: type, value: Any) -> Any:
    value = _converted(field, scalar, value)
    rules, name = field.metadata, name_of(field)
    if "\0" in str(value):
        raise UsageError(f"{name} must not contain zero bytes, got {value!r}.")
    if isinstance(value, float) and not abs(value) <= _LARGEST_FLOAT:
        raise UsageError(f"{name} must be a finite number within ±{_LARGEST_FLOAT:g}, got {value}.")
    if isinstance(value, float) and 0 < abs(value) < 1 / _LARGEST_FLOAT:
        raise UsageError(f"{name} must be 0 or at least {1 / _LARGEST_FLOAT:g} in magnitude, got {value}.")
    if isinstance(value, int) and not abs(value) <= _LARGEST_INTEGER:
        raise UsageError(f"{name} must be an integer within ±{_LARGEST_INTEGER}, got {value}.")
    if rules["choices"] and value not in rules["choices"]:
        raise UsageError(f"{name} must be one of {', '.join(rules['choices'])}, got {value!r}.")
    if rules["endings"] and value.suffix.lower() not in rules["endings"]:
        raise UsageError(f"{name} must end in {' or '.join(rules['endings'])}, got {value}.")
    for rule, holds in (
        ("at_least", lambda bound: value >= bound),
        ("at_most", lambda bound: value <= bound),
        ("above", lambda bound: value > bound),
    ):
        if rules[rule] is not None and not holds(rules[rule]):
            raise UsageError(f"{name} must be {rule.replace('_', ' ')} {rules[rule]}, got {_as_typed(value)}.")
    return value


def _as_typed(value: Any) -> Any:
    """A whole float without its point, as it is mostly typed on the command line."""
    is_whole = isinstance(value, float) and value.is_integer() and abs(value) < _LONGEST_WHOLE
    return int(value) if is_whole and names_options() else value


def _converted(field: dataclasses.Field[Any], scalar: type, value: Any) -> Any:
    """`value` as a `scalar`: an integer may stand for a float, a string for a path and a path for a string."""
    if scalar in (str, Path) and isinstance(value, str | os.PathLike):
        text = os.fspath(value)
        if isinstance(text, str):
            text = os.path.expanduser(text) if scalar is Path or text.startswith("~") else str(text)
            return scalar(text)
    elif scalar is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    elif isinstance(value, scalar) and isinstance(value, bool) == (scalar is bool):
        return value
    raise UsageError(f"{name_of(field)} must be {_TYPE_NAMES[scalar]}, got {_described(value)}.")


def _described(value: Any) -> str:
    """A plain value as it is, another object by its type: an array or an encoder would fill the screen."""
    text = repr(value)
    if isinstance(value, str | int | float | Path | list | tuple | dict | None) and len(text) <= _LONGEST_VALUE:
        return text
    name = type(value).__name__
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name} object"
