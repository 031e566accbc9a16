"""A Click command made from a settings dataclass: options in, one call, result out (design, contract 1)."""

from __future__ import annotations

import codecs
import dataclasses
import inspect
import io
import json
import signal
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from simsiam_eval.commands.fields import field_types, option_name, spelling
from simsiam_eval.commands.record import Result, Table
from simsiam_eval.commands.settings import Settings
from simsiam_eval.commands.table import COMMANDS
from simsiam_eval.errors import Stopped, UsageError, UserError
from simsiam_eval.runtime.launch import torchrun_group
from simsiam_eval.runtime.progress import say

_INTERRUPTED = 130
_AFTER_A_SIGNAL = (
    "finished files are whole; given again, `extract`, `pretrain`, `detect` and `linear-eval --end-to-end --out` resume, "
    "other commands restart."
)
S = TypeVar("S", bound=Settings)


def command(name: str, settings_class: type[S], run: Callable[[S], Result]) -> click.Command:
    """The Click command `name`: an option, or an argument by position, for every field of `settings_class`. Of a name of
    two words the first is its group's."""

    def callback(config: Path | None, as_json: bool, debug: bool, **given: Any) -> None:
        chosen = {field: value for field, value in given.items() if value is not None and value != ()}
        chosen |= {field: sum(chosen[field], ()) for field in chosen.keys() & commas}
        _report(
            lambda: run(settings_class.from_mapping(_config_values(config, name, settings_class) | chosen)),
            as_json,
            debug,
        )

    params: list[click.Parameter] = []
    text = inspect.cleandoc(settings_class.__doc__ or "")
    for field in sorted(dataclasses.fields(settings_class), key=lambda field: declared_in(field.name, settings_class)):
        if field.metadata["positional"]:
            params.append(_argument(field, settings_class))
            text += f"\n\n{spelling(field)}: {field.metadata['help']}"
        else:
            params.append(_option(field, settings_class))
    commas = {param.name for param in params if isinstance(param.type, _Commas)}
    params.sort(key=lambda param: not isinstance(param, click.Argument))
    params += [
        click.Option(["--config"], type=click.Path(path_type=Path), help="TOML file of settings; options override it."),
        click.Option(
            ["--json", "as_json"], is_flag=True, help="Print the JSON record on standard output, and nothing else."
        ),
        click.Option(["--debug"], is_flag=True, help="Show the traceback of an error."),
    ]
    return click.Command(
        name.split()[-1],
        params=params,
        callback=callback,
        context_settings={"max_content_width": 120},
        help=text,
        no_args_is_help=bool(required(settings_class)),
    )


def declared_in(name: str, settings_class: type[Settings]) -> int:
    """How many classes up a setting is declared: a command's own come first in its help, and what many share last."""
    return next(place for place, one in enumerate(settings_class.__mro__) if name in inspect.get_annotations(one))


def required(settings_class: type[Settings]) -> list[str]:
    """The fields that have no default."""
    return [f.name for f in dataclasses.fields(settings_class) if f.default is dataclasses.MISSING]


def default_text(field: dataclasses.Field[Any], settings_class: type[Settings]) -> str:
    """A field's default as help and docs show it: a value, `required`, or the value of each preset."""
    if field.default is dataclasses.MISSING:
        return "required"
    if field.metadata["by_preset"]:
        values = {preset: chosen[field.name] for preset, chosen in settings_class.PRESETS.items()}
        told = {preset: _text(value) for preset, value in values.items() if value is not None}
        if len(told) > 1 and len(set(told.values())) == 1:
            return next(iter(told.values()))
        return ", ".join(f"{preset} {text}" for preset, text in told.items())
    return _text(field.default)


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value)) if value else "None"
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)


class _Commas(click.ParamType):
    """Numbers or given words with commas between them, as a tuple. (Paths and names may hold commas.)"""

    def __init__(self, one: click.ParamType) -> None:
        self.one, self.name = one, one.name

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        return tuple(self.one.convert(part.strip(), param, ctx) for part in value.split(","))


def _argument(field: dataclasses.Field[Any], settings_class: type[Settings]) -> click.Argument:
    several = field_types(settings_class)[field.name][1]
    name = spelling(field) + ("..." if several else "")
    # Not required by Click: it may stand in the config file.
    metavar = name if field.default is dataclasses.MISSING else f"[{name}]"
    return click.Argument([field.name], required=False, nargs=-1 if several else 1, metavar=metavar)


def _option(field: dataclasses.Field[Any], settings_class: type[Settings]) -> click.Option:
    scalar, several, _ = field_types(settings_class)[field.name]
    name = option_name(field.name)
    declaration = [f"{name}/--no-{name[2:]}" if scalar is bool else spelling(field), field.name]
    text = field.metadata["help"]
    if field.default not in (None, ()) or field.metadata["by_preset"]:
        text += f"  [{default_text(field, settings_class)}]"
    choices = field.metadata["choices"]
    kind: Any = (
        click.Choice(choices)
        if choices
        else {int: click.INT, float: click.FLOAT, bool: click.BOOL}.get(scalar, click.STRING)
    )
    metavar = None
    if several and kind is not click.STRING:
        metavar = (f"[{'|'.join(choices)}]" if choices else kind.name.upper()) + ",..."
        kind = _Commas(kind)
    # The default is left to the dataclass: an option not given must not override the config file or the preset.
    return click.Option(declaration, type=kind, default=None, multiple=several, metavar=metavar, help=text)


def _config_values(path: Path | None, command_name: str, settings_class: type[Settings]) -> dict[str, Any]:
    """Settings of a TOML file: its top level, overridden by the table named after the command (`[knn]`; before
    `[retrieval.eval]` its group's, `[retrieval]`); other commands' tables are theirs."""
    if path is None:
        return {}
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UsageError(f"Cannot read --config {path}: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path} is not TOML: {error}.") from error
    words = command_name.split()
    tables = [content]
    for word in words:
        tables.append(tables[-1].get(word, {}))
        if not isinstance(tables[-1], dict):
            raise UsageError(f"--config {path}: {'.'.join(words)} must be a table of settings, got {tables[-1]!r}.")
    values: dict[str, Any] = {}
    for depth, table in enumerate(tables):
        table = {
            key: value
            for key, value in table.items()
            if not (isinstance(value, dict) and ([key] == words[depth:][:1] or _is_command(key, words[:depth])))
        }
        named: dict[str, Any] = {}
        for key, value in table.items():
            if (name := key.replace("-", "_")) in named:
                raise UsageError(f"--config {path} gives {name} twice, with - and with _.")
            named[name] = value
        values |= named
    known = {field.name for field in dataclasses.fields(settings_class)}
    for key in values:
        if key not in known:
            raise UsageError(
                f"--config {path} has an unknown setting {key!r} for {command_name}; there are: {', '.join(sorted(known))}."
            )
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


def _is_command(name: str, group: list[str]) -> bool:
    """Whether a table `name` of a config file, at the top or in the table of a group, is a command's or a group's."""
    return any(known.split()[: len(group) + 1] == [*group, name] for known in COMMANDS)


def _report(run: Callable[[], Result], as_json: bool, debug: bool) -> None:
    """Run, print the result, and turn what can go wrong into one sentence and an exit status (contract 9)."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
            signal.signal(number, _on_signal)
    speaks = True
    try:
        speaks = (torchrun_group() or (0, 1))[0] == 0  # the first process speaks for all
        try:
            result = run()
        finally:
            _end_workers()
        if speaks:
            _print(result, as_json)
    except Stopped as stopped:
        if speaks:  # all processes stop together
            say(str(stopped))
        raise SystemExit(stopped.exit_status) from stopped
    except UserError as error:
        _fail(str(error), error.exit_status, debug)
    except KeyboardInterrupt:
        _fail(f"Interrupted: {_AFTER_A_SIGNAL}", _INTERRUPTED, debug)
    except _Signal as caught:
        _fail(f"{caught.name}: {_AFTER_A_SIGNAL}", 128 + caught.number, debug)
    except (OSError, MemoryError) as error:
        _fail(f"{type(error).__name__}: {error}", 1, debug)
    except RuntimeError as error:
        # torch's, which is not imported here; on a CPU it has no class of its own
        if type(error).__name__ != "OutOfMemoryError" and "can't allocate memory" not in str(error):
            raise
        what = str(error).splitlines()[0].partition("DefaultCPUAllocator: ")[2] or str(error).splitlines()[0]
        _fail(f"The device is out of memory: give a smaller batch or smaller images ({what})", 1, debug)
    else:
        if result.faults:
            raise SystemExit(1)


def _print(result: Result, as_json: bool) -> None:
    """The record or the table on standard output, faults on standard error."""
    text = result.to_json() if as_json else _text_of(result.table)
    if isinstance(sys.stdout, io.TextIOWrapper) and codecs.lookup(sys.stdout.encoding).name != "utf-8":
        text = json.dumps(json.loads(text), indent=2) if as_json else text  # ASCII
        sys.stdout.reconfigure(errors="backslashreplace")  # names that the terminal's encoding lacks
    try:
        click.echo(text)
    except BrokenPipeError:  # the reader (head, jq) has left: not an error of ours
        sys.stderr.close()  # Python would tell it again
        return
    for fault in result.faults:
        say(f"Error: {fault}")


def _end_workers() -> None:
    """DataLoader's workers leave signals to their parent: after an error its exit would wait for them for good."""
    if (multiprocessing := sys.modules.get("multiprocessing")) and (workers := multiprocessing.active_children()):
        # torch's handler raises when a worker was killed, wherever the program then is.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for worker in workers:
            worker.kill()
            worker.join()


class _Signal(BaseException):
    """A signal that ends the command, as KeyboardInterrupt is one."""

    def __init__(self, number: int) -> None:
        self.number, self.name = number, signal.Signals(number).name


def _on_signal(number: int, frame: Any) -> None:
    raise _Signal(number)


def _fail(message: str, status: int, debug: bool) -> None:
    if debug:
        raise
    say(f"Error: {message}")
    raise SystemExit(status)


def _text_of(table: Table) -> str:
    """The table as the terminal shows it, or a file."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table as RichTable

    console = Console(highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = 160
    shown = RichTable(box=box.SIMPLE_HEAD, show_header=any(table.columns))
    for column in table.columns:
        shown.add_column(escape(column), overflow="fold")
    for row in table.rows:
        shown.add_row(*map(escape, row))
    with console.capture() as captured:
        console.print(escape(table.title))
        if table.rows:
            console.print(shown)
        for note in table.notes:
            console.print(escape(note))
    return captured.get().rstrip("\n")
