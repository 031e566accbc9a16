"""Settings: one frozen dataclass per command, the only place where an option's type, default and help live.

The Click options, the keys of `--config FILE.toml`, the table in docs/settings.md and the JSON record are all read from
these fields. Needs no torch, so that `--help` answers at once.
"""

from __future__ import annotations

import dataclasses
import os
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from simsiam_eval.errors import UsageError
from simsiam_eval.files.atomic import refuse_unwritable
from simsiam_eval.sources.spec import path_of
from simsiam_eval.vocabulary import PRECISIONS

_LARGEST_WHOLE = 10**12  # rows of a source may be billions; libraries count in 64 bits
_LARGEST = 1e36  # float32 ends at 3.4e38, and a learning rate is multiplied by the batch


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
    may_change: bool = False,
    endings: tuple[str, ...] = (),
    positional: bool = False,
    output: bool = False,
    once: bool = False,
) -> Any:
    """Declare one field of a Settings class: its default (none: required), help text and permitted values.

    `by_preset=True` means that the value comes from the preset unless it is given; `may_change=True` that work which is
    resumed may have another value than it started with; `endings` are those that a path may have; a `positional` one is
    given without its name (several values: all that are left); an `output` is a file that the command writes;
    of several values that must differ (`once`) equal ones count once.
    """
    metadata = dict(
        help=help, choices=choices, at_least=at_least, at_most=at_most, above=above, by_preset=by_preset, short=short,
        may_change=may_change, endings=endings, positional=positional, output=output, once=once,
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


def may_change(settings_class: type[Settings]) -> set[str]:
    """Names of the settings that resumed work may have other values of."""
    return {field.name for field in dataclasses.fields(settings_class) if field.metadata["may_change"]}


def field_types(settings_class: type[Settings]) -> dict[str, tuple[type, bool, bool]]:
    """For each field: its scalar type, whether several values may be given, and whether it may be None."""
    found = {}
    for name, hint in typing.get_type_hints(settings_class).items():
        if typing.get_origin(hint) is ClassVar:
            continue
        optional = typing.get_origin(hint) in (types.UnionType, typing.Union)
        if optional:
            hint = next(part for part in typing.get_args(hint) if part is not type(None))
        several = typing.get_origin(hint) is tuple
        found[name] = (typing.get_args(hint)[0] if several else hint, several, optional)
    return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What every command takes. Values are checked, and filled from the preset, when the object is made.

    Raises:
        UsageError: a value is of the wrong type, out of range or not among the choices; the sentence names the option.
    """

    # preset name -> values of the `by_preset` fields; a class without presets leaves it empty.
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {}

    device: str = setting("auto", may_change=True, help="auto (CUDA where there is one), cpu, cuda or cuda:N.")
    precision: str = setting(
        "float32",
        choices=PRECISIONS,
        help="Arithmetic of the encoder: float32 (on a GPU its convolutions are TF32, as is PyTorch's default), or bfloat16 "
        "(faster; features differ slightly).",
    )
    seed: int = setting(0, at_least=0, at_most=2**32 - 1, help="Seed of everything random.")

    def __post_init__(self) -> None:
        self._fill_from_preset()
        kinds = field_types(type(self))
        for field in dataclasses.fields(self):
            scalar, several, optional = kinds[field.name]
            value = getattr(self, field.name)
            if value is None and optional:
                continue
            values = value if several and isinstance(value, list | tuple) else (value,)
            checked = tuple(_checked(field, scalar, one) for one in values)
            if field.metadata["once"]:
                checked = tuple(dict.fromkeys(checked))
            if several and not checked and field.default != ():
                raise UsageError(f"{spelling(field)} needs at least one value.")
            object.__setattr__(self, field.name, checked if several else checked[0])
        self._refuse_output_that_is_read()
        self.check()

    def try_outputs(self) -> None:
        """Find out before the work whether the output files can be written. Raises DataError."""
        for _, path in self.outputs():
            refuse_unwritable(path)

    def outputs(self) -> list[tuple[str, Path]]:
        """The files to write: the option that asks for it, and where. A subclass adds those that lie beside them."""
        fields = [field for field in dataclasses.fields(self) if field.metadata["output"]]
        return [(spelling(field), path) for field in fields if (path := getattr(self, field.name)) is not None]

    def _refuse_output_that_is_read(self) -> None:
        """An output takes the place of what is there: that must not be what the command reads, or its other output."""
        outputs = self.outputs()
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            given = value if isinstance(value, tuple) else (value,)
            if field.metadata["choices"] or not all(isinstance(one, str | Path) for one in given):
                continue
            for option, output in outputs:
                if option != spelling(field) and any(_same_file(output, one) for one in given):
                    raise UsageError(f"{option} {output} is the file of {spelling(field)}: choose another.")

    def _fill_from_preset(self) -> None:
        if not self.PRESETS:
            return
        preset = getattr(self, "preset")  # noqa: B009 - declared by the subclasses that have presets
        if not isinstance(preset, str) or preset not in self.PRESETS:
            raise UsageError(f"--preset must be one of {', '.join(self.PRESETS)}, got {preset!r}.")
        for field in dataclasses.fields(self):
            if field.metadata.get("by_preset") and getattr(self, field.name) is None:
                object.__setattr__(self, field.name, self.PRESETS[preset][field.name])

    def check(self) -> None:
        """Refuse settings that contradict each other; a subclass overrides it."""

    def refuse_given(self, names: Sequence[str], why: str) -> None:
        """UsageError for the first of these settings that is not at its default: one that changes nothing misleads."""
        known = {field.name: field for field in dataclasses.fields(self)}
        defaults = {name: field.default for name, field in known.items()}
        if self.PRESETS:
            defaults |= self.PRESETS[getattr(self, "preset")]  # noqa: B009 - as above
        for name in names:
            if getattr(self, name) != defaults[name]:
                raise UsageError(f"{spelling(known[name])} {why}.")

    def protocol(self) -> str | None:
        """The preset, and which of its values are not its own: numbers under another lr are not that protocol's."""
        if not self.PRESETS:
            return None
        name, changed = getattr(self, "preset"), self.changed()  # noqa: B009 - as above
        return f"{name}, changed: {', '.join(changed)}" if changed else str(name)

    def changed(self) -> list[str]:
        """Names of the settings whose values are not the preset's; a subclass adds those that its presets fix otherwise."""
        own = self.PRESETS[getattr(self, "preset")]  # noqa: B009 - as above
        return [key for key, value in own.items() if getattr(self, key) != value]

    @classmethod
    def from_mapping(cls, values: dict[str, Any]) -> Self:
        """Make the settings from plain values (TOML, JSON).

        Raises:
            UsageError: a key is unknown or a required one is missing.
        """
        known = {field.name: field for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise UsageError(f"Unknown setting {unknown[0]!r}; there are: {', '.join(known)}.")
        for name, field in known.items():
            if field.default is dataclasses.MISSING and name not in values:
                raise UsageError(f"{spelling(field)} is missing.")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the JSON record and the checkpoint."""
        return {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}


def _same_file(output: Path, given: str | Path) -> bool:
    """Whether an output would replace a file that is read; a text may be a path or an image source."""
    path = path_of(given) if isinstance(given, str) else given
    if output.exists() and path.exists():
        return output.samefile(path)
    return isinstance(given, Path) and os.path.abspath(output) == os.path.abspath(given)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value


def _checked(field: dataclasses.Field[Any], scalar: type, value: Any) -> Any:
    rules = field.metadata
    name = spelling(field)
    wrong = UsageError(f"{name} must be {_describe(scalar)}, got {value!r}.")
    if scalar is bool:
        if not isinstance(value, bool):
            raise wrong
    elif isinstance(value, bool):
        raise wrong
    elif scalar is float and isinstance(value, int):
        value = float(value)
    elif scalar is Path and isinstance(value, str | Path):
        value = Path(os.path.expanduser(value))
    elif not isinstance(value, scalar):
        raise wrong
    if scalar is str and value.startswith("~"):
        value = os.path.expanduser(value)
    if "\0" in str(value):
        raise UsageError(f"{name} must be without zero bytes, got {value!r}.")
    if isinstance(value, float) and not abs(value) <= _LARGEST:
        raise UsageError(f"{name} must be a finite number within ±{_LARGEST:g}, got {value}.")
    if isinstance(value, float) and 0 < abs(value) < 1 / _LARGEST:
        raise UsageError(f"{name} must be at least {1 / _LARGEST:g} in size, got {value}.")
    if isinstance(value, int) and not abs(value) <= _LARGEST_WHOLE:
        raise UsageError(f"{name} must be a whole number within ±{_LARGEST_WHOLE}, got {value}.")
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
            raise UsageError(f"{name} must be {rule.replace('_', ' ')} {rules[rule]}, got {value}.")
    return value


def _describe(scalar: type) -> str:
    return {int: "a whole number", float: "a number", bool: "true or false", str: "a text", Path: "a path"}[scalar]
