"""Checkpoints of every known family: recognize them and load their encoder."""

import os
from collections.abc import Sequence

import torch
from torch import Tensor

from simsiam_eval.encoders.architectures import ARCHITECTURES, TrunkVariant, feature_width
from simsiam_eval.encoders.backbones.backbone import Backbone
from simsiam_eval.encoders.backbones.fallback import library_choice
from simsiam_eval.encoders.backbones.loading import load_backbone
from simsiam_eval.encoders.backbones.timm_backbone import timm_encoder
from simsiam_eval.encoders.backbones.timm_weights import read_timm_run
from simsiam_eval.encoders.checkpoint_files.checkpoint_file import CheckpointFile, open_checkpoint
from simsiam_eval.encoders.choice import EncoderChoice
from simsiam_eval.encoders.encoder import Encoder, ResNetEncoder, build_trunk
from simsiam_eval.encoders.float_weights import float_weights
from simsiam_eval.encoders.recognition.architecture_names import stated_names
from simsiam_eval.encoders.recognition.declared import averaged_normalization, declared, is_of_transformers
from simsiam_eval.encoders.recognition.family import EPSILON
from simsiam_eval.encoders.recognition.file_settings import settings_of
from simsiam_eval.encoders.recognition.networks import Network, OtherArchitecture, read_contents
from simsiam_eval.encoders.recognition.parts import other_parts
from simsiam_eval.encoders.recorded import recorded_metadata, recorded_variant
from simsiam_eval.encoders.report import CheckpointReport, computation_of, weights_sha256
from simsiam_eval.errors import UsageError
from simsiam_eval.vocabulary import TIMM


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
        return load_encoder(library_choice(choice, failure))[1]


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
        return load_encoder(library_choice(choice, failure), layer, pooling)
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
        weights_sha256=weights_sha256(encoder.trunk.state_dict(), computation_of(encoder.arch, None, variant)),
        metadata=None,
        branch=backbone.branch if len(backbone.branches) > 1 else None,
        branches=backbone.branches,
        variant=variant,
        assumptions=(*backbone.assumptions, *averaged),
        normalization=preprocessing and {name: preprocessing[name] for name in ("mean", "std")},
        normalization_from=backbone.preprocessing_from,
        preprocessing=preprocessing,
    )


def _read_encoder(choice: EncoderChoice) -> tuple[CheckpointReport, dict[str, Tensor]]:
    """The report, and the trunk's weights: of a ResNet under torchvision's keys, of another network under timm's."""
    file = open_checkpoint(choice.checkpoint)
    arch = file.content.get("arch")
    if isinstance(arch, str) and arch.startswith(TIMM):
        return _read_timm_run(choice, arch, file)
    try:
        return _read_resnet(choice, file)
    except OtherArchitecture as failure:
        failure.is_of_transformers = is_of_transformers(file)
        failure.stated = stated_names(settings_of(file, None)[0])
        raise


def _read_resnet(choice: EncoderChoice, file: CheckpointFile) -> tuple[CheckpointReport, dict[str, Tensor]]:
    name = choice.checkpoint
    contents = read_contents(file.content, name, file.config)
    network = contents.choose(choice.branch, name)
    skipped, projector, predictor = other_parts(contents, network)
    epoch, metadata = file.content.get("epoch"), recorded_metadata(file)
    try:
        if choice.arch not in (None, network.arch):
            message = (
                f"{name} has the keys and shapes of {network.arch}, not of --arch {choice.arch}; leave --arch out."
            )
            raise UsageError(message) if choice.arch in ARCHITECTURES else OtherArchitecture(message, choice.arch)
        found = declared(file, network, recorded_variant(metadata, name), choice.given_options(), choice.channel_order)
    except OtherArchitecture as failure:
        if len(contents.networks) > 1 or choice.branch is not None:
            failure.branch = network.full_name
        raise
    weights = _weights_of(network, name, found.images.channel_order, found.epsilon)
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
        weights_sha256=weights_sha256(weights, computation_of(network.arch, network.stem, variant)),
        metadata=metadata,
        branch=network.name if len(contents.networks) > 1 or contents.part_of else None,
        branches=tuple(network.name for network in contents.networks),
        variant=variant,
        assumptions=found.assumptions,
        normalization=found.images.normalization,
        normalization_from=found.images.normalization_from,
        channel_order=found.images.channel_order,
        channel_order_from=found.images.channel_order_from,
        preprocessing=found.images.preprocessing,
    )
    return report, weights


def _read_timm_run(
    choice: EncoderChoice, arch: str, file: CheckpointFile
) -> tuple[CheckpointReport, dict[str, Tensor]]:
    """The report on a checkpoint of `pretrain --arch timm:NAME`, and the weights under timm's keys."""
    choice.reject_trunk_options()
    run = read_timm_run(file.content, arch, choice.checkpoint, choice.branch)
    found, epoch = run.found, file.content.get("epoch")
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
        weights_sha256=weights_sha256(found.weights, computation_of(arch, None, {})),
        metadata=recorded_metadata(file),
        branch=found.branch if len(found.branches) > 1 else None,
        branches=found.branches,
    )
    return report, found.weights


def _weights_of(network: Network, where: str, channel_order: str, epsilon: float) -> dict[str, Tensor]:
    """torchvision's key -> weight, for RGB images."""
    entries = network.trunk.entries
    keys = {key: entry.key for key, entry in entries.items()}
    weights = float_weights({key: entry.tensor for key, entry in entries.items()}, where, keys) | network.trunk.implied
    if epsilon != EPSILON:
        _use_epsilon(weights, epsilon)
    if channel_order == "bgr":
        weights["conv1.weight"] = weights["conv1.weight"].flip(1)
    return weights


def _use_epsilon(weights: dict[str, Tensor], epsilon: float) -> None:
    """Change the batch normalizations of a trunk so that they compute with torchvision's epsilon what they do with another.

    The variances contain the difference. Where one would become negative, which no file may have, it becomes 0, and the
    scale contains the rest.
    """
    for key in [key for key in weights if key.endswith("running_var")]:
        shifted = weights[key] + (epsilon - EPSILON)
        if (shifted < 0).any():
            scale = key.removesuffix("running_var") + "weight"
            rest = (EPSILON / (weights[key].double() + epsilon)).sqrt()
            weights[scale] = torch.where(shifted < 0, weights[scale] * rest, weights[scale]).float()
        weights[key] = shifted.clamp(min=0)
