"""The command line of a record, parsed again, gives the same settings."""

import shlex

import pytest

from simsiam_eval.commands.command_line import command_line
from simsiam_eval.commands.table import COMMANDS, Command
from simsiam_eval.errors import UsageError


@pytest.mark.parametrize(
    ("task", "values"),
    [
        ("knn", dict(train="a b.h5", test="c.h5", k=(5, 7), temperature=(0.1, 0.2), sweep=False)),
        ("knn", dict(train="a.h5", test="c.h5", preset="simsiam", metric="l2")),
        ("duplicates", dict(file="a.h5", other="b's.h5", threshold=0.9)),
        ("rank", dict(file=("a.h5", "b.h5"))),
        ("pretrain", dict(data="digits", out="run", preset="digits", stop_gradient=False, epochs=2)),
        ("linear-eval", dict(train="a.h5", test="b.h5", preset="logistic", c=(0.1, 1.0), shots=(1, 5))),
        ("retrieval eval", dict(gallery="a.h5", k=(1, 2))),
    ],
)
def test_it_is_the_same_command(call, monkeypatch, task, values):
    settings, seen = COMMANDS[task].settings_class()(**values), []

    def keep(command, typed):
        seen.append((command.name, typed))
        raise UsageError("not run")

    monkeypatch.setattr(Command, "run", keep)
    call(*shlex.split(command_line(task, settings.to_dict()))[1:])
    assert seen == [(task, settings)]


def test_a_task_that_is_no_command_has_none():
    assert command_line("bake", {"heat": 3}) is None
