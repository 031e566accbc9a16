"""The program as a Click group. Its help is read from the table of commands, which are imported when called."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Mapping
from typing import Any

import click
import cloup

from simsiam_eval.commands.options import CONTEXT, command
from simsiam_eval.commands.table import Command


def program(text: str, commands: Iterable[Command], groups: Mapping[str, str]) -> click.Group:
    """The program with all `commands`, in their order and sections.

    Args:
        text: what the program is for.
        groups: summaries of the groups, the first words of names of two words.
    """
    version = click.Option(
        ["--version"], is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Print the version."
    )
    main = cloup.Group("simsiam-eval", help=text, context_settings=CONTEXT, params=[version])
    sections: dict[tuple[str, str], cloup.Section] = {}
    subgroups: dict[str, cloup.Group] = {}

    def add(parent: cloup.Group, child: click.Command, title: str) -> None:
        section = sections.setdefault((parent.name or "", title), cloup.Section(title))
        parent.add_command(child, section=section)

    for entry in commands:
        first, _, second = entry.name.partition(" ")
        if second and first not in subgroups:
            subgroups[first] = cloup.Group(
                first, help=groups[first], short_help=groups[first], context_settings=CONTEXT
            )
            add(main, subgroups[first], entry.section)
        add(subgroups[first] if second else main, _LazyCommand(entry), "Commands" if second else entry.section)
    return main


class _LazyCommand(cloup.Command):
    """A command whose settings class is imported when it is named: the program's help needs its summary only."""

    def __init__(self, entry: Command) -> None:
        super().__init__(entry.name.split()[-1], short_help=entry.summary)
        self._entry = entry

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        entry = self._entry
        return command(entry.name, entry.settings_class(), entry.run).make_context(info_name, args, parent, **extra)


def _version(context: click.Context, _: click.Parameter, given: bool) -> None:
    if given and not context.resilient_parsing:
        click.echo(f"simsiam-eval {importlib.metadata.version('simsiam-eval')}")
        context.exit()
