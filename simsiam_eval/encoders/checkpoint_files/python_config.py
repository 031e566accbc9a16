"""Settings in the text of a Python file, as OpenMMLab's checkpoints hold it. The text is parsed and never run."""

from __future__ import annotations

import ast
import warnings
from typing import Any

_LARGEST = 2**20  # characters


def settings_in_python(text: str) -> dict[str, Any]:
    """Name -> value of the assignments in a text; {} if it is not Python.

    Values are numbers, strings, lists, and dicts written with braces or `dict(...)`; anything else is None.

    >>> settings_in_python("mean = [1, -2.5]\\nnorm = dict(mean=mean, to_rgb=False)\\nmodel = build(norm)")
    {'mean': [1, -2.5], 'norm': {'mean': [1, -2.5], 'to_rgb': False}, 'model': None}
    """
    found: dict[str, Any] = {}
    if len(text) > _LARGEST:
        return found
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the syntax of strings
            statements = ast.parse(text).body
        for statement in statements:
            if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
                found[statement.targets[0].id] = _value(statement.value, found)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return {}
    return found


def _value(node: ast.expr | None, known: dict[str, Any]) -> Any:
    """The value of an expression; None if it is not a plain one.

    Args:
        known: values of names.
    """
    match node:
        case ast.Constant():
            return node.value
        case ast.Name():
            return known.get(node.id)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.List() | ast.Tuple():
            return [_value(element, known) for element in node.elts]
        case ast.Dict():
            pairs = zip(node.keys, node.values, strict=True)
            return {key.value: _value(value, known) for key, value in pairs if isinstance(key, ast.Constant)}
        case ast.Call(func=ast.Name(id="dict"), args=[]):
            return {entry.arg: _value(entry.value, known) for entry in node.keywords if entry.arg is not None}
    return None
