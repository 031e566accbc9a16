"""What a pickled module shows of a trunk besides its weights: strides, padding, epsilon, and which layers it has."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from simsiam_eval.encoders.architectures import TrunkVariant
from simsiam_eval.encoders.checkpoint_files.module_state import ModuleState
from simsiam_eval.encoders.encoder import build_trunk
from simsiam_eval.encoders.recognition.module_layers import TrunkLayers
from simsiam_eval.encoders.recognition.search import Trunk
from simsiam_eval.errors import DataError


@dataclass(frozen=True)
class ShownByModule:
    """What a pickled module shows of a trunk besides its weights.

    Attributes:
        variant: how it differs from torchvision's.
        epsilon: that its batch normalizations add to variances; None: not shown.
        assumptions: sentences about what it does not show.
    """

    variant: TrunkVariant
    epsilon: float | None
    assumptions: tuple[str, ...]


def shown_by_module(
    module: ModuleState, trunk: Trunk, arch: str, stem: str, where: str, chosen: Collection[str] = ()
) -> ShownByModule | None:
    """What a pickled module shows of a trunk; None if it does not show strides, as some TorchScript archives.

    Args:
        module: that contains the trunk.
        trunk, arch, stem: of its weights.
        where: the start of an error message, such as the file's path.
        chosen: names of attributes of the variant that the user says.

    Raises:
        DataError: the module has layers or strides that no variant of torchvision's ResNets has.
    """
    layers = TrunkLayers(module, trunk, where)
    first = layers.attributes("conv1.weight")
    if "stride" not in first:
        return None
    layers.reject_other_layers()
    has_relu, has_pool = layers.stem()
    assumptions = layers.assumptions(arch)
    if has_pool is None and "stem_pool" not in chosen:
        said = "torchvision's max pooling" if stem == "imagenet" else "no max pooling"
        assumptions.append(f"Assumed {said} in the stem, since the file's module shows no such layer (--stem-pool).")
    variant = TrunkVariant(
        stem_stride=_number(first, "stride", where),
        stem_padding=_number(first, "padding", where),
        stem_pool=has_pool,
        stem_relu=has_relu,
        stride_in_1x1=_is_bottleneck(trunk) and _strided(layers, "layer2.0.conv1"),
        output_stride=_output_stride(layers),
    )
    _reject_other_convolutions(layers, arch, stem, variant)
    return ShownByModule(variant, layers.epsilon(), tuple(assumptions))


def _reject_other_convolutions(layers: TrunkLayers, arch: str, stem: str, variant: TrunkVariant) -> None:
    with torch.device("meta"):
        expected = build_trunk(arch, stem, variant=variant)
    for name, layer in expected.named_modules():
        if not isinstance(layer, nn.Conv2d):
            continue
        found = layers.attributes(f"{name}.weight")
        for attribute in ("stride", "padding", "dilation", "padding_mode", "groups"):
            value = getattr(layer, attribute)
            given = found.get(attribute, value)
            given = tuple(given) if isinstance(given, list) else given
            if given != value:
                raise DataError(
                    f"{layers.where} has {name} with {attribute} {given}; torchvision's {arch} has {value}, so its features "
                    "would differ."
                )


def _output_stride(layers: TrunkLayers) -> int:
    """32, or 16 or 8 where layer4, or layer3 and layer4 of bottleneck blocks, keep the resolution."""
    if not _is_bottleneck(layers.trunk):
        return 32
    kept = [
        not any(_strided(layers, f"{stage}.0.{conv}") for conv in ("conv1", "conv2")) for stage in ("layer4", "layer3")
    ]
    return 32 if not kept[0] else 16 if not kept[1] else 8


def _strided(layers: TrunkLayers, name: str) -> bool:
    return layers.attributes(f"{name}.weight").get("stride", 1) not in (1, (1, 1), [1, 1])


def _number(convolution: dict[str, Any], attribute: str, where: str) -> int:
    """Of the first convolution, the same in both directions."""
    value = convolution.get(attribute, 1)
    sides = set(value) if isinstance(value, list | tuple) else {value}
    number = next(iter(sides), None)
    if len(sides) != 1 or not isinstance(number, int):
        raise DataError(f"{where} has conv1 with {attribute} {value}; expected the same number in both directions.")
    return number


def _is_bottleneck(trunk: Trunk) -> bool:
    return "layer2.0.conv3.weight" in trunk.entries
