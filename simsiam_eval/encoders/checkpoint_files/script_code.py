"""Attributes of a TorchScript archive's layers, read as text from its code, which is never run."""

import re
import zipfile
from collections.abc import Mapping
from typing import Any

from simsiam_eval.encoders.checkpoint_files.module_state import modules_of
from simsiam_eval.encoders.checkpoint_files.unpickler import ForeignObject

_CLASS = re.compile(r"^class (\w+)\(Module\):$", re.MULTILINE)
_NUMBERS, _FLOAT = r"\[(\d+(?:, \d+)*)\]", r"[\d.e+-]+"
# Calls -> attributes that their groups are. A module whose code has one such call has these attributes.
_CALLS = {
    # (input, weight, bias, stride, padding, dilation)
    re.compile(rf"torch\.(?:_convolution|conv2d)\(\w+, \w+, \w+, {_NUMBERS}, {_NUMBERS}, {_NUMBERS}"): (
        *("stride", "padding", "dilation"),
    ),
    # (input, kernel_size, stride, padding, dilation, ceil_mode)
    re.compile(rf"max_pool2d\(\w+, {_NUMBERS}, {_NUMBERS}, {_NUMBERS}, {_NUMBERS}(?:, (True|False))?"): (
        *("kernel_size", "stride", "padding", "dilation", "ceil_mode"),
    ),
    # (input, weight, bias, mean, variance, training, momentum, epsilon)
    re.compile(rf"torch\.batch_norm\((?:\w+, ){{6}}{_FLOAT}, ({_FLOAT})"): ("eps",),
    re.compile(rf"torch\.adaptive_avg_pool2d\(\w+, {_NUMBERS}"): ("output_size",),
}
# What torch.jit.script writes of a module's own attributes.
_FINAL = re.compile(
    r"^  (eps|kernel_size|stride|padding|dilation|ceil_mode|padding_mode|groups|output_size) : Final\[.*\] = (.+)$",
    re.MULTILINE,
)
_LARGEST_CODE = 2**26


def add_attributes(content: Any, archive: zipfile.ZipFile) -> None:
    """Add what the code shows, such as `stride` and `padding`, to the state of each layer in a script's content."""
    if not isinstance(content, ForeignObject):
        return
    attributes = _attributes(archive)
    for module in modules_of(content).values():
        found = attributes.get(module.class_name)
        if found and isinstance(module.state, Mapping):
            module.state = {**found, **module.state}


def _attributes(archive: zipfile.ZipFile) -> dict[str, dict[str, Any]]:
    """Class name -> attributes, for each class that computes one layer."""
    found = {}
    for info in archive.infolist():
        _, code, path = info.filename.partition("/code/")
        if not (code and path.endswith(".py")) or info.file_size > _LARGEST_CODE:
            continue
        module = path.removesuffix(".py").replace("/", ".")
        parts = _CLASS.split(archive.read(info).decode(errors="replace"))
        for name, body in zip(parts[1::2], parts[2::2], strict=True):
            found[f"{module}.{name}"] = _of_class(body)
    return found


def _of_class(body: str) -> dict[str, Any]:
    found = {name: _value(text) for name, text in _FINAL.findall(body)}
    for call, names in _CALLS.items():
        matches = list(call.finditer(body))
        if len(matches) == 1:
            values = zip(names, matches[0].groups(), strict=True)
            found |= {name: _value(text) for name, text in values if text is not None and name not in found}
    return {name: value for name, value in found.items() if value is not None}


def _value(text: str) -> Any:
    """A value of TorchScript's code; numbers in brackets, or as between them, are a tuple; None: not understood.

    >>> _value("1.0e-05"), _value("2, 2"), _value("(1, 1)"), _value("False"), _value('"zeros"'), _value("1")
    (1e-05, (2, 2), (1, 1), False, 'zeros', 1)
    """
    text = text.strip()
    if text in ("True", "False"):
        return text == "True"
    if text.startswith('"'):
        return text.strip('"')
    numbers = text.strip("()[]").split(", ")
    if len(numbers) > 1 and all(number.isdecimal() for number in numbers):
        return tuple(map(int, numbers))
    if text.isdecimal():
        return int(text)
    return float(text) if re.fullmatch(_FLOAT, text) else None
