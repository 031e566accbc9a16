"""Whether a network of timm that was pickled whole has the layers of the network that its weights are loaded into."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import nn

from simsiam_eval.encoders.recognition.module_layers import attributes
from simsiam_eval.encoders.recognition.timm_modules import TimmModule
from simsiam_eval.errors import DataError

# Classes that compute nothing in eval mode.
_NOTHING = {"Identity", "Dropout", "DropPath", "DropBlock2d", "PatchDropout"}
# Attributes that do not change the features.
_HARMLESS = {
    "training",
    "num_classes",
    "inplace",
    "drop_rate",
    "drop_prob",
    "attn_drop_rate",
    "momentum",
    "grad_checkpointing",
}
_PLAIN = (bool, int, float, str, type(None))


def reject_other_layers(module: TimmModule, network: nn.Module, heads: Collection[str], where: str, name: str) -> None:
    """Check that a pickled network has the layers of a network with the same keys.

    Args:
        network: from `build_timm`.
        heads: paths of the classifier, which it lacks.
        where: the start of an error message, such as the file's path.
        name: timm's, of the network.

    Raises:
        DataError: a layer has another class or other settings, so that the features would differ.
    """
    if module.pooling == "":  # maps, which we pool as the network does
        heads = (*heads, "global_pool", "head.global_pool")
    expected = dict(network.named_modules())
    found = {path: stub for path, stub in module.module.modules.items() if f"{path}.".startswith(module.path)}
    pickled = {path.removeprefix(module.path.removesuffix(".")).removeprefix("."): stub for path, stub in found.items()}
    for path in (*expected, *(path for path in pickled if path not in expected)):
        if any(f"{path}.".startswith(f"{head}.") for head in heads):
            continue
        stub, layer = pickled.get(path), expected.get(path)
        kinds = ["nothing" if stub is None else _plain(stub.class_name.rpartition(".")[2]), "nothing"]
        if layer is not None:
            kinds[1] = _plain(type(layer).__name__)
        if kinds[0] != kinds[1]:
            raise _other(where, name, f"{kinds[0]} in {path}, not {kinds[1]}")
        if stub is None or layer is None:
            continue
        given, settings = attributes(stub), vars(layer)
        for setting in sorted(given.keys() & settings.keys() - _HARMLESS):
            ours, theirs = _value(settings[setting]), _value(given[setting])
            if ours is not NotImplemented and theirs is not NotImplemented and ours != theirs:
                raise _other(where, name, f"{setting} {theirs} in {path or 'the network'}, not {ours}")


def _other(where: str, name: str, what: str) -> DataError:
    return DataError(
        f"{where} has a network of timm with {what} as timm's {name}, so its features would differ; compute them with timm, "
        "and evaluate them with `import`."
    )


def _plain(kind: str) -> str:
    return "nothing" if kind in _NOTHING else kind


def _value(value: Any) -> Any:
    """A setting that can be compared; NotImplemented for layers, functions and the like."""
    if isinstance(value, list | tuple):
        values = tuple(map(_value, value))
        return NotImplemented if NotImplemented in values else values
    return value if isinstance(value, _PLAIN) else NotImplemented
