"""The complete weights of a network of another library in a checkpoint, and which of several are the encoder's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from simsiam_eval.encoders.float_weights import float_weights
from simsiam_eval.encoders.recognition.branches import Candidate, choose, distinct
from simsiam_eval.encoders.recognition.naming import plain
from simsiam_eval.encoders.recognition.search import BARE, full_name, network_name, plain_path, tensor_entries
from simsiam_eval.errors import DataError
from simsiam_eval.wording import counted, first_few


@dataclass(frozen=True)
class Found:
    """The weights of a network in a file.

    Attributes:
        container: the entry of the file that holds them; "bare" for the file itself.
        path: names of the mappings around them, from the outside.
        weights: key in the network -> value, float32.
        loaded, skipped, branch, branches: as in `Backbone`.
    """

    container: str
    path: tuple[str, ...]
    weights: dict[str, Tensor]
    loaded: dict[str, str]
    skipped: dict[str, str] = field(default_factory=dict)
    branch: str | None = None
    branches: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Fitting(Candidate):
    """A complete set of weights: the tensors of a container whose keys start with a prefix."""

    container: tuple[str, ...]
    start: str
    tensors: dict[str, Tensor]
    required: frozenset[str]
    arch: str

    @classmethod
    def of(
        cls, container: tuple[str, ...], start: str, tensors: dict[str, Tensor], required: frozenset[str], arch: str
    ) -> _Fitting:
        """With the name that a ResNet of torchvision would have there."""
        prefix = plain(start)
        name, path = network_name(container, prefix), plain_path(container, prefix)
        return cls((name,), path, container, start, tensors, required, arch)

    @property
    def path(self) -> tuple[str, ...]:
        return self.container

    @property
    def full_name(self) -> str:
        return full_name(self.container, plain(self.start))

    @property
    def weights(self) -> dict[str, Tensor]:
        return {key: self.tensors[self.start + key] for key in self.required}

    @property
    def record(self) -> dict[str, Any]:
        return {"branch": self.name, "family": "timm", "arch": self.arch, "stem": None, "weights": len(self.required)}


class NoWeights(DataError):
    """A file has no complete weights of a network."""


def find_weights(
    content: Mapping[str, Any],
    network: nn.Module,
    where: str,
    *,
    arch: str,
    heads: Mapping[str, str] = MappingProxyType({}),
    branch: str | None = None,
    rename: Callable[[dict[str, Tensor]], dict[str, Tensor] | None] | None = None,
) -> Found:
    """The complete weights of a network in the content of a file, under any prefix and in any container.

    Args:
        network: whose state dict is expected.
        where: the start of an error message, such as the file's path.
        arch: name of the network.
        heads: first part of the keys that are skipped -> the reason.
        branch: which of several, as in `choose`.
        rename: gives the tensors of a container the network's names, where they have others; None if it cannot.

    Raises:
        DataError: no complete weights, keys that belong to nothing, weights that cannot be used, or several sets of
            weights of which none is the one that its authors evaluate.
        UsageError: no complete weights are called `branch`.
    """
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    containers = _containers(content)
    try:
        complete = _complete(containers, expected, where, arch)
    except NoWeights:
        renamed = {path: rename(tensors) for path, tensors in containers.items()} if rename else {}
        fitting = {path: tensors for path, tensors in renamed.items() if tensors is not None}
        try:
            complete = _complete(fitting, expected, where, arch)
        except NoWeights:
            complete = []
        if not complete:
            raise
    networks = distinct(complete)
    chosen = choose(networks, branch, where)
    found = _found(chosen, networks, expected, where, heads)
    return replace(found, branch=chosen.name, branches=tuple(network.name for network in networks))


def _complete(
    containers: Mapping[tuple[str, ...], dict[str, Tensor]], expected: Mapping[str, Any], where: str, arch: str
) -> list[_Fitting]:
    """All complete sets of weights, one or more. Raises NoWeights."""
    required = frozenset(key for key in expected if not key.endswith("num_batches_tracked"))
    complete: list[_Fitting] = []
    best: tuple[int, str, dict[str, Tensor]] = (-1, "", {})
    for path, tensors in containers.items():
        for prefix in _prefixes(tensors, required):
            shapes_fit = [
                key for key in expected if tuple(getattr(tensors.get(prefix + key), "shape", ())) == expected[key]
            ]
            if len(shapes_fit) > best[0]:
                best = len(shapes_fit), prefix, tensors
            if required <= set(shapes_fit):
                complete.append(_Fitting.of(path, prefix, tensors, required, arch))
    if not complete:
        raise NoWeights(f"{where} {_differences(expected, required, *best[1:])}")
    return complete


def _containers(content: Mapping[str, Any]) -> dict[tuple[str, ...], dict[str, Tensor]]:
    """Path of each container that directly holds tensors of a model -> these by key."""
    found: dict[tuple[str, ...], dict[str, Tensor]] = {}
    for entry in tensor_entries(content):
        found.setdefault(entry.container, {})[entry.key] = entry.tensor
    return found


def _prefixes(tensors: Mapping[str, Tensor], required: Set[str]) -> list[str]:
    """The prefixes under which a required key occurs; the least frequent endings decide."""
    probe = max(required, key=lambda key: (key.count("."), len(key)), default="")
    found = [key.removesuffix(probe) for key in tensors if key == probe or key.endswith("." + probe)]
    return list(dict.fromkeys(found)) or [""]


def _found(
    chosen: _Fitting, networks: Sequence[_Fitting], expected: Mapping[str, Any], where: str, heads: Mapping[str, str]
) -> Found:
    prefix, tensors = chosen.start, chosen.tensors
    others = {
        (*place.container, place.start): "a copy of the encoder"
        if network is chosen
        else f"another network: --branch {network.name}"
        for network in networks
        for place in (network, *network.copies)
        if network is not chosen or place is not chosen
    }
    loaded, skipped, unexpected = {}, {}, []
    for key in tensors:
        inside = key.startswith(prefix)
        inner = key.removeprefix(prefix) if inside else key
        reason = next((why for head, why in heads.items() if f"{inner}.".startswith(f"{head}.")), None)
        if inside and inner in expected:
            loaded[key] = inner
        elif reason is not None or not inside:
            starts = (
                why
                for (*path, start), why in others.items()
                if (*path,) == chosen.container and start and key.startswith(start)
            )
            skipped[key] = next(starts, reason or "not part of the encoder")
        else:
            unexpected.append(key)
    if unexpected:
        raise DataError(
            f"{where} has {counted(len(unexpected), 'key')} that the network does not have ({first_few(unexpected)}); "
            "give a checkpoint of exactly this architecture."
        )
    for (*path, _), why in others.items():
        if (*path,) != chosen.container:
            skipped.setdefault("/".join(path) or BARE, why)
    keys = {inner: key for key, inner in loaded.items()}
    values = {inner: tensors[key] for inner, key in keys.items()}
    container = "/".join(chosen.container) or BARE
    return Found(container, chosen.container, float_weights(values, where, keys), loaded, skipped)


def _differences(expected: Mapping[str, Any], required: Set[str], prefix: str, tensors: Mapping[str, Tensor]) -> str:
    """Why the nearest weights do not fit."""
    missing = [key for key in expected if key in required and prefix + key not in tensors]
    mismatched = [
        f"{prefix}{key} is {tuple(tensors[prefix + key].shape)}, not {shape}"
        for key, shape in expected.items()
        if prefix + key in tensors and tuple(tensors[prefix + key].shape) != shape
    ]
    parts = []
    if missing:
        parts.append(f"missing keys: {len(missing)} of {len(required)} ({first_few(missing)})")
    if mismatched:
        parts.append(f"mismatched shapes: {len(mismatched)} ({first_few(mismatched)})")
    return f"does not have the weights of this network: {', '.join(parts)}. Give a checkpoint of exactly this architecture."
