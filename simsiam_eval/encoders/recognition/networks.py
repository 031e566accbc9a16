"""The complete ResNets in a checkpoint, and which of them is the encoder."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from simsiam_eval.encoders.checkpoint_files.module_state import ModuleState
from simsiam_eval.encoders.recognition.absence import no_trunk, no_weights, quantized_weights
from simsiam_eval.encoders.recognition.architecture import recognize_trunk
from simsiam_eval.encoders.recognition.families import family_of
from simsiam_eval.encoders.recognition.family import Family
from simsiam_eval.encoders.recognition.search import (
    Entry,
    Trunk,
    content_at,
    find_trunks,
    network_name,
    plain_path,
    tensor_entries,
)
from simsiam_eval.encoders.recognition.timm_modules import first_timm_module, timm_module
from simsiam_eval.encoders.timm_library import plain_name
from simsiam_eval.errors import DataError, UsageError
from simsiam_eval.vocabulary import HUGGING_FACE, TIMM

# Words in the names of networks, by the role that --branch can name.
_ROLES = {
    "momentum": r"momentum|encoder_k|key_encoder|moco_encoder|target|ema|shadow",
    "ema": r"ema|shadow",
    "online": r"online|encoder_q|query_encoder|base_encoder",
    "teacher": r"teacher",
    "student": r"student",
    "backbone": r"backbone|encoder|body|trunk",
}
_LARGER = {
    "a detector": r"(^|\.)(rpn|rpn_head|roi_heads?|proposal_generator|fpn|bbox_head)(\.|_)",
    "a segmentation network": r"(^|\.)(decoder|decode_head|segmentation_head|aux_classifier|sem_seg_head|classifier)\.",
}


class NetworkNotChosen(DataError):
    """A file has several networks, or a larger one, and no `--branch` says which part is the encoder.

    Attributes:
        networks: those found.
    """

    def __init__(self, message: str, networks: Sequence[Network]) -> None:
        super().__init__(message)
        self.networks = networks


class OtherArchitecture(DataError):
    """A ResNet that torchvision does not have, and that timm or transformers may have.

    Attributes:
        arch: its name, where the file says it.
        trunks: the ResNets that were found.
        branch: the network that was chosen, of several.
        is_of_transformers: whether the file says that it is transformers' ResNet.
    """

    def __init__(self, message: str, arch: str | None = None, trunks: Sequence[Trunk] = ()) -> None:
        super().__init__(message)
        self.arch, self.trunks = arch, trunks
        self.branch: str | None = None
        self.is_of_transformers = False


@dataclass(frozen=True)
class Network:
    """A complete ResNet in a checkpoint.

    Attributes:
        names: by which `--branch` chooses it; several if the file has the same weights more than once.
        trunk: its weights.
        arch, stem, channels: of the encoder.
        prefix: what precedes its keys, without wrappers and containers that say nothing.
        family: that it belongs to.
        copies: the same weights, where the file has them more than once.
        pickled: whether they are in a whole pickled module.
    """

    names: tuple[str, ...]
    trunk: Trunk
    arch: str
    stem: str
    channels: int
    prefix: str
    family: Family
    copies: tuple[Trunk, ...] = ()
    pickled: bool = False

    @property
    def name(self) -> str:
        """The first of `names`."""
        return self.names[0]

    @property
    def rank(self) -> int:
        """0 for the network that its authors evaluate.

        More for a student beside its teacher, a moving average beside its model, and a pickled module beside a state dict.
        """
        rank = 1 if "student" in self.name else 2 if re.search(_ROLES["momentum"], self.name) else 0
        return rank + 3 * self.pickled


@dataclass(frozen=True)
class Contents:
    """What a checkpoint holds.

    Attributes:
        entries: every tensor of its models.
        networks: the complete ResNets, one or more.
        part_of: what larger network they are a part of, such as "a detector"; None if there is none.
    """

    entries: list[Entry]
    networks: list[Network]
    part_of: str | None

    def choose(self, branch: str | None, where: str) -> Network:
        """The encoder.

        Args:
            branch: a name of a network or a role; None: the only one, or the one that its authors evaluate.
            where: the start of an error message, such as the file's path.

        Raises:
            UsageError: no network is called `branch`.
            NetworkNotChosen: several networks fit, and the file does not say which one is the encoder.
        """
        listed = "; ".join(f"{network.name} ({network.arch})" for network in self.networks)
        if branch is not None:
            networks = _named(self.networks, branch)
            if not networks:
                raise UsageError(f"{where} has no network --branch {branch}; expected one of {listed}.")
        elif self.part_of is not None:
            raise NetworkNotChosen(
                f"{where} has {self.part_of}, with the encoder {listed} as a part; choose it with "
                f"--branch {self.networks[0].name}.",
                self.networks,
            )
        else:
            networks = self.networks
        best = min(network.rank for network in networks)
        first = [network for network in networks if network.rank == best]
        if len(first) > 1:
            raise NetworkNotChosen(
                f"{where} has {len(first)} encoders and does not say which one to use; choose one with --branch: {listed}.",
                self.networks,
            )
        return first[0]


def _named(networks: list[Network], branch: str) -> list[Network]:
    """The networks with this name; else with it as a word of a name; else with this role."""
    exact = [network for network in networks if branch in network.names]
    if exact:
        return exact
    word = re.compile(rf"(?:^|[._]){re.escape(branch)}(?:[._]|$)")
    parts = [network for network in networks if any(word.search(name) for name in network.names)]
    if parts:
        return parts
    role = _ROLES.get(branch)
    if role is None:
        return []
    matching = [network for network in networks if any(re.search(role, name) for name in network.names)]
    if branch in ("online", "backbone") and not matching:
        matching = [network for network in networks if network.rank == 0]
    return matching


def read_contents(content: Mapping[Any, Any], where: str, config: Mapping[str, Any] | None = None) -> Contents:
    """Find the encoders in a checkpoint.

    Args:
        content: of the file.
        where: the start of an error message, such as the file's path.
        config: the config.json beside it.

    Raises:
        DataError: there is no complete encoder of a known architecture.
    """
    entries = [] if {"state", "param_groups"} <= set(content) else tensor_entries(content)
    if not entries:
        raise DataError(f"{where} {no_weights(content)}")
    trunks = find_trunks(entries, where)
    if not trunks:
        raise DataError(f"{where} {no_trunk(entries, _library_name(content, config or {}, where))}")
    lines = [entry.plain for entry in entries]
    lines += [f"@{name}" for name in content if isinstance(name, str)]
    lines += [f"@config.{name}" for name in config or {}]
    meta = content.get("meta")
    lines += [f"@meta.{name}" for name in meta] if isinstance(meta, Mapping) else []
    networks, error = [], None
    for trunk in sorted(trunks, key=lambda trunk: -len(trunk.entries)):
        prefix = plain_path(trunk.container, trunk.prefix)
        try:
            arch, stem, channels = recognize_trunk(trunk.shapes, where, trunk.prefix)
        except DataError as failure:
            error = error or failure
            continue
        family = family_of(prefix, trunk.naming, arch, lines)
        name = network_name(trunk.container, trunk.prefix)
        pickled = isinstance(content_at(content, trunk.container), ModuleState)
        networks.append(Network((name,), trunk, arch, stem, channels, prefix, family, pickled=pickled))
    if not networks:
        module = timm_module(content, trunks[0].container, trunks[0].first_key)
        raise quantized_weights(entries, where) or OtherArchitecture(
            str(error), None if module is None else module.architecture, trunks
        )
    return Contents(entries, _distinct(networks), _part_of(entries, networks))


def _library_name(content: Mapping[Any, Any], config: Mapping[str, Any], where: str) -> str | None:
    """How to give a network of timm or transformers; None if nothing says that it is one."""
    architecture, model_type = config.get("architecture"), config.get("model_type")
    module = first_timm_module(content)
    if module is not None:
        architecture = module.architecture
    if isinstance(architecture, str):
        return f"{TIMM}{plain_name(architecture)}@{where}"
    return f"{HUGGING_FACE}{where}" if isinstance(model_type, str) else None


def _distinct(networks: list[Network]) -> list[Network]:
    """Networks with different weights, in the order of the file; names that are not unique get their full path."""
    distinct: list[Network] = []

    # A prefix says more than none: a learner of BYOL has the network `net` also as `online_encoder.net`.
    def order(network: Network) -> tuple[int, bool, int]:
        return len(network.trunk.container), not network.prefix, len(network.name)

    for network in sorted(networks, key=order):
        same = next((other for other in distinct if _equal(network, other)), None)
        if same is None:
            distinct.append(network)
        else:
            distinct[distinct.index(same)] = replace(
                same, names=(*same.names, *network.names), copies=(*same.copies, network.trunk)
            )
    names = [network.name for network in distinct]
    return [
        network
        if names.count(network.name) == 1
        else replace(network, names=(".".join([*network.trunk.container, network.trunk.prefix.rstrip(".")]),))
        for network in distinct
    ]


def _equal(one: Network, other: Network) -> bool:
    if one.trunk.shapes != other.trunk.shapes:
        return False
    pairs = [(entry.tensor, other.trunk.entries[key].tensor) for key, entry in one.trunk.entries.items()]
    return all(
        first.data_ptr() == second.data_ptr() != 0 or (not first.is_meta and torch.equal(first, second))
        for first, second in pairs
    )


def _part_of(entries: Sequence[Entry], networks: Sequence[Network]) -> str | None:
    """What larger network the encoders are a part of: one with other spatial convolutions."""
    inside = {id(entry) for network in networks for entry in network.trunk.entries.values()}
    containers = {network.trunk.container for network in networks}
    outside = [
        entry.plain
        for entry in entries
        if id(entry) not in inside
        and len(entry.shape) == 4
        and max(entry.shape[2:]) > 1
        and entry.container in containers
    ]
    if not outside:
        return None
    keys = [entry.plain for entry in entries if id(entry) not in inside]
    return next(
        (what for what, pattern in _LARGER.items() if any(re.search(pattern, key) for key in keys)), "a larger network"
    )
