"""`timm:NAME` and `timm:NAME@FILE`: the weights of a network of timm, and the preprocessing that they were trained with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from simsiam_eval.encoders.backbones.backbone import Backbone, load_strictly, reject_bgr
from simsiam_eval.encoders.backbones.found_weights import Found, find_weights
from simsiam_eval.encoders.backbones.pickled_layers import reject_other_layers
from simsiam_eval.encoders.backbones.timm_backbone import TimmEncoder, build_timm, image_size_of
from simsiam_eval.encoders.backbones.timm_cache import cached_weights
from simsiam_eval.encoders.checkpoint_files.checkpoint_file import open_checkpoint
from simsiam_eval.encoders.choice import EncoderChoice
from simsiam_eval.encoders.recognition.branches import Candidate, choose
from simsiam_eval.encoders.recognition.parts import layer_widths
from simsiam_eval.encoders.recognition.search import Entry, network_name, tensor_entries
from simsiam_eval.encoders.recognition.timm_arguments import timm_arguments
from simsiam_eval.encoders.recognition.timm_images import timm_images
from simsiam_eval.encoders.recognition.timm_modules import first_timm_module, timm_module
from simsiam_eval.encoders.timm_library import plain_name, timm_config
from simsiam_eval.errors import DataError, UsageError
from simsiam_eval.vocabulary import TIMM

_POSITIONS = ("pos_embed", "rel_pos", "relative_position", "rope")  # resampled by timm where another size is expected


def load_timm(choice: EncoderChoice, layer: str | Sequence[str], pooling: str) -> Backbone:
    """The encoder of `timm:NAME`, with weights from the local cache, or of `timm:NAME@FILE`.

    Raises:
        DataError: the weights are missing or are not complete.
        UsageError: timm is missing or has no such network, or the layer or pooling does not fit.
    """
    name, _, file = choice.checkpoint.removeprefix(TIMM).partition("@")
    config = timm_config(name)
    path = Path(file).expanduser() if file else cached_weights(name, config, choice.download)
    opened = open_checkpoint(path)
    content, stated = opened.content, opened.config.get("architecture")
    if isinstance(stated, str) and plain_name(stated) != plain_name(name):
        raise DataError(f"{path} has the network {stated}, not {name}; use timm:{plain_name(stated)}@{path}.")
    reject_bgr(opened)
    arguments = timm_arguments(opened)
    if (first := first_timm_module(content)) is not None and first.pooling:
        arguments["global_pool"] = first.pooling
    network, found = _network_with_weights(name, content, arguments, str(path), choice.branch)
    module = timm_module(content, found.path, next(iter(found.loaded)))
    if module is not None:
        reject_other_layers(module, network, _classifiers(network), str(path), name)
    channels = _channels_in(network)
    encoder = TimmEncoder(network, TIMM + name, layer, pooling, channels).eval()
    only_size = network.pretrained_cfg["input_size"] if config.fixed_input_size else None
    pickled = None if module is None else module.config
    images = timm_images(opened, channels, pickled, config.to_dict(), only_size)
    assumptions = images.assumptions
    if pooling == "auto":
        assumptions = (f"Features are pooled as {_named(encoder.pooling)}.", *assumptions)
    return Backbone(
        encoder,
        family="timm",
        container=found.container,
        loaded=found.loaded,
        skipped=found.skipped,
        preprocessing=images.record,
        preprocessing_from=images.source,
        assumptions=assumptions,
        branch=found.branch,
        branches=found.branches,
        epoch=epoch if isinstance(epoch := content.get("epoch"), int) else None,
    )


def _named(pooling: str) -> str:
    return "the network itself does" if pooling == "auto" else pooling


def _network_with_weights(
    name: str, content: Mapping[str, Any], arguments: Mapping[str, Any], where: str, branch: str | None
) -> tuple[Any, Found]:
    """The network that fits the weights, with them, and what was loaded."""
    tensors = _tensors_of(content, branch)
    first = timm_config(name).first_conv
    named = [value for key, value in tensors.items() if isinstance(first, str) and key.endswith(f"{first}.weight")]
    channels = int(named[0].shape[1]) if named and named[0].ndim == 4 else 3
    with torch.random.fork_rng(devices=[]):
        network = build_timm(name, image_size_of(name, tensors, arguments), channels, **arguments)
    heads = dict.fromkeys(_classifiers(network), "the classifier")
    found = find_weights(
        content, network, where, arch=TIMM + name, heads=heads, branch=branch, rename=partial(_by_timms_names, network)
    )
    load_strictly(network, found.weights)
    return network, found


def _tensors_of(content: Mapping[str, Any], branch: str | None) -> dict[str, torch.Tensor]:
    """The tensors of a large container, at any depth; of the one that `choose` takes, if it takes one of them."""
    containers: dict[tuple[str, ...], dict[str, torch.Tensor]] = {}
    for entry in _of_branch(content, branch) or tensor_entries(content):
        containers.setdefault(entry.container, {})[entry.key] = entry.tensor
    most = max(map(len, containers.values()), default=0)
    large = [path for path, tensors in containers.items() if 2 * len(tensors) > most]
    try:
        chosen = choose([Candidate((network_name(path, ""),), path[-1] if path else "") for path in large], branch, "")
        path = large[[network_name(path, "") for path in large].index(chosen.name)]
    except (UsageError, DataError, ValueError):  # of another kind, or under prefixes
        path = max(large, key=lambda path: len(containers[path]), default=())
    return containers.get(path, {})


def _of_branch(content: Mapping[str, Any], branch: str | None) -> list[Entry]:
    """The tensors whose container or key has all parts of a branch's name; all tensors without a branch."""
    parts = set(branch.split(".")) if branch else set()
    return [entry for entry in tensor_entries(content) if parts <= {*entry.container, *entry.key.split(".")}]


def _by_timms_names(network: nn.Module, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor] | None:
    """The weights of the network's authors under timm's names, by timm's own rules; None where these do not apply."""
    import sys

    rename = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if rename is None:
        return None
    try:
        renamed: dict[str, torch.Tensor] = rename(dict(tensors), network)
    except Exception:  # of timm's rules, which expect the right file
        return None
    before = {tuple(value.shape) for key, value in tensors.items() if any(part in key for part in _POSITIONS)}
    after = {tuple(value.shape) for key, value in renamed.items() if any(part in key for part in _POSITIONS)}
    return renamed if after <= before else None  # resampled position embeddings are other weights


def _classifiers(network: Any) -> tuple[str, ...]:
    named: Any = network.pretrained_cfg.get("classifier")
    return (named,) if isinstance(named, str) else tuple(named or ())


def _channels_in(network: Any) -> int:
    """Channels of the images, from the network's first convolution."""
    first: Any = network.pretrained_cfg.get("first_conv")
    weight = getattr(network.get_submodule(first), "weight", None) if isinstance(first, str) else None
    return int(weight.shape[1]) if isinstance(weight, torch.Tensor) and weight.ndim == 4 else 3


@dataclass(frozen=True)
class TimmRun:
    """What a checkpoint of `pretrain --arch timm:NAME` contains.

    Attributes:
        found: the encoder's weights.
        width: number of features D of an image.
        projector, predictor: widths of their linear layers, as from `layer_widths`.
    """

    found: Found
    width: int
    projector: list[int] | None
    predictor: list[int] | None


def read_timm_run(content: Mapping[str, Any], arch: str, where: str, branch: str | None = None) -> TimmRun:
    """The weights of a network of timm in a checkpoint of `pretrain --arch timm:NAME`, and what is beside them.

    Args:
        arch: `timm:NAME`.
        where: the start of an error message, such as the file's path.
        branch: as in `find_weights`.

    Raises:
        DataError: the weights are not complete.
        UsageError: timm is missing, or has no such network, or no weights are called `branch`.
    """
    size = image_size_of(arch, _tensors_of(content, branch))
    with torch.device("meta"):
        network = build_timm(arch, size)
    heads = {"fc": "the projector", "predictor": "the predictor", "module.predictor": "the predictor"}
    found = find_weights(content, network, where, arch=arch, heads=heads, branch=branch)
    shapes = {entry.key: entry.shape for entry in tensor_entries(content)}
    projector, predictor = (
        layer_widths({key: shapes[key] for key, reason in found.skipped.items() if reason == f"the {part}"})
        for part in ("projector", "predictor")
    )
    return TimmRun(found, TimmEncoder(network, arch).width, projector, predictor)
