"""The complete ResNets in a checkpoint, and which of them is the encoder."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from simsiam_eval.encoders.checkpoint_files.module_state import ModuleState
from simsiam_eval.encoders.recognition.absence import no_trunk, no_weights, quantized_weights
from simsiam_eval.encoders.recognition.architecture import recognize_trunk
from simsiam_eval.encoders.recognition.branches import Candidate, NetworkNotChosen, choose, distinct
from simsiam_eval.encoders.recognition.families import family_of
from simsiam_eval.encoders.recognition.family import Family
from simsiam_eval.encoders.recognition.search import (
    Entry,
    Trunk,
    content_at,
    find_trunks,
    full_name,
    network_name,
    plain_path,
    tensor_entries,
)
from simsiam_eval.encoders.recognition.timm_modules import first_timm_module, timm_module
from simsiam_eval.encoders.timm_library import plain_name
from simsiam_eval.errors import DataError
from simsiam_eval.vocabulary import HUGGING_FACE, TIMM

_LARGER = {
    "a detector": r"(^|\.)(rpn|rpn_head|roi_heads?|proposal_generator|fpn|bbox_head)(\.|_)",
    "a segmentation network": r"(^|\.)(decoder|decode_head|segmentation_head|aux_classifier|sem_seg_head|classifier)\.",
}


class OtherArchitecture(DataError):
    """A ResNet that torchvision does not have, and that timm or transformers may have.

    Attributes:
        arch: its name, where the file says it.
        trunks: the ResNets that were found.
        branch: the network that was chosen, of several.
        stated: names that the file's settings say.
        is_of_transformers: whether the file says that it is transformers' ResNet.
    """

    def __init__(self, message: str, arch: str | None = None, trunks: Sequence[Trunk] = ()) -> None:
        super().__init__(message)
        self.arch, self.trunks = arch, trunks
        self.branch: str | None = None
        self.stated: Sequence[str] = ()
        self.is_of_transformers = False


@dataclass(frozen=True)
class Network(Candidate):
    """A complete ResNet in a checkpoint.

    Attributes:
        trunk: its weights.
        arch, stem, channels: of the encoder.
        family: that it belongs to.
        pickled: whether they are in a whole pickled module.
    """

    trunk: Trunk
    arch: str
    stem: str
    channels: int
    family: Family
    pickled: bool = False

    @property
    def path(self) -> tuple[str, ...]:
        return self.trunk.container

    @property
    def full_name(self) -> str:
        return full_name(self.trunk.container, self.trunk.prefix)

    @property
    def weights(self) -> Mapping[str, Tensor]:
        return {key: entry.tensor for key, entry in self.trunk.entries.items()} | self.trunk.implied

    @property
    def kind(self) -> tuple[str, str, int]:
        return self.arch, self.stem, self.channels

    @property
    def record(self) -> dict[str, Any]:
        return {
            "branch": self.name,
            "family": self.family.name,
            "arch": self.arch,
            "stem": self.stem,
            "weights": len(self.trunk.entries),
        }

    @property
    def shown(self) -> str:
        return f"{self.name} ({self.arch})"

    @property
    def is_pickled(self) -> bool:
        return self.pickled


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
        if branch is None and self.part_of is not None:
            listed = "; ".join(network.shown for network in self.networks)
            raise NetworkNotChosen(
                f"{where} has {self.part_of}, with the encoder {listed} as a part; choose it with "
                f"--branch {self.networks[0].name}.",
                self.networks,
            )
        return choose(self.networks, branch, where)


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
        networks.append(Network((name,), prefix, trunk, arch, stem, channels, family, pickled))
    if not networks:
        module = timm_module(content, trunks[0].container, trunks[0].first_key)
        raise quantized_weights(entries, where) or OtherArchitecture(
            str(error), None if module is None else module.architecture, trunks
        )
    return Contents(entries, distinct(networks), _part_of(entries, networks))


def _library_name(content: Mapping[Any, Any], config: Mapping[str, Any], where: str) -> str | None:
    """How to give a network of timm or transformers; None if nothing says that it is one."""
    architecture, model_type = config.get("architecture"), config.get("model_type")
    module = first_timm_module(content)
    if module is not None:
        architecture = module.architecture
    if isinstance(architecture, str):
        return f"{TIMM}{plain_name(architecture)}@{where}"
    return f"{HUGGING_FACE}{where}" if isinstance(model_type, str) else None


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
