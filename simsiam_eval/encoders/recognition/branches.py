"""Which of several networks in a checkpoint is the encoder: one rule of names, roles and ranks for every library's."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from simsiam_eval.errors import DataError, UsageError

# Words in the names of networks, by the role that --branch can name.
_ROLES = {
    "momentum": r"momentum|encoder_k|key_encoder|moco_encoder|target|ema|shadow",
    "ema": r"ema|shadow",
    "online": r"online|encoder_q|query_encoder|base_encoder",
    "teacher": r"teacher",
    "student": r"student",
    "source": r"source",
    "backbone": r"backbone|encoder|body|trunk",
}


class NetworkNotChosen(DataError):
    """A file has several networks, or a larger one, and no `--branch` says which part is the encoder.

    Attributes:
        networks: those found.
    """

    def __init__(self, message: str, networks: Sequence[Any]) -> None:
        super().__init__(message)
        self.networks = networks


@dataclass(frozen=True)
class Candidate:
    """A complete network in a checkpoint.

    Attributes:
        names: by which `--branch` chooses it; several if the file has the same weights more than once.
        prefix: what precedes its keys, without wrappers and containers that say nothing.
        copies: the same weights, where the file has them more than once.
    """

    names: tuple[str, ...]
    prefix: str
    copies: tuple[Any, ...] = field(default=(), kw_only=True)

    @property
    def name(self) -> str:
        """The first of `names`."""
        return self.names[0]

    @property
    def path(self) -> tuple[str, ...]:
        """Names of the mappings around its keys, from the outside."""
        raise NotImplementedError

    @property
    def full_name(self) -> str:
        """Those names and what precedes its keys, joined by dots; "bare" for a file that is itself the state dict."""
        return self.name

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """Key in the network -> value."""
        raise NotImplementedError

    @property
    def kind(self) -> Hashable:
        """What the network is, apart from its weights."""
        return None

    @property
    def record(self) -> dict[str, Any]:
        """What a list of networks says of it: branch, family, arch, stem, weights (their number)."""
        raise NotImplementedError

    @property
    def shown(self) -> str:
        """Its name and kind, for messages."""
        return self.name

    @property
    def is_pickled(self) -> bool:
        """Whether the weights are in a whole pickled module."""
        return False


AnyCandidate = TypeVar("AnyCandidate", bound=Candidate)


def choose(networks: Sequence[AnyCandidate], branch: str | None, where: str) -> AnyCandidate:
    """The encoder.

    Args:
        networks: one or more, from `distinct`.
        branch: a name of a network or a role; None: the only one, or the one that its authors evaluate.
        where: the start of an error message, such as the file's path.

    Raises:
        UsageError: no network is called `branch`.
        NetworkNotChosen: several networks fit, and the file does not say which one is the encoder.
    """
    listed = "; ".join(network.shown for network in networks)
    named = list(networks) if branch is None else _named(networks, branch)
    if not named:
        raise UsageError(f"{where} has no network --branch {branch}; expected one of {listed}.")
    best = min(_rank(network, networks) for network in named)
    first = [network for network in named if _rank(network, networks) == best]
    if branch is None and len({network.kind for network in named}) > 1:
        first = named  # such as a student of another architecture than its teacher's, which is what was trained
    if len(first) > 1:
        raise NetworkNotChosen(
            f"{where} has {len(first)} encoders and does not say which one to use; choose one with --branch: {listed}.",
            networks,
        )
    return first[0]


def distinct(networks: Sequence[AnyCandidate]) -> list[AnyCandidate]:
    """Networks with different weights, in the order of the file; names that are not unique get their full path."""
    found: list[AnyCandidate] = []

    # A prefix says more than none: a learner of BYOL has the network `net` also as `online_encoder.net`.
    def order(network: AnyCandidate) -> tuple[int, bool, int]:
        return len(network.path), not network.prefix, len(network.name)

    for network in sorted(networks, key=order):
        same = next((other for other in found if _equal(network, other)), None)
        if same is None:
            found.append(network)
        else:
            found[found.index(same)] = replace(
                same, names=(*same.names, *network.names), copies=(*same.copies, network)
            )
    names = [network.name for network in found]
    return [
        network if names.count(network.name) == 1 else replace(network, names=(network.full_name,)) for network in found
    ]


def _equal(one: Candidate, other: Candidate) -> bool:
    ours, theirs = one.weights, other.weights
    if {key: value.shape for key, value in ours.items()} != {key: value.shape for key, value in theirs.items()}:
        return False
    pairs = [(value, theirs[key]) for key, value in ours.items()]
    return all(
        first.data_ptr() == second.data_ptr() != 0 or (not first.is_meta and torch.equal(first, second))
        for first, second in pairs
    )


def _named(networks: Sequence[AnyCandidate], branch: str) -> list[AnyCandidate]:
    """The networks with this name; else with it as a word of a name; else with this role."""
    exact = [network for network in networks if branch in (*network.names, network.full_name)]
    if exact:
        return exact
    word = re.compile(rf"(?:^|[._]){re.escape(branch)}(?:[._]|$)")
    parts = [network for network in networks if any(word.search(name) for name in network.names)]
    if parts:
        return parts
    if branch not in _ROLES:
        return []
    matching = [network for network in networks if any(_has_role(name, branch) for name in network.names)]
    if branch in ("online", "backbone") and not matching:
        matching = [network for network in networks if _rank(network, networks) in (0, _PICKLED)]
    return matching


_PICKLED = 3  # more than any rank of a name


def _rank(network: Candidate, networks: Sequence[Candidate]) -> int:
    """0 for the network that its authors evaluate.

    More for a student beside its teacher, a moving average beside its model, and a pickled module beside a state dict. A
    target is a moving average beside its online network, but another domain beside a source.
    """
    of_domains = any(_has_role(other.name, "source") for other in networks)
    is_average = _has_role(network.name, "momentum") and not of_domains
    rank = 1 if _has_role(network.name, "student") else 2 if is_average else 0
    return rank + _PICKLED * network.is_pickled


def _has_role(name: str, role: str) -> bool:
    """Whether a name has a word of a role.

    >>> _has_role("semantic_encoder", "ema"), _has_role("model_ema", "ema"), _has_role("targetEncoder", "momentum")
    (False, True, True)
    """
    words = re.sub(r"[^a-z]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower())
    return re.search(rf"(?:^|_)(?:{_ROLES[role]})(?:_|$)", words) is not None
