"""Checkpoints of every known family: recognize them, load their encoder, and write ours."""

import dataclasses
import hashlib
import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from simsiam_eval.encoders.architectures import ARCHITECTURES, TrunkVariant, feature_width
from simsiam_eval.encoders.backbones.backbone import Backbone
from simsiam_eval.encoders.backbones.loading import load_backbone
from simsiam_eval.encoders.backbones.timm_backbone import timm_encoder
from simsiam_eval.encoders.backbones.timm_fallback import timm_choice
from simsiam_eval.encoders.backbones.timm_weights import read_timm_run
from simsiam_eval.encoders.checkpoint_files.checkpoint_file import open_checkpoint
from simsiam_eval.encoders.choice import EncoderChoice
from simsiam_eval.encoders.encoder import Encoder, ResNetEncoder, build_trunk
from simsiam_eval.encoders.float_weights import float_weights
from simsiam_eval.encoders.recognition.declared import averaged_normalization, declared
from simsiam_eval.encoders.recognition.family import EPSILON
from simsiam_eval.encoders.recognition.networks import Network, OtherArchitecture, read_contents
from simsiam_eval.encoders.recognition.parts import other_parts
from simsiam_eval.encoders.recognition.search import BARE
from simsiam_eval.errors import DataError, UsageError
from simsiam_eval.files.atomic import atomic_write
from simsiam_eval.vocabulary import TIMM
from simsiam_eval.wording import first_few

METADATA_KEY = "simsiam_eval"
RANDOM_STATE_KEY = "random_state"  # in the metadata of a run; not reported, since it means nothing to a reader


@dataclass(frozen=True)
class CheckpointReport:
    """What a checkpoint contains and what is loaded from it.

    Attributes:
        path: of the file.
        family: name of the checkpoint family.
        container: the entry of the file with the weights; "bare" if the file is itself the state dict.
        arch, stem: of the encoder; the stem is None if it is not a ResNet of torchvision.
        epoch: number of completed epochs as recorded in the file, or None.
        feature_width: number of features D for an image.
        projector, predictor: widths of their linear layers from input to output, such as [2048, 512, 2048].
        loaded: key in the file -> torchvision's key in the trunk.
        skipped: key in the file -> why it is not loaded. A container that is not used is one entry.
        weights_sha256: as from `weights_sha256`.
        metadata: what `write_checkpoint` was given; None in files of other programs.
        branch: name of the network that was chosen; None if the file has only one.
        branches: names of all networks in the file.
        variant: how the trunk differs from torchvision's, as from `TrunkVariant.to_dict`.
        assumptions: sentences on what was assumed about the encoder because nothing in the file says it.
        normalization: {"mean": [...], "std": [...]} of the images that the encoder was trained on; None if unknown.
        normalization_from: what says so.
        channel_order: "rgb" or "bgr", in which the file's encoder takes color channels. Of a "bgr" encoder the first
            convolution and the normalization are reversed on loading, so that what is loaded takes RGB images.
        channel_order_from: what says so; None if nothing does.
        preprocessing: of images, as from `Preprocessing.to_dict`, where a file of another library says it.
    """

    path: str
    family: str
    container: str
    arch: str
    stem: str | None
    epoch: int | None
    feature_width: int
    projector: list[int] | None
    predictor: list[int] | None
    loaded: dict[str, str]
    skipped: dict[str, str]
    weights_sha256: str
    metadata: dict[str, Any] | None
    branch: str | None = None
    branches: tuple[str, ...] = ()
    variant: dict[str, Any] = field(default_factory=dict)
    assumptions: tuple[str, ...] = ()
    normalization: dict[str, list[float]] | None = None
    normalization_from: str | None = None
    channel_order: str = "rgb"
    channel_order_from: str | None = None
    preprocessing: dict[str, Any] | None = None

    @property
    def computation(self) -> dict[str, Any]:
        """What decides the features besides the weights, as `weights_sha256` covers it; {} for a ResNet of torchvision."""
        return _computation(self.arch, self.stem, self.variant)

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, ready for json.dumps.

        Values in `metadata` that JSON cannot hold are replaced by their type; the random state of a run is left out.
        """
        record = {entry.name: _for_json(getattr(self, entry.name)) for entry in dataclasses.fields(self)}
        if self.metadata is not None:
            record["metadata"].pop(RANDOM_STATE_KEY, None)
        return record


def inspect_checkpoint(checkpoint: EncoderChoice | str | os.PathLike[str]) -> CheckpointReport:
    """Recognize the file's family, architecture and stem from its keys and shapes, and verify every encoder weight.

    Raises:
        DataError: as in `load_encoder`.
    """
    choice = EncoderChoice.of(checkpoint)
    if choice.is_named:
        return load_encoder(choice)[1]
    try:
        return _read_encoder(choice)[0]
    except OtherArchitecture as failure:
        return load_encoder(timm_choice(choice, failure))[1]


def load_encoder(
    checkpoint: EncoderChoice | str | os.PathLike[str], layer: str | Sequence[str] = "pool", pooling: str = "auto"
) -> tuple[Encoder, CheckpointReport]:
    """Load the encoder of a checkpoint of any known family.

    Every encoder weight must be in the file and is loaded. The global random state is not changed.

    Returns:
        The encoder, in eval mode and float32 on the CPU, and what was loaded for it.

    Raises:
        DataError: the file has no complete encoder of a known architecture, or weights that are not finite.
        UsageError: unknown `layer` or `pooling`.
    """
    choice = EncoderChoice.of(checkpoint)
    if choice.is_named:
        backbone = load_backbone(choice, layer, pooling)
        return backbone.encoder, _report_of(backbone, choice)
    try:
        report, mapped = _read_encoder(choice)
    except OtherArchitecture as failure:
        return load_encoder(timm_choice(choice, failure), layer, pooling)
    if report.stem is None:
        return timm_encoder(report.arch, mapped, layers=layer, pooling=pooling), report
    # Copied, since what is mapped from the file changes when another program writes to it.
    weights = {key: tensor.clone() for key, tensor in mapped.items()}
    variant, stem = TrunkVariant.from_dict(report.variant), str(report.stem)
    # On "meta" no weights are initialized only to be overwritten; a strict load leaves no meta tensor behind.
    with torch.device("meta"):
        trunk = build_trunk(report.arch, stem, variant=variant)
    for key, empty in trunk.state_dict().items():
        if key.endswith("num_batches_tracked"):
            weights.setdefault(key, torch.zeros(empty.shape, dtype=empty.dtype))
    trunk.load_state_dict(weights, strict=True, assign=True)
    return ResNetEncoder(trunk, report.arch, stem, layer, pooling, variant).eval(), report


def _computation(arch: str, stem: str | None, variant: Mapping[str, Any]) -> dict[str, Any]:
    # Networks of other libraries may have the same keys and shapes, such as timm's resnet50 and resnetaa50.
    return {**({"arch": arch} if stem is None else {}), **variant}


def weights_sha256(trunk_state_dict: Mapping[str, Tensor], computation: Mapping[str, Any]) -> str:
    """Hexadecimal SHA-256 that identifies an encoder by its weights, independent of the checkpoint's family.

    For each torchvision key in sorted order it covers the key, the shape, and the values as little-endian float32.
    `fc` and `num_batches_tracked` do not change an encoder's features and are left out. `computation` is
    covered unless it is empty: the same weights then compute other features than in a ResNet of torchvision.
    """
    digest = hashlib.sha256()
    if computation:
        digest.update(f"computation {json.dumps(dict(computation), sort_keys=True)}\n".encode())
    for key in sorted(trunk_state_dict):
        if key.startswith("fc.") or key.endswith("num_batches_tracked"):
            continue
        values = trunk_state_dict[key].detach().to("cpu", torch.float32).contiguous().numpy().astype("<f4", copy=False)
        digest.update(f"{key} {list(values.shape)}\n".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def write_checkpoint(
    path: str | os.PathLike[str],
    *,
    epoch: int,
    arch: str,
    state_dict: Mapping[str, Tensor],
    optimizer: Mapping[str, Any],
    metadata: Mapping[str, Any],
) -> None:
    """Write a checkpoint that the reference's scripts can read, atomically.

    Args:
        path: of the file.
        epoch: epochs completed.
        arch: a name in ARCHITECTURES.
        state_dict: with the reference's keys, `module.encoder.*` and `module.predictor.*`.
        optimizer: the optimizer's state dict.
        metadata: written under "simsiam_eval"; numbers, strings, tensors, and lists, tuples and dicts of them.

    Raises:
        ValueError: another key in `state_dict`.
        TypeError: `metadata` or the optimizer's settings have a value that `weights_only=True` cannot read back.
        DataError: the file cannot be written.
    """
    unexpected = [key for key in state_dict if not key.startswith(("module.encoder.", "module.predictor."))]
    if unexpected:
        raise ValueError(
            f"expected keys that start with module.encoder. or module.predictor., got {first_few(unexpected)}"
        )
    trial = io.BytesIO()
    torch.save({"metadata": dict(metadata), "settings": optimizer.get("param_groups")}, trial)
    trial.seek(0)
    try:
        torch.load(trial, map_location="cpu", weights_only=True)
    except Exception as error:
        named = re.search(r"(?:GLOBAL|unrecognized function) (\S*\w)", str(error))
        raise TypeError(f"the checkpoint could not be read back: {named[1] if named else error}") from error
    content = {
        "epoch": int(epoch),
        "arch": arch,
        "state_dict": dict(state_dict),
        "optimizer": dict(optimizer),
        METADATA_KEY: dict(metadata),
    }
    with atomic_write(path) as file:
        torch.save(content, file)


def _report_of(backbone: Backbone, choice: EncoderChoice) -> CheckpointReport:
    encoder, preprocessing = backbone.encoder, backbone.preprocessing
    if preprocessing is not None and encoder.variant.channels != 3:
        preprocessing = preprocessing | {"channels": encoder.variant.channels}
    variant = encoder.variant.to_dict(encoder.stem)
    averaged = averaged_normalization(
        None if preprocessing is None else {"mean": preprocessing["mean"]}, encoder.variant.channels
    )
    return CheckpointReport(
        path=choice.checkpoint,
        family=backbone.family,
        container=backbone.container,
        arch=encoder.arch,
        stem=None,
        epoch=backbone.epoch,
        feature_width=encoder.width,
        projector=None,
        predictor=None,
        loaded=backbone.loaded,
        skipped=backbone.skipped,
        weights_sha256=weights_sha256(encoder.trunk.state_dict(), _computation(encoder.arch, None, variant)),
        metadata=None,
        branch=backbone.container if len(backbone.branches) > 1 else None,
        branches=backbone.branches,
        variant=variant,
        assumptions=(*backbone.assumptions, *averaged),
        normalization=preprocessing and {name: preprocessing[name] for name in ("mean", "std")},
        normalization_from=backbone.preprocessing_from,
        preprocessing=preprocessing,
    )


def _read_encoder(choice: EncoderChoice) -> tuple[CheckpointReport, dict[str, Tensor]]:
    """The report, and the trunk's weights under torchvision's keys."""
    name = choice.checkpoint
    file = open_checkpoint(name)
    checkpoint = file.content
    arch = checkpoint.get("arch")
    if isinstance(arch, str) and arch.startswith(TIMM):
        return _read_timm_run(choice, arch, checkpoint)
    contents = read_contents(checkpoint, name, file.config)
    network = contents.choose(choice.branch, name)
    skipped, projector, predictor = other_parts(contents, network)
    epoch, metadata = checkpoint.get("epoch"), checkpoint.get(METADATA_KEY)
    try:
        if choice.arch not in (None, network.arch):
            message = (
                f"{name} has the keys and shapes of {network.arch}, not of --arch {choice.arch}; leave --arch out."
            )
            raise UsageError(message) if choice.arch in ARCHITECTURES else OtherArchitecture(message, choice.arch)
        found = declared(file, network, _recorded_variant(metadata, name), choice.given_options(), choice.channel_order)
    except OtherArchitecture as failure:
        if len(contents.networks) > 1 or choice.branch is not None:
            failure.branch = ".".join([*network.trunk.container, network.trunk.prefix]).rstrip(".") or BARE
        raise
    weights = _weights_of(network, name, found.images.channel_order)
    variant = choice.variant(found.variant, network.arch).to_dict(network.stem)
    report = CheckpointReport(
        path=name,
        family=network.family.name,
        container=network.trunk.where,
        arch=network.arch,
        stem=network.stem,
        epoch=epoch if isinstance(epoch, int) else None,
        feature_width=feature_width(network.arch),
        projector=projector,
        predictor=predictor,
        loaded={entry.key: key for key, entry in network.trunk.entries.items()},
        skipped=skipped,
        weights_sha256=weights_sha256(weights, _computation(network.arch, network.stem, variant)),
        metadata=dict(metadata) if isinstance(metadata, Mapping) else None,
        branch=network.name if len(contents.networks) > 1 or contents.part_of else None,
        branches=tuple(network.name for network in contents.networks),
        variant=variant,
        assumptions=found.assumptions,
        normalization=found.images.normalization,
        normalization_from=found.images.normalization_from,
        channel_order=found.images.channel_order,
        channel_order_from=found.images.channel_order_from,
    )
    return report, weights


def _read_timm_run(
    choice: EncoderChoice, arch: str, content: Mapping[str, Any]
) -> tuple[CheckpointReport, dict[str, Tensor]]:
    """The report on a checkpoint of `pretrain --arch timm:NAME`, and the weights under timm's keys."""
    choice.reject_trunk_options()
    run = read_timm_run(content, arch, choice.checkpoint, choice.branch)
    found, epoch, metadata = run.found, content.get("epoch"), content.get(METADATA_KEY)
    report = CheckpointReport(
        path=choice.checkpoint,
        family="simsiam",
        container=found.container,
        arch=arch,
        stem=None,
        epoch=epoch if isinstance(epoch, int) else None,
        feature_width=run.width,
        projector=run.projector,
        predictor=run.predictor,
        loaded=found.loaded,
        skipped=found.skipped,
        weights_sha256=weights_sha256(found.weights, _computation(arch, None, {})),
        metadata=dict(metadata) if isinstance(metadata, Mapping) else None,
    )
    return report, found.weights


def _weights_of(network: Network, where: str, channel_order: str) -> dict[str, Tensor]:
    """torchvision's key -> weight, for RGB images."""
    entries = network.trunk.entries
    keys = {key: entry.key for key, entry in entries.items()}
    weights = float_weights({key: entry.tensor for key, entry in entries.items()}, where, keys) | network.trunk.implied
    if network.family.epsilon != EPSILON:
        for key in [key for key in weights if key.endswith("running_var")]:
            weights[key] = weights[key] + (network.family.epsilon - EPSILON)
    if channel_order == "bgr":
        weights["conv1.weight"] = weights["conv1.weight"].flip(1)
    return weights


def _recorded_variant(metadata: object, where: str) -> TrunkVariant | None:
    """The variant in the metadata of `write_checkpoint`; None in files of other programs."""
    if not isinstance(metadata, Mapping):
        return None
    recorded = metadata.get("variant")
    try:
        return TrunkVariant.from_dict(recorded or {})
    except TypeError as error:
        raise DataError(
            f"{where} records an unknown variant of its trunk ({recorded}); update simsiam-eval."
        ) from error


def _for_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _for_json(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_for_json(entry) for entry in value]
    if isinstance(value, Tensor):
        return f"tensor {list(value.shape)} {value.dtype}"
    return value if value is None or isinstance(value, str | int | float) else f"a {type(value).__name__}"
