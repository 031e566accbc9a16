"""Find every ResNet trunk in the content of a checkpoint, by the structure of its keys and not by a list of prefixes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from simsiam_eval.encoders.recognition.naming import NAMINGS, WRAPPERS, Naming, plain
from simsiam_eval.errors import DataError

Shape = tuple[int, ...]
BARE = "bare"  # container name of a file that is itself the state dict
# Names of containers that say nothing about the layout of the network in them.
_CONTAINERS = frozenset(
    (
        "state_dict",
        "model_state_dict",
        "model",
        "net",
        "network",
        "weights",
        "params",
        "state",
        "models",
        "model_state",
        "blobs",
    )
)
# The same for a second set of weights, the moving average of the first.
_AVERAGES = frozenset(["state_dict_ema", "ema_state_dict", "model_ema", "ema_model", "ema", "shadow"])
_DEEPEST = 8  # levels of nested containers
# Containers of what is not a model.
_NOT_MODELS = re.compile(r"optim|sched|callback|loops|scaler")


@dataclass(frozen=True)
class Entry:
    """A tensor of a checkpoint.

    Attributes:
        container: names of the mappings around it, from the outside.
        key: in the innermost mapping.
        plain: as from `plain_path`.
        tensor: its value.
    """

    container: tuple[str, ...]
    key: str
    plain: str
    tensor: Tensor

    @property
    def shape(self) -> Shape:
        """Of the tensor."""
        return tuple(self.tensor.shape)


@dataclass(frozen=True)
class Trunk:
    """The weights of one ResNet in a checkpoint, which may lack some.

    Attributes:
        container: names of the mappings around its keys, from the outside.
        prefix: of its plain keys; "" or ending with a dot.
        naming: how its keys are named.
        layer1: in an nn.Sequential, the index of layer1.
        entries: torchvision's key -> entry.
        implied: torchvision's key -> weight that the naming implies and the file has not.
    """

    container: tuple[str, ...]
    prefix: str
    naming: str
    layer1: int | None
    entries: dict[str, Entry]
    implied: dict[str, Tensor] = field(default_factory=dict)

    @property
    def shapes(self) -> dict[str, Shape]:
        """torchvision's key -> shape."""
        implied = {key: tuple(tensor.shape) for key, tensor in self.implied.items()}
        return {key: entry.shape for key, entry in self.entries.items()} | implied

    @property
    def first_key(self) -> str:
        """Key in the file of one of its weights."""
        return next(iter(self.entries.values())).key

    @property
    def where(self) -> str:
        """Name of the container; "bare" if the file is itself the state dict."""
        return "/".join(self.container) or BARE


def tensor_entries(content: Mapping[Any, Any]) -> list[Entry]:
    """Every tensor in a checkpoint, at any depth.

    >>> import torch
    >>> [(entry.container, entry.plain) for entry in tensor_entries({"state_dict": {"module.fc.bias": torch.zeros(1)}})]
    [(('state_dict',), 'fc.bias')]
    """
    return [
        Entry(container, key, plain_path(container, key), tensor)
        for container, key, tensor in _tensors(content, (), set())
    ]


def _tensors(value: Any, path: tuple[str, ...], above: set[int]) -> Iterator[tuple[tuple[str, ...], str, Tensor]]:
    if id(value) in above or len(path) > _DEEPEST or (path and _NOT_MODELS.search(path[-1].lower())):
        return
    items = value.items() if isinstance(value, Mapping) else enumerate(value)
    for name, entry in items:
        if isinstance(entry, Tensor):
            yield path, str(name), entry
        elif isinstance(entry, Mapping | list | tuple):
            yield from _tensors(entry, (*path, str(name)), above | {id(value)})


def plain_path(container: Sequence[str], key: str) -> str:
    """Container and key joined by dots, without wrappers and without what says nothing about the network's layout.

    >>> plain_path(("state_dict",), "module.encoder.conv1.weight"), plain_path(("teacher",), "module.backbone.")
    ('encoder.conv1.weight', 'teacher.backbone.')
    """
    containers = [part for part in container if part not in WRAPPERS and part not in _AVERAGES]
    parts = [*containers, *(part for part in key.split(".") if part not in WRAPPERS)]
    while len(parts) > 1 and parts[0] in _CONTAINERS:
        del parts[0]
    return ".".join(parts)


def network_name(container: Sequence[str], prefix: str) -> str:
    """What a network is called in messages and by `--branch`.

    >>> network_name(("state_dict",), "backbone."), network_name(("state_dict_ema",), ""), network_name(("model",), "")
    ('backbone', 'state_dict_ema', 'model')
    """
    parts = [*container, *prefix.rstrip(".").split(".")]
    named = [part for part in parts if part and part not in WRAPPERS and part not in _CONTAINERS]
    return ".".join(named) or (container[-1] if container else "model")


def full_name(container: Sequence[str], prefix: str) -> str:
    """Container and prefix joined by dots; "bare" for neither.

    >>> full_name(("state_dict",), "backbone."), full_name(("model",), "")
    ('state_dict.backbone', 'model')
    """
    return ".".join([*container, prefix]).rstrip(".") or BARE


def find_trunks(entries: Sequence[Entry], where: str) -> list[Trunk]:
    """Every trunk among the tensors of a checkpoint, complete or not.

    Args:
        entries: from `tensor_entries`.
        where: the start of an error message, such as the file's path.

    Raises:
        DataError: a trunk has the same key twice.
    """
    groups: dict[tuple[str, ...], list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.container, []).append(entry)
    return [
        trunk
        for container, group in groups.items()
        for naming in NAMINGS
        for trunk in _find(container, group, naming, where)
    ]


def _find(container: tuple[str, ...], group: list[Entry], naming: Naming, where: str) -> Iterator[Trunk]:
    # The key without its wrappers: a trunk may have some inside, such as layer1._orig_mod.0.
    keys = {entry.key: plain(entry.key) for entry in group}
    anchors = {match[0]: match for key in keys.values() if (match := naming.anchor.fullmatch(key))}
    for match in anchors.values():
        prefix = match["prefix"]
        found: dict[str, Entry] = {}
        for entry in group:
            key = keys[entry.key]
            if not key.startswith((prefix, naming.elsewhere)):
                continue
            rest = key.removeprefix(prefix)
            trunk_key = naming.translate(rest, match)
            if trunk_key is None:
                continue
            if trunk_key in found:
                raise DataError(
                    f"{where} has the same encoder key twice, {found[trunk_key].key} and {entry.key}; "
                    "save the state dict of one model."
                )
            found[trunk_key] = entry
        layer1 = int(match["layer1"]) if "layer1" in match.groupdict() else None
        implied = _identity_statistics(found) if naming.without_statistics else {}
        yield Trunk(container, prefix, naming.name, layer1, found, implied)


def _identity_statistics(entries: Mapping[str, Entry]) -> dict[str, Tensor]:
    """Mean 0 and variance 1 for every layer with a bias, as detectron2 takes them."""
    statistics = {}
    for key, entry in entries.items():
        if key.endswith(".bias"):
            layer = key.removesuffix("bias")
            statistics[f"{layer}running_mean"] = torch.zeros(entry.shape)
            statistics[f"{layer}running_var"] = torch.ones(entry.shape)
    return statistics


def content_at(content: Any, path: Sequence[str]) -> Any:
    """What a checkpoint has in a container; None if there is none.

    >>> content_at({"models": [{"epoch": 1}]}, ("models", "0", "epoch"))
    1
    """
    for name in path:
        if isinstance(content, Mapping):
            content = next((value for key, value in content.items() if str(key) == name), None)
        elif isinstance(content, list | tuple) and name.isdigit():
            content = content[int(name)]
        else:
            return None
    return content
