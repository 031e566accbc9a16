"""`timm:NAME` and `timm:NAME@FILE`: the weights of a network of timm, and the preprocessing that they were trained with."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from simsiam_eval.encoders.backbones.backbone import Backbone, Found, find_weights, load_strictly
from simsiam_eval.encoders.backbones.timm_backbone import TimmEncoder, build_timm, image_size_of, timm_config
from simsiam_eval.encoders.checkpoint_files.attributes import attributes_of
from simsiam_eval.encoders.checkpoint_files.checkpoint_file import CheckpointFile, open_checkpoint
from simsiam_eval.encoders.choice import EncoderChoice
from simsiam_eval.encoders.recognition.architecture_names import plain_name
from simsiam_eval.encoders.recognition.file_settings import settings_of
from simsiam_eval.encoders.recognition.images import stated_orders
from simsiam_eval.encoders.recognition.parts import layer_widths
from simsiam_eval.encoders.recognition.search import Entry, tensor_entries
from simsiam_eval.encoders.recognition.timm_arguments import timm_arguments
from simsiam_eval.errors import DataError
from simsiam_eval.images.preprocess import Preprocessing
from simsiam_eval.vocabulary import TIMM

_HUB_FILES = ("model.safetensors", "pytorch_model.bin")
# Settings of timm's train.py that replace the network's own.
_SCRIPT_SETTINGS = ("mean", "std", "interpolation", "crop_pct", "img_size")
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
    content, folder = opened.content, opened.config
    stated = folder.get("architecture")
    if isinstance(stated, str) and plain_name(stated) != plain_name(name):
        raise DataError(f"{path} has the network {stated}, not {name}; use timm:{plain_name(stated)}@{path}.")
    _reject_bgr(opened)
    network, found = _network_with_weights(name, content, timm_arguments(opened), str(path), choice.branch)
    channels = _channels_in(network)
    encoder = TimmEncoder(network, TIMM + name, layer, pooling, channels).eval()
    preprocessing, stated_by, assumptions = _preprocessing(opened, network, config)
    if pooling == "auto":
        assumptions = (f"Features are pooled as {_named(encoder.pooling)}.", *assumptions)
    return Backbone(
        encoder,
        str(path),
        "timm",
        found.container,
        found.loaded,
        found.skipped,
        preprocessing.to_dict(),
        stated_by,
        assumptions,
        found.branches,
        epoch if isinstance(epoch := content.get("epoch"), int) else None,
    )


def _preprocessing(file: CheckpointFile, network: Any, config: Any) -> tuple[Preprocessing, str, tuple[str, ...]]:
    """(the preprocessing of a network, what states it, assumptions).

    Args:
        config: from `timm_config`.
    """
    values, side = config.to_dict(), network.pretrained_cfg["input_size"][-1]
    folder, script = file.config.get("pretrained_cfg") or {}, attributes_of(file.content.get("args"))
    stated = {name: script[name] for name in _SCRIPT_SETTINGS if script.get(name)} if "model" in script else {}
    if not config.fixed_input_size:
        side = stated.get("img_size") or (folder.get("input_size") or (side,))[-1]
    source = "the arguments of timm's train.py" if stated else "timm's configuration of the network"
    preprocessing, assumptions = timm_preprocessing({**values, **folder, **stated}, int(side))
    return preprocessing, "config.json" if folder and not stated else source, assumptions


def _reject_bgr(file: CheckpointFile) -> None:
    """Raise DataError if a checkpoint says that its images are not RGB."""
    for source, order in stated_orders(settings_of(file, None)[0]).items():
        if order != "rgb":
            raise DataError(
                f"{file.path} says in {source} that its encoder takes {order.upper()} images; expected RGB. Only "
                "torchvision's ResNets can be reversed on loading."
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
    try:
        found = find_weights(content, network, where, heads=heads, branch=branch)
    except DataError:
        renamed = _by_timms_names(network, tensors) if branch is None or _of_branch(content, branch) else None
        if renamed is None:
            raise
        found = find_weights(renamed, network, where, heads=heads)  # the names of containers are gone
    load_strictly(network, found.weights)
    return network, found


def _tensors_of(content: Mapping[str, Any], branch: str | None) -> dict[str, torch.Tensor]:
    """The tensors of the container with the most of them, at any depth; of those that `branch` names, if it names some."""
    entries = _of_branch(content, branch) or tensor_entries(content)
    sizes = Counter(tuple(entry.container) for entry in entries)
    largest = max(sizes, key=lambda container: sizes[container], default=())
    return {entry.key: entry.tensor for entry in entries if tuple(entry.container) == largest}


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
    found = find_weights(content, network, where, heads=heads, branch=branch)
    shapes = {entry.key: entry.shape for entry in tensor_entries(content)}
    projector, predictor = (
        layer_widths({key: shapes[key] for key, reason in found.skipped.items() if reason == f"the {part}"})
        for part in ("projector", "predictor")
    )
    return TimmRun(found, TimmEncoder(network, arch).width, projector, predictor)


def cached_weights(name: str, config: Any, download: bool) -> Path:
    """The file with timm's weights of a network, in the local cache of Hugging Face or torch.

    Args:
        config: from `timm_config`.
        download: whether to download it if it is not there.

    Raises:
        DataError: timm has no weights, or they are not in the cache and `download` is False, or cannot be downloaded.
    """
    if not (config.hf_hub_id or config.url):
        raise DataError(f"timm has no trained weights for {name}; give timm:{name}@FILE with your own.")
    for path in _cached_files(config):
        if path.exists():
            return path
    if not download:
        raise DataError(
            f"The weights of {name} are not in the local cache; give timm:{name}@FILE, or --download to download them."
        )
    try:
        return _download(config)
    except Exception as error:  # of the network, in many kinds
        raise DataError(f"The weights of {name} could not be downloaded ({error}); give timm:{name}@FILE.") from error


def _cached_files(config: Any) -> list[Path]:
    """Where the weights are if they are in a cache."""
    files = []
    if config.hf_hub_id:
        from huggingface_hub import try_to_load_from_cache

        for filename in _hub_files(config):
            cached = try_to_load_from_cache(config.hf_hub_id, filename)
            files += [Path(cached)] if isinstance(cached, str) else []
    if config.url:
        files.append(_torch_cache(config.url))
    return files


def _hub_files(config: Any) -> tuple[str, ...]:
    return (config.hf_hub_filename,) if config.hf_hub_filename else _HUB_FILES


def _torch_cache(url: str) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]


def _download(config: Any) -> Path:
    if config.hf_hub_id:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError

        for filename in _hub_files(config):
            try:
                return Path(hf_hub_download(config.hf_hub_id, filename))
            except EntryNotFoundError:
                continue
        raise DataError(f"{config.hf_hub_id} has no {' or '.join(_hub_files(config))}")
    path = _torch_cache(config.url)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.hub.download_url_to_file(config.url, os.fspath(path), progress=False)
    return path


def timm_preprocessing(values: Mapping[str, Any], side: int) -> tuple[Preprocessing, tuple[str, ...]]:
    """timm's evaluation transform, and how ours differs from it.

    Args:
        values: timm's `pretrained_cfg`.
        side: of the images that the network takes, in pixels.
    """
    fraction, mode = float(values.get("crop_pct") or 0.875), values.get("crop_mode") or "center"
    interpolation, assumptions = str(values.get("interpolation") or "bicubic"), []
    if interpolation not in ("bilinear", "bicubic"):
        assumptions.append(f"Images are resized with bilinear, not {interpolation}, interpolation.")
        interpolation = "bilinear"
    if mode == "border" or (mode == "squash" and fraction != 1):
        assumptions.append(f"Images are cropped at the center; timm's crop mode is {mode}.")
    return (
        Preprocessing(
            resize=math.floor(side / fraction),
            crop=side,
            mean=tuple(values["mean"]),
            std=tuple(values["std"]),
            squash=mode == "squash" and fraction == 1,
            interpolation=interpolation,
        ),
        tuple(assumptions),
    )
