"""Which ResNets of timm have exactly the keys and shapes of a state dict."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

import torch

from simsiam_eval.encoders.backbones.timm_backbone import build_timm
from simsiam_eval.encoders.recognition.search import Shape
from simsiam_eval.encoders.timm_library import import_timm

_MODULES = ("resnet", "resnest", "res2net", "sknet")  # of timm, with variants of ResNet under ResNet's keys
_DEPTH = re.compile(r"\d+")
_CLASSIFIER = "fc."
# Part of a key -> how the names of the networks that have it start.
_MARKS = {
    ".se.": r"se|eca|resnetrs|legacy",
    ".conv2.fc1.": r"resnest",
    ".convs.": r"res2ne",
}
_TOLERANCE = 3  # layers by which a name's number may differ, as in resnetrs270


def timm_architectures_for(shapes: Mapping[str, Shape]) -> list[str]:
    """Names of timm's ResNets whose state dict has exactly these keys and shapes, without the classifier.

    Only `num_batches_tracked` may be missing. The input may have any number of channels.

    Args:
        shapes: key -> shape.

    Returns:
        The names in timm's order; several where shapes cannot tell networks apart, such as resnet50 and resnetaa50.

    Raises:
        UsageError: timm is missing.
    """
    trunk = {key: tuple(shape) for key, shape in shapes.items() if not _is_left_out(key)}
    first = next((trunk[key] for key in ("conv1.weight", "conv1.0.weight") if key in trunk), ())
    depth = _depth(trunk)
    if len(first) != 4 or depth is None:
        return []
    # Building all networks of a depth, on the meta device, takes seconds: most are ruled out by their names.
    names = [name for name in _names_of_depth(depth) if _may_have(name, trunk)]
    return [name for name in names if _shapes(name, first[1]) == trunk]


def _may_have(name: str, trunk: Mapping[str, Shape]) -> bool:
    """Whether the name allows the kinds of layers that the keys and shapes show."""
    if re.match(r"sk|senet", name) or name.endswith("_pruned"):
        return True
    marks = all(any(mark in key for key in trunk) == bool(re.match(start, name)) for mark, start in _MARKS.items())
    convolution = trunk.get("layer1.0.conv2.weight")  # (groups * width, width, 3, 3)
    return marks and (convolution is None or (convolution[0] != convolution[1]) == ("next" in name))


def _is_left_out(key: str) -> bool:
    return key.startswith(_CLASSIFIER) or key.endswith("num_batches_tracked")


def _depth(trunk: Mapping[str, Shape]) -> int | None:
    """Number of layers, as in the names of ResNets; None if it is no ResNet."""
    blocks = {tuple(key.split(".")[:2]) for key in trunk if re.match(r"layer[1-4]\.\d+\.", key)}
    convolutions = 3 if any(".conv3." in key for key in trunk) else 2
    return 2 + convolutions * len(blocks) if {stage for stage, _ in blocks} >= {"layer1", "layer4"} else None


@cache
def _names_of_depth(depth: int) -> tuple[str, ...]:
    """Networks of about that depth, by the number in their names, and those without a number."""
    timm = import_timm()
    names = [name for module in _MODULES for name in timm.list_models(module=module)]
    numbers = {name: _DEPTH.search(name.replace("res2ne", "resne")) for name in names}
    return tuple(
        name for name, number in numbers.items() if number is None or abs(int(number[0]) - depth) <= _TOLERANCE
    )


@cache
def _shapes(name: str, channels: int) -> dict[str, Shape]:
    """Key -> shape of a network without its classifier, without allocating weights."""
    with torch.device("meta"):
        network = build_timm(name, channels=channels)
    return {key: tuple(value.shape) for key, value in network.state_dict().items() if not _is_left_out(key)}
