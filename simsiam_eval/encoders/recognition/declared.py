"""What a checkpoint says about its encoder besides the weights: stem, strides, architecture, normalization."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from simsiam_eval.commands.fields import option_name
from simsiam_eval.encoders.architectures import ARCHITECTURES, BASIC, TRUNK, TrunkVariant
from simsiam_eval.encoders.checkpoint_files.attributes import attributes_of
from simsiam_eval.encoders.checkpoint_files.checkpoint_file import CheckpointFile
from simsiam_eval.encoders.checkpoint_files.module_state import ModuleState
from simsiam_eval.encoders.recognition.module_geometry import variant_of_module
from simsiam_eval.encoders.recognition.networks import Network, OtherArchitecture
from simsiam_eval.encoders.recognition.search import content_at
from simsiam_eval.errors import DataError
from simsiam_eval.wording import counted

# Entries of a file that hold the settings of its training script.
_SETTINGS = ("args", "opt", "hyper_parameters", "hparams", "cfg", "config", "meta", "pretrained_cfg", "default_cfg")
_DEEPEST = 6  # levels of nested settings
# Attributes of a 3x3 stem that the weights do not show -> what is assumed.
_CIFAR_STEM = {"stem_stride": "stride 1", "stem_padding": "padding 1", "stem_pool": "no max pooling"}
# Anti-aliased ResNets of timm have the keys and shapes of plain ones.
_SAME_SHAPES = re.compile(r"(?:\w*_)?resnet(?:aa|blur)\d+")
# Names and arguments in timm's config.json that change only the first or the last layer, or nothing.
_HARMLESS = {"in_chans", "num_classes", "drop_rate", "drop_path_rate", "drop_block_rate", "global_pool", "img_size"}


@dataclass(frozen=True)
class Declared:
    """What a file says about an encoder, and what was assumed because it does not.

    Attributes:
        variant: how the trunk differs from torchvision's.
        assumptions: sentences.
        normalization: {"mean": [...], "std": [...]}; None if the file does not say it.
        normalization_from: what says it.
    """

    variant: TrunkVariant
    assumptions: tuple[str, ...]
    normalization: dict[str, list[float]] | None
    normalization_from: str | None


def declared(
    file: CheckpointFile, network: Network, recorded: TrunkVariant | None, chosen: Collection[str] = ()
) -> Declared:
    """Read what a checkpoint says about one of its networks.

    Args:
        chosen: names of attributes of the variant that the user says.
        recorded: the variant in the metadata of our own checkpoints; None in files of other programs.

    Raises:
        DataError: it says that this is a network that torchvision does not have.
    """
    settings = list(_settings(file))
    _reject_other_networks(settings, network, file.path)
    _reject_arguments(file.config, network, file.path)
    variant, assumptions = _variant(file, settings, network, recorded, chosen)
    variant = replace(variant, channels=network.channels)
    normalization, source = _normalization(settings, network)
    if normalization is None and recorded is None:
        assumptions.append(
            "Assumed images normalized by ImageNet's mean and standard deviation, which the file does not say "
            "(--mean, --std)."
        )
    if recorded is None:
        assumptions += averaged_normalization(normalization, network.channels)
    if _is_bgr(settings):
        assumptions.append("The file says that its images were BGR; images are given as RGB, so features may differ.")
    return Declared(variant, tuple(assumptions), normalization, source)


def averaged_normalization(normalization: Mapping[str, Sequence[float]] | None, channels: int) -> tuple[str, ...]:
    """The assumption about a normalization that has not as many values as the encoder's images have channels.

    Args:
        normalization: {"mean": [...], "std": [...]}; None: ImageNet's.
    """
    given = 3 if normalization is None else len(normalization["mean"])
    if given == channels:
        return ()
    return (
        f"Assumed the average of the mean and of the standard deviation over {given} channels, for images of "
        f"{counted(channels, 'channel')}.",
    )


def _variant(
    file: CheckpointFile,
    settings: list[tuple[str, Any]],
    network: Network,
    recorded: TrunkVariant | None,
    chosen: Collection[str],
) -> tuple[TrunkVariant, list[str]]:
    if recorded is not None:
        return recorded, []
    for trunk in (network.trunk, *network.copies):
        container = content_at(file.content, trunk.container)
        if isinstance(container, ModuleState):
            variant = variant_of_module(container, trunk, network.arch, network.stem, file.path)
            if variant is not None:
                return variant, []
    shown = _in_settings(settings)
    layer1 = network.trunk.layer1
    if layer1 is not None:
        # What is between bn1 and layer1 of an nn.Sequential: nothing, a ReLU, or a ReLU and a pooling or its nn.Identity.
        shown["stem_relu"] = layer1 > 2
        if layer1 < 4:
            shown["stem_pool"] = False
    of_family = network.family.cifar if network.stem == "cifar" else network.family.imagenet
    if of_family is None:
        return replace(TrunkVariant(), **shown), _assumptions(network, {*shown, *chosen})
    if of_family.output_stride != TRUNK.output_stride and "output_stride" not in {*shown, *chosen}:
        return replace(of_family, **shown), [
            f"Assumed output stride {of_family.output_stride}, as in torchvision's segmentation networks "
            "(--output-stride)."
        ]
    return replace(of_family, **shown), []


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


def _in_settings(settings: list[tuple[str, Any]]) -> dict[str, Any]:
    """Attributes of a TrunkVariant that settings of known toolkits show."""
    shown: dict[str, Any] = {}
    for name, value in _all(settings):
        if name == "downsample_in_bottleneck" and isinstance(value, bool):  # transformers
            shown["stride_in_1x1"] = value
        elif name == "style" and value in ("caffe", "pytorch"):  # OpenMMLab
            shown["stride_in_1x1"] = value == "caffe"
        elif name == "cfg" and isinstance(value, str) and (style := re.search(r"style\s*=\s*['\"](\w+)['\"]", value)):
            shown["stride_in_1x1"] = style[1] == "caffe"
        elif name == "__author__" and value == "torchvision":  # detectron2's conversion
            shown["stride_in_1x1"] = False
        elif name == "maxpool1" and isinstance(value, bool):  # Lightning Bolts
            shown["stem_pool"] = value
        elif name == "first_conv" and value is False:
            shown["stem_stride"] = 1
    return shown


def _is_bgr(settings: list[tuple[str, Any]]) -> bool:
    """Whether images of an encoder of OpenMMLab had their channels in the order blue, green, red."""
    texts = [value for name, value in _all(settings) if name == "cfg" and isinstance(value, str)]
    return any(re.search(r"\b(?:to_rgb|bgr_to_rgb)\s*=\s*False", text) for text in texts)


def _reject_other_networks(settings: list[tuple[str, Any]], network: Network, where: str) -> None:
    for name, value in _all(settings):
        arch = value.partition(".")[0] if isinstance(value, str) else ""
        if name in ("arch", "architecture", "model", "model_name", "backbone", "name") and _SAME_SHAPES.fullmatch(arch):
            raise OtherArchitecture(
                f"{where} says that its architecture is {arch}, which has the keys of {network.arch} and computes other "
                "features.",
                arch,
            )
        if name == "hidden_act" and value != "relu":
            raise DataError(
                f"{where} says that its activation is {value}; expected a ResNet with ReLU. Load its folder with hf:FOLDER."
            )
        if name == "downsample_in_first_stage" and value is True:
            raise DataError(
                f"{where} says that its first stage reduces the resolution, unlike torchvision's ResNets. "
                "Load its folder with hf:FOLDER."
            )


def _reject_arguments(config: Mapping[str, Any], network: Network, where: str) -> None:
    """Reject a network of timm's hub folder that was built with arguments that change its features."""
    arguments = config.get("model_args") if "architecture" in config else None
    changes = arguments.items() if isinstance(arguments, Mapping) else ()
    changed = ", ".join(f"{name}={value}" for name, value in changes if name not in _HARMLESS)
    if changed:
        raise OtherArchitecture(
            f"{where} says that its {network.arch} was built with {changed}, so it computes other features than "
            "torchvision's.",
            network.arch,
        )


def _normalization(
    settings: list[tuple[str, Any]], network: Network
) -> tuple[dict[str, list[float]] | None, str | None]:
    found: list[tuple[dict[str, list[float]], str]] = []
    for source, value in settings:
        for mapping in _mappings(value):
            for mean, std in (("mean", "std"), ("image_mean", "image_std")):
                pair = _pair(mapping.get(mean), mapping.get(std), network.channels)
                if pair is not None:
                    found.append((pair, source))
            text = mapping.get("cfg")
            if isinstance(text, str):  # OpenMMLab keeps its config as the text of a Python file
                found += [(pair, f"{source}.cfg") for pair in _pairs_in(text, network.channels)]
    if found and all(pair == found[0][0] for pair, _ in found):
        return found[0]
    known = network.family.normalizations
    data = next((value for name, value in _all(settings) if name == "dataset" and isinstance(value, str)), "")
    if data in known:
        return dict(known[data]), f"{network.family.name}'s normalization of {data}"
    if network.stem in known:
        return dict(known[network.stem]), f"what {network.family.name} trains with"
    return None, None


def _pairs_in(text: str, channels: int) -> Iterator[dict[str, list[float]]]:
    numbers = r"\s*=\s*\[([\d.,\s]+)\]"
    # mmengine writes one number per line, and sorts the settings: num_classes stands between.
    for match in re.finditer(rf"\bmean{numbers},(?:\s*\w+\s*=\s*\w+,)*\s*std{numbers}", text):
        mean, std = ([float(number) for number in group.split(",") if number.strip()] for group in match.groups())
        pair = _pair(mean, std, channels)
        if pair is not None:
            yield pair


def _pair(mean: Any, std: Any, channels: int) -> dict[str, list[float]] | None:
    """Mean and standard deviation as fractions of 1, if these are one number for each channel."""
    if not all(isinstance(values, list | tuple) and len(values) == channels for values in (mean, std)):
        return None
    if not all(isinstance(value, int | float) for value in (*mean, *std)) or min(std) <= 0:
        return None
    scale = 255 if max(*mean, *std) > 2 else 1
    return {"mean": [value / scale for value in mean], "std": [value / scale for value in std]}


def _settings(file: CheckpointFile) -> Iterator[tuple[str, Any]]:
    """(where it stands, value) of everything in a file that may be settings."""
    if file.config:
        yield " and ".join(file.config_files), file.config
    for name in ("arch", "__author__"):
        if isinstance(file.content.get(name), str):
            yield name, {name: file.content[name]}
    for name in _SETTINGS:
        if name in file.content:
            yield name, file.content[name]


def _mappings(value: Any, depth: int = _DEEPEST) -> Iterator[Mapping[str, Any]]:
    attributes = attributes_of(value)
    if attributes:
        yield attributes
    entries: Sequence[Any] = list(attributes.values()) or (value if isinstance(value, list | tuple) else [])
    for entry in entries if depth else []:
        yield from _mappings(entry, depth - 1)


def _all(settings: list[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """(name, value) of every setting, at any depth."""
    for _, value in settings:
        for mapping in _mappings(value):
            yield from mapping.items()
