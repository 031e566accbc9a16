"""Click commands from settings dataclasses."""

from __future__ import annotations

import dataclasses
import inspect
import math
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click
import cloup

from simsiam_eval.commands.config_file import read_config
from simsiam_eval.commands.fields import FieldType, field_types, option_name, spelling
from simsiam_eval.commands.outcome import report
from simsiam_eval.commands.record import Result
from simsiam_eval.commands.settings import Settings

CONTEXT: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 120}
# Headings of a command's `--help`, in this order.
GROUPS = (
    "data",
    "encoder",
    "protocol",
    "method",
    "optimization",
    "augmentation",
    "sweep",
    "index",
    "evaluation",
    "features",
    "preprocessing",
    "monitoring",
    "checkpoints",
    "output",
    "machine",
)


class _Number(click.types.FloatParamType):
    """A float, whose error says how to write a percentage."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str) and value.strip().endswith("%"):
            try:
                number = float(value.strip()[:-1])
            except ValueError:
                number = float("nan")
            if math.isfinite(number):
                self.fail(f"{value!r} is not a number; write {number / 100:g}.", param, ctx)
        return super().convert(value, param, ctx)


_CLICK_TYPES: dict[type, click.ParamType[Any]] = {
    int: click.INT,
    float: _Number(),
    bool: click.BOOL,
    str: click.STRING,
    Path: click.Path(path_type=Path),
}
S = TypeVar("S", bound=Settings)


def command(name: str, settings_class: type[S], run: Callable[[S], Result]) -> click.Command:
    """The Click command `name`: an option, or an argument by position, for every field of `settings_class`. Of a name of
    two words the first is its group's."""

    def callback(config: Path | None, as_json: bool, debug: bool, **values: Any) -> None:
        given = {field: value for field, value in values.items() if value is not None and value != ()}
        given |= {field: sum(given[field], ()) for field in given.keys() & comma_lists}

        def settings() -> S:
            from_file = read_config(config, name, settings_class) if config is not None else {}
            return settings_class.from_mapping(from_file | given)

        report(lambda: run(settings()), as_json, debug, built.typed)

    params: list[click.Parameter] = []
    for title, fields in grouped_fields(settings_class):
        heading = cloup.OptionGroup(title)
        kinds = field_types(settings_class)
        params += [
            _argument(field, kinds[field.name])
            if field.metadata["positional"]
            else _option(field, kinds[field.name], settings_class, heading)
            for field in fields
        ]
    comma_lists = {param.name for param in params if isinstance(param.type, _CommaList)}
    built = _Command(
        name.split()[-1],
        params=[*params, *_common_options()],
        callback=callback,
        context_settings=CONTEXT,
        help=inspect.cleandoc(settings_class.__doc__ or ""),
        epilog=_examples(name, settings_class),
        no_args_is_help=any(required(field) for field in dataclasses.fields(settings_class)),
    )
    built.lacks = settings_class.LACKS
    return built


def grouped_fields(settings_class: type[Settings]) -> Iterator[tuple[str, list[dataclasses.Field[Any]]]]:
    """The fields as `--help` shows them: what is given by position or required, then group by group; in a group those
    of the command itself before those it shares with others."""
    base_of = {field.name: _declaring_class(field, settings_class) for field in dataclasses.fields(settings_class)}
    depths = {base: depth for depth, base in enumerate(settings_class.__mro__)}
    fields = sorted(dataclasses.fields(settings_class), key=lambda field: depths[base_of[field.name]])
    first = [field for field in fields if field.metadata["positional"] or required(field)]
    yield "Required", first
    for group in GROUPS:
        members = [field for field in fields if _group(field.name, base_of[field.name]) == group and field not in first]
        if members:
            yield group.capitalize(), members


def _declaring_class(field: dataclasses.Field[Any], settings_class: type[Settings]) -> type[Settings]:
    return next(base for base in settings_class.__mro__ if field.name in inspect.get_annotations(base))


def _group(name: str, base: type[Settings]) -> str:
    return next((group for group, names in base.GROUPS.items() if name in names.split()), "protocol")


def required(field: dataclasses.Field[Any]) -> bool:
    """Whether a field has no default."""
    return field.default is dataclasses.MISSING


def default_text(field: dataclasses.Field[Any], settings_class: type[Settings]) -> str:
    """A field's default as help and docs show it: a value, `required`, or the values of the presets."""
    if required(field):
        return "required"
    if field.metadata["by_preset"]:
        values = {preset: chosen[field.name] for preset, chosen in settings_class.PRESETS.items()}
        texts = {preset: _text(value) for preset, value in values.items() if value is not None}
        if len(texts) > 1 and len(set(texts.values())) == 1:
            return next(iter(texts.values()))
        presets_of: dict[str, list[str]] = {}
        for preset, text in texts.items():
            presets_of.setdefault(text, []).append(preset)
        return "by --preset: " + "; ".join(f"{'/'.join(presets)} {text}" for text, presets in presets_of.items())
    return _text(field.default)


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value)) if value else "None"
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)


class _Command(cloup.Command):
    """A command whose common options come last, under a heading of their own.

    Attributes:
        lacks: options that the command does not have -> why, as a sentence.
        typed: option, as messages call it -> the other name of it that the user typed.
    """

    lacks: Mapping[str, str] = types.MappingProxyType({})
    typed: Mapping[str, str] = types.MappingProxyType({})

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        typed = {}
        for param in self.params:
            spellings = [name for name in param.opts if any(_option_given(name, arg) for arg in args)]
            if len(spellings) > 1:
                raise click.UsageError(f"{' and '.join(spellings)} are the same option; give one of them.", ctx)
            if spellings:
                typed[param.opts[0]] = spellings[0]
        self.typed = typed
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if error.option_name not in self.lacks:
                raise
            raise click.UsageError(self.lacks[error.option_name], ctx) from error

    def get_default_option_group(
        self, ctx: click.Context, is_the_only_visible_option_group: bool = False
    ) -> cloup.OptionGroup:
        group = cloup.OptionGroup("Common")
        group.options = self.get_ungrouped_options(ctx)
        return group


def _option_given(name: str, argument: str) -> bool:
    return argument == name or argument.startswith(f"{name}=")


class _CommaList(click.ParamType[tuple[Any, ...]]):
    """Numbers or given words with commas between them, as a tuple. (Paths and names may hold commas.)"""

    def __init__(self, item: click.ParamType[Any]) -> None:
        self.item, self.name = item, item.name

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        return tuple(self.item.convert(part.strip(), param, ctx) for part in value.split(","))


def _argument(field: dataclasses.Field[Any], kind: FieldType) -> click.Argument:
    name = spelling(field) + ("..." if kind.several else "")
    # Not required by Click: it may stand in the config file.
    metavar = name if required(field) else f"[{name}]"
    argument = click.Argument([field.name], required=False, nargs=-1 if kind.several else 1, metavar=metavar)
    argument.help = field.metadata["help"]  # shown by cloup; an argument of the constructor only since Click 8.5
    return argument


def _option(
    field: dataclasses.Field[Any], kind: FieldType, settings_class: type[Settings], group: cloup.OptionGroup
) -> click.Option:
    name = option_name(field.name)
    declaration = [f"{name}/--no-{name[2:]}" if kind.scalar is bool else name, field.name]
    if field.metadata["short"]:
        declaration.insert(0, field.metadata["short"])
    if field.metadata["also"]:
        declaration.insert(1, field.metadata["also"])
    text = field.metadata["help"]
    if field.default not in (None, (), dataclasses.MISSING) or field.metadata["by_preset"]:
        text += f"  [default: {default_text(field, settings_class)}]"
    choices = field.metadata["choices"]
    click_type: click.ParamType[Any] = click.Choice(choices) if choices else _CLICK_TYPES[kind.scalar]
    metavar = None
    if kind.several and (choices or kind.scalar in (int, float)):
        metavar = (f"[{'|'.join(choices)}]" if choices else click_type.name.upper()) + ",..."
        click_type = _CommaList(click_type)
    # The default is left to the dataclass: an option not given must not override the config file or the preset.
    return cloup.Option(
        declaration, type=click_type, default=None, multiple=kind.several, metavar=metavar, help=text, group=group
    )


def _common_options() -> list[click.Option]:
    return [
        click.Option(["--config"], type=click.Path(path_type=Path), help="TOML file of settings; options override it."),
        click.Option(["--json", "as_json"], is_flag=True, help="Print only the JSON record on standard output."),
        click.Option(["--debug"], is_flag=True, help="Show the traceback of an error."),
    ]


def _examples(name: str, settings_class: type[Settings]) -> str | None:
    if not settings_class.EXAMPLES:
        return None
    lines = [f"  simsiam-eval {name} {arguments}".rstrip() for arguments in settings_class.EXAMPLES]
    return "\n".join(["\b", "Examples:" if len(lines) > 1 else "Example:", *lines])
