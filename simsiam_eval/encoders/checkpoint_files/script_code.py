"""The strides and paddings of a TorchScript archive's convolutions, read as text from its code, which is never run."""

import re
import zipfile
from collections.abc import Mapping
from typing import Any

from simsiam_eval.encoders.checkpoint_files.module_state import modules_of
from simsiam_eval.encoders.checkpoint_files.unpickler import ForeignObject

_CLASS = re.compile(r"^class (\w+)\(Module\):$", re.MULTILINE)
_NUMBERS = r"\[(\d+(?:, \d+)*)\]"
# torch.conv2d(input, weight, bias, stride, padding, dilation) or torch._convolution(the same, ...)
_CONVOLUTION = re.compile(rf"torch\.(?:_convolution|conv2d)\(\w+, \w+, \w+, {_NUMBERS}, {_NUMBERS}, {_NUMBERS}")
_LARGEST_CODE = 2**26


def add_convolutions(content: Any, archive: zipfile.ZipFile) -> None:
    """Add `stride`, `padding` and `dilation` to the state of each convolution in a script's content."""
    if not isinstance(content, ForeignObject):
        return
    convolutions = _convolutions(archive)
    for module in modules_of(content).values():
        found = convolutions.get(module.class_name)
        if found and isinstance(module.state, Mapping):
            module.state = {**found, **module.state}


def _convolutions(archive: zipfile.ZipFile) -> dict[str, dict[str, tuple[int, ...]]]:
    """Class name -> attributes, for each class that computes one convolution."""
    found = {}
    for info in archive.infolist():
        _, code, path = info.filename.partition("/code/")
        if not (code and path.endswith(".py")) or info.file_size > _LARGEST_CODE:
            continue
        module = path.removesuffix(".py").replace("/", ".")
        parts = _CLASS.split(archive.read(info).decode(errors="replace"))
        for name, body in zip(parts[1::2], parts[2::2], strict=True):
            calls = _CONVOLUTION.findall(body)
            if len(calls) == 1:
                values = [tuple(int(number) for number in numbers.split(", ")) for numbers in calls[0]]
                found[f"{module}.{name}"] = dict(zip(("stride", "padding", "dilation"), values, strict=True))
    return found
