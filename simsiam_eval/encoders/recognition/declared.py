"""What a checkpoint says about its encoder besides the weights: stem, strides, architecture, images."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from simsiam_eval.commands.fields import option_name
from simsiam_eval.encoders.architectures import ARCHITECTURES, BASIC, TRUNK, TrunkVariant
from simsiam_eval.encoders.checkpoint_files.checkpoint_file import CheckpointFile
from simsiam_eval.encoders.checkpoint_files.module_state import ModuleState
from simsiam_eval.encoders.checkpoint_files.unpickler import ForeignClass, ForeignObject
from simsiam_eval.encoders.recognition.architecture_names import reject_named_networks, unfitting_names
from simsiam_eval.encoders.recognition.file_settings import Settings, named_values, settings_of
from simsiam_eval.encoders.recognition.images import StatedImages, normalization_buffers, stated_images
from simsiam_eval.encoders.recognition.module_geometry import shown_by_module
from simsiam_eval.encoders.recognition.networks import Network, OtherArchitecture
from simsiam_eval.encoders.recognition.openmmlab import openmmlab_output_stride
from simsiam_eval.encoders.recognition.search import content_at
from simsiam_eval.encoders.recognition.stated_preprocessing import StatedPreprocessing
from simsiam_eval.encoders.recognition.timm_arguments import changes_of_features, timm_architecture, timm_arguments
from simsiam_eval.encoders.recognition.timm_images import timm_images
from simsiam_eval.encoders.recognition.timm_modules import timm_module
from simsiam_eval.encoders.recognition.transformers_images import transformers_images
from simsiam_eval.errors import DataError
from simsiam_eval.wording import counted

# Attributes of a 3x3 stem that the weights do not show -> what is assumed.
_CIFAR_STEM = {"stem_stride": "stride 1", "stem_padding": "padding 1", "stem_pool": "no max pooling"}
# Names of settings with an activation, and activations that ResNets have instead of ReLU. Others end a head.
_ACTIVATION_SETTINGS = ("act_layer", "act_cfg", "activation", "activation_function")
_ACTIVATIONS = {
    "celu", "elu", "frelu", "gelu", "gelunew", "hardmish", "hardswish", "leakyrelu", "mish", "prelu", "quickgelu", "relu6",
    "rrelu", "selu", "silu", "softplus", "swish",
}  # fmt: skip
_UNCLEAR_DILATION = ("dilation", "dilated")  # such as DETR's
_DILATED = {(False, False, False): 32, (False, False, True): 16, (False, True, True): 8}  # torchvision's argument


@dataclass(frozen=True)
class Declared:
    """What a file says about an encoder, and what was assumed because it does not.

    Attributes:
        variant: how the trunk differs from torchvision's.
        images: that it was trained on.
        assumptions: sentences.
        epsilon: that its batch normalizations add to variances.
    """

    variant: TrunkVariant
    images: StatedImages
    assumptions: tuple[str, ...]
    epsilon: float


def declared(
    file: CheckpointFile,
    network: Network,
    recorded: TrunkVariant | None,
    chosen: Collection[str] = (),
    channel_order: str | None = None,
) -> Declared:
    """Read what a checkpoint says about one of its networks.

    Args:
        chosen: names of attributes of the variant that the user says.
        recorded: the variant in the metadata of our own checkpoints; None in files of other programs.
        channel_order: order of the color channels that the user says.

    Raises:
        DataError: it says that this is a network that torchvision does not have.
        UsageError: as `stated_images`.
    """
    settings, assumptions = settings_of(file, network)
    reject_named_networks(settings, network, file.path)
    _reject_arguments(file, network)
    _reject_other_networks(settings, file)
    variant, of_variant, epsilon = _variant(file, settings, network, recorded, chosen)
    if recorded is None:
        assumptions += [*unfitting_names(settings, network), *_untrained_stages(settings, network)]
    variant = replace(variant, channels=network.channels)
    is_caffe = variant.stride_in_1x1 or "stride_in_1x1" in chosen
    stated = StatedPreprocessing() if recorded is not None else stated_preprocessing(file, network.channels, network)
    shown = [*settings, *normalization_buffers(file.content, network)]
    images = stated_images(shown, network, stated, channel_order, recorded is not None, is_caffe)
    assumptions += of_variant
    if recorded is None:
        assumptions += normalization_assumptions(images.normalization, network.channels)
    return Declared(variant, images, (*assumptions, *images.assumptions), epsilon)


def is_of_transformers(file: CheckpointFile) -> bool:
    """Whether a checkpoint says that it is transformers' ResNet, which has variants that torchvision's does not have."""
    return file.config.get("model_type") == "resnet"


def stated_preprocessing(file: CheckpointFile, channels: int, network: Network | None = None) -> StatedPreprocessing:
    """The preprocessing that a checkpoint of timm or transformers states.

    Args:
        channels: of the images.
        network: the ResNet in it; None for a network of transformers.
    """
    module = None if network is None else timm_module(file.content, network.trunk.container, network.trunk.first_key)
    of_timm = timm_images(file, channels, None if module is None else module.config)
    return transformers_images(file, channels) if of_timm.preprocessing is None else of_timm


def normalization_assumptions(normalization: Mapping[str, Sequence[float]] | None, channels: int) -> tuple[str, ...]:
    """What is assumed about the normalization of an encoder's images; arguments as of `averaged_normalization`."""
    averaged = averaged_normalization(normalization, channels)
    if normalization is not None or channels not in (1, 3):
        return averaged
    return (
        "Assumed images normalized by ImageNet's mean and standard deviation, which the file does not say (--mean, --std).",
        *averaged,
    )


def averaged_normalization(normalization: Mapping[str, Sequence[float]] | None, channels: int) -> tuple[str, ...]:
    """What is assumed, or missing, where a normalization has not as many values as the encoder's images have channels.

    Args:
        normalization: {"mean": [...], "std": [...]}; None: ImageNet's.
    """
    given = 3 if normalization is None else len(normalization["mean"])
    if given == channels:
        return ()
    if channels not in (1, 3):
        return (
            f"The file does not say how its images of {counted(channels, 'channel')} were normalized; features require "
            "--mean and --std.",
        )
    return (
        f"Assumed the average of the mean and of the standard deviation over {given} channels, for images of "
        f"{counted(channels, 'channel')}.",
    )


def _variant(
    file: CheckpointFile,
    settings: Settings,
    network: Network,
    recorded: TrunkVariant | None,
    chosen: Collection[str],
) -> tuple[TrunkVariant, list[str], float]:
    """The variant, what was assumed for it, and the epsilon of its batch normalizations."""
    epsilon = network.family.epsilon
    if recorded is not None:
        return recorded, [], epsilon
    for trunk in (network.trunk, *(copy.trunk for copy in network.copies)):
        container = content_at(file.content, trunk.container)
        if isinstance(container, ModuleState):
            try:
                module = shown_by_module(container, trunk, network.arch, network.stem, file.path, chosen)
            except DataError as failure:
                of_timm = timm_module(file.content, trunk.container, trunk.first_key)
                if of_timm is None:
                    raise
                raise OtherArchitecture(str(failure), of_timm.architecture) from failure
            if module is not None:
                shown_epsilon = epsilon if module.epsilon is None else module.epsilon
                return module.variant, list(module.assumptions), shown_epsilon
    shown, of_index = _in_settings(settings), list[str]()
    if "output_stride" not in chosen:
        shown |= _dilation(settings, network, file.path)
    if network.family.dilation is not None and "output_stride" not in {*shown, *chosen}:
        raise DataError(
            f"{file.path} has an encoder that {network.family.dilation}, unlike torchvision's ResNets; expected an encoder "
            "without dilation, or --output-stride 32 if it was built without."
        )
    layer1 = network.trunk.layer1
    if layer1 is not None:
        # What is between bn1 and layer1 of an nn.Sequential: nothing, a ReLU, or a ReLU and a pooling or its nn.Identity.
        shown["stem_relu"] = layer1 > 2
        if layer1 < 4:
            shown["stem_pool"] = False
        if layer1 == 3:
            of_index = [
                "Assumed a ReLU and no max pooling between the first batch normalization and layer1, since layer1 is at "
                "index 3 of an nn.Sequential; the one layer between them may also be the max pooling."
            ]
    of_family = network.family.cifar if network.stem == "cifar" else network.family.imagenet
    if timm_architecture(file) == network.arch:
        of_family = TRUNK
    if of_family is None:
        variant = replace(TrunkVariant(), **shown)
        return variant, [*_assumptions(network, {*shown, *chosen}), *of_index], epsilon
    if of_family.output_stride != TRUNK.output_stride and "output_stride" not in {*shown, *chosen}:
        of_index.append(
            f"Assumed output stride {of_family.output_stride}, as in torchvision's segmentation networks "
            "(--output-stride)."
        )
    return replace(of_family, **shown), of_index, epsilon


def _assumptions(network: Network, known: Collection[str]) -> list[str]:
    """What is assumed about a stem and strides that neither the weights nor the file show.

    Args:
        known: attributes of the variant that the file or the user says.
    """
    if network.stem == "cifar":
        unknown = {name: value for name, value in _CIFAR_STEM.items() if name not in known}
        if not unknown:
            return []
        return [
            f"Assumed a 3x3 stem with {', '.join(unknown.values())}, which neither the weights nor the file show "
            f"({', '.join(map(option_name, unknown))})."
        ]
    if "stride_in_1x1" in known or "output_stride" in known:
        return []
    if ARCHITECTURES[network.arch][0] == BASIC:
        kinds, options = "anti-aliased", "--arch"
    else:
        kinds, options = "anti-aliased, dilated and Caffe-style", "--arch, --output-stride, --stride-in-1x1"
    return [
        f"Assumed torchvision's {network.arch}: {kinds} ResNets have the same keys, and the file does not say which it is "
        f"({options})."
    ]


def _untrained_stages(settings: Settings, network: Network) -> list[str]:
    """About stages that a network has and does not use, as those of segmentation-models with a smaller `encoder_depth`."""
    last = network.family.last_trained
    for name, value in named_values(settings):
        if name == "encoder_depth" and value in range(2, 6):
            last = f"layer{value - 1}"
    if last == "layer4":
        return []
    return [
        f"Assumed that all stages were trained, but {network.family.name} used them up to {last} only (--layer {last})."
    ]


def _in_settings(settings: Settings) -> dict[str, Any]:
    """Attributes of a TrunkVariant that settings of known toolkits show."""
    shown: dict[str, Any] = {}
    for name, value in named_values(settings):
        if name == "downsample_in_bottleneck" and isinstance(value, bool):  # transformers
            shown["stride_in_1x1"] = value
        elif name == "style" and value in ("caffe", "pytorch"):  # OpenMMLab
            shown["stride_in_1x1"] = value == "caffe"
        elif name in ("STRIDE_IN_1X1", "stride_in_1x1") and isinstance(value, bool):  # detectron2, maskrcnn-benchmark
            shown["stride_in_1x1"] = value
        elif name == "__author__" and value == "torchvision":  # detectron2's conversion
            shown["stride_in_1x1"] = False
        elif name == "maxpool1" and isinstance(value, bool):  # Lightning Bolts
            shown["stem_pool"] = value
        elif name == "first_conv" and value is False:
            shown["stem_stride"] = 1
    return shown


def _dilation(settings: Settings, network: Network, where: str) -> dict[str, int]:
    """{"output_stride": the one that the settings state}; {} if they state none."""
    stated = openmmlab_output_stride(settings, network, where)
    found = {} if stated is None else {"strides and dilations": stated}
    for name, value in named_values(settings):
        stride: Any = None
        if name == "output_stride" and isinstance(value, int):
            stride = value
        elif name == "replace_stride_with_dilation" and isinstance(value, list | tuple):
            stride = _DILATED.get(tuple(value), tuple(value))
        elif name == "encoder_output_stride" and value in (8, 16, 32):
            # segmentation-models: the first block of a stage dilates too
            stride = value if value == 32 else (value, "with a dilated first block")
        elif name.lower() in _UNCLEAR_DILATION and value is True:
            raise DataError(
                f"{where} says {name} True, but not which stages are dilated; choose --output-stride 16 (the last stage) or "
                "8 (the last two), or 32 if the setting belongs to another network."
            )
        elif name.lower() == "last_stride" and value == 1:  # of re-identification: stride 1 without dilation
            raise DataError(
                f"{where} says {name} 1, a last stage without a stride, unlike torchvision's ResNets; expected 2, "
                "or --output-stride 32 if the setting belongs to another network."
            )
        if stride is not None:
            found[name] = stride
        if stride not in (None, 8, 16, 32) or (stride in (8, 16) and ARCHITECTURES[network.arch][0] == BASIC):
            raise DataError(
                f"{where} says {name} {value}, which torchvision's {network.arch} cannot have; expected an output stride of "
                "32, or 8 or 16 with bottleneck blocks, or --output-stride."
            )
    if len(set(found.values())) > 1:
        stated_ones = " and ".join(f"{name}, so {stride}" for name, stride in found.items())
        raise DataError(f"{where} says several output strides ({stated_ones}); choose one with --output-stride.")
    return {"output_stride": next(iter(found.values()))} if found else {}


def _reject_other_networks(settings: Settings, file: CheckpointFile) -> None:
    where = file.path
    of_transformers = OtherArchitecture if is_of_transformers(file) else DataError
    for name, value in named_values(settings):
        if name in _ACTIVATION_SETTINGS and (activation := _activation(value)) is not None:
            raise DataError(
                f"{where} has the activation {activation} in its setting {name}; expected a ResNet with ReLU. If it belongs "
                "to another part, save the encoder's state dict alone and give that file."
            )
        if name == "hidden_act" and value != "relu":
            raise of_transformers(
                f"{where} says that its activation is {value}; expected a ResNet with ReLU. Load its folder with hf:FOLDER."
            )
        if name in ("RES5_DILATION", "res5_dilation") and value != 1:
            raise DataError(
                f"{where} has a config with RES5_DILATION {value}, which dilates the first block of its last stage too, "
                "unlike torchvision's ResNets; expected RES5_DILATION 1."
            )
        if name == "downsample_in_first_stage" and value is True:
            raise of_transformers(
                f"{where} says that its first stage reduces the resolution, unlike torchvision's ResNets. "
                "Load its folder with hf:FOLDER."
            )


def _activation(value: Any) -> str | None:
    """The name of an activation that ResNets have instead of ReLU; None for anything else."""
    if isinstance(value, Mapping):  # OpenMMLab
        value = value.get("type")
    name = value.class_name if isinstance(value, ForeignClass | ForeignObject) else value
    if not isinstance(name, str):
        return None
    return name if re.sub(r"[^a-z0-9]", "", name.rpartition(".")[2].lower()) in _ACTIVATIONS else None


def _reject_arguments(file: CheckpointFile, network: Network) -> None:
    """Reject a network that timm built with arguments that change its features."""
    changed = changes_of_features(timm_arguments(file))
    if changed:
        raise OtherArchitecture(
            f"{file.path} says that its {network.arch} was built with {changed}, so it computes other features than "
            "torchvision's.",
            network.arch,
        )
