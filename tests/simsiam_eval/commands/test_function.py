"""Commands as Python functions: their arguments, docstrings and messages."""

import inspect
import re

import numpy as np
import pytest

import simsiam_eval as se
from simsiam_eval.commands.table import COMMANDS
from simsiam_eval.errors import spelled_as


@pytest.mark.parametrize(("function", "values", "named", "message"), [
    ("knn", (), {"trian": "a", "test": "b"}, "knn() has no setting 'trian'; did you mean 'train'?"),
    ("knn", (), {"xyz": 1}, "knn() has no setting 'xyz'; `help(simsiam_eval.knn)` lists them."),
    ("knn", (), {"train": "a"}, "knn() requires test."),
    ("knn", (), {}, "knn() requires train and test."),
    ("knn", ("a",), {}, "knn() takes keyword arguments only, got 1 positional argument."),
    ("inspect", ("a", "b"), {}, "inspect() takes only checkpoint by position, got 2 positional arguments."),
    ("inspect", ("a",), {"checkpoint": "b"}, "inspect() got checkpoint twice, by position and by keyword."),
    ("convert", ("a",), {}, "convert() requires "),
    ("inspect", ("missing.pth",), {}, "missing.pth does not exist"),
    ("rank", ("missing1.h5", "missing2.h5"), {"device": "cpu"}, "missing1.h5"),
    ("rank", (["missing1.h5", "missing2.h5"],), {"device": "cpu"}, "missing1.h5"),
    ("duplicates", ("missing1.h5", "missing2.h5"), {"device": "cpu"}, "missing1.h5"),
    ("verify", (object(),), {}, "file must be a path, got an object object."),
    ("knn", (), {"train": np.ones((200, 3)), "test": "b"}, "train must be a string, got a list object."),
])  # fmt: skip
def test_arguments_of_functions(function, values, named, message):
    with spelled_as("arguments"), pytest.raises(se.UserError, match=re.escape(message)):
        getattr(se, function)(*values, **named)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_function_names_arguments(name):
    function = getattr(se, COMMANDS[name].python_name)
    text = re.sub(r"`[^`]*`", "", inspect.getdoc(function))
    assert not re.search(r"(?<![\w-])--[a-z]", text), text


def test_positional_arguments_come_first_in_the_signature():
    parameters = list(inspect.signature(se.duplicates).parameters.values())
    assert [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD] == ["file", "other"]
