"""What a pickled module shows of a trunk besides its weights: strides, padding, and which layers it has."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from simsiam_eval.encoders.architectures import TrunkVariant
from simsiam_eval.encoders.checkpoint_files.module_state import ModuleState
from simsiam_eval.encoders.checkpoint_files.unpickler import ForeignObject
from simsiam_eval.encoders.encoder import build_trunk
from simsiam_eval.encoders.recognition.search import Trunk
from simsiam_eval.errors import DataError

# Classes of modules that compute what torchvision's ResNets compute, or nothing in eval mode.
_PLAIN = {
    *("Conv2d", "BatchNorm2d", "SyncBatchNorm", "FrozenBatchNorm2d", "BatchNormAct2d", "ReLU"),
    *("Sequential", "Identity", "MaxPool2d", "AdaptiveAvgPool2d", "AvgPool2d", "Dropout"),
    *("DropPath", "ModuleList", "FloatFunctional", "BasicBlock", "Bottleneck", "QuantizableBasicBlock"),
    *("QuantizableBottleneck"),
}


def variant_of_module(module: ModuleState, trunk: Trunk, arch: str, stem: str, where: str) -> TrunkVariant | None:
    """The variant of a trunk in a pickled module; None if it does not show strides, as some TorchScript archives.

    Args:
        module: that contains the trunk.
        trunk, arch, stem: of its weights.
        where: the start of an error message, such as the file's path.

    Raises:
        DataError: the module has layers or strides that no variant of torchvision's ResNets has.
    """
    conv1 = trunk.entries["conv1.weight"].key.removesuffix(".weight")
    if "stride" not in _attributes(module.modules.get(conv1)):
        return None
    around = conv1.removesuffix("conv1") if conv1.endswith("conv1") else conv1.removesuffix("0")
    _reject_other_layers(module, around, trunk, where)
    first = _attributes(module.modules[conv1])
    variant = TrunkVariant(
        stem_stride=_side(first, "stride"),
        stem_padding=_side(first, "padding"),
        stem_pool=_pools(module, around, trunk),
        stem_relu=trunk.layer1 is None or trunk.layer1 > 2,
        stride_in_1x1=_side(_convolution(module, trunk, "layer2.0.conv1"), "stride") == 2 and _is_bottleneck(trunk),
        output_stride=_output_stride(module, trunk),
    )
    with torch.device("meta"):
        expected = build_trunk(arch, stem, variant=variant)
    for name, layer in expected.named_modules():
        if not isinstance(layer, nn.Conv2d) or name == "conv1":
            continue
        found = _convolution(module, trunk, name)
        for attribute in ("stride", "padding", "dilation"):
            value = getattr(layer, attribute)
            if tuple(found.get(attribute, value)) != tuple(value):
                raise DataError(
                    f"{where} has {name} with {attribute} {tuple(found[attribute])}; torchvision's {arch} has {value}, so "
                    "its features would differ."
                )
    return variant


def _reject_other_layers(module: ModuleState, around: str, trunk: Trunk, where: str) -> None:
    children = {entry.key.removeprefix(around).partition(".")[0] for entry in trunk.entries.values()}
    children |= {"relu", "act1", "maxpool"}
    for path, part in module.modules.items():
        if not path.startswith(around) or path.removeprefix(around).partition(".")[0] not in children:
            continue
        if part.class_name.rpartition(".")[2] not in _PLAIN:
            raise DataError(
                f"{where} has a {part.class_name} in {path}, which torchvision's ResNets do not have, so its features would "
                "differ."
            )


def _pools(module: ModuleState, around: str, trunk: Trunk) -> bool:
    names = [f"{around}maxpool"] if trunk.layer1 is None else [f"{around}{index}" for index in range(2, trunk.layer1)]
    parts = [module.modules[name] for name in names if name in module.modules]
    return any(
        part.class_name.endswith("MaxPool2d") and _attributes(part).get("kernel_size") not in (1, (1, 1))
        for part in parts
    )


def _output_stride(module: ModuleState, trunk: Trunk) -> int:
    """32, or 16 or 8 where layer4, or layer3 and layer4 of bottleneck blocks, keep the resolution."""
    if not _is_bottleneck(trunk):
        return 32
    kept = [
        all(_side(_convolution(module, trunk, f"{stage}.0.{conv}"), "stride") == 1 for conv in ("conv1", "conv2"))
        for stage in ("layer4", "layer3")
    ]
    return 32 if not kept[0] else 16 if not kept[1] else 8


def _convolution(module: ModuleState, trunk: Trunk, name: str) -> dict[str, Any]:
    return _attributes(module.modules.get(trunk.entries[f"{name}.weight"].key.removesuffix(".weight")))


def _attributes(part: ForeignObject | None) -> dict[str, Any]:
    state = part.state if part is not None else None
    return dict(state) if isinstance(state, dict) else {}


def _side(convolution: dict[str, Any], attribute: str) -> int:
    value = convolution.get(attribute, 1)
    return int(value[0]) if isinstance(value, list | tuple) else int(value)


def _is_bottleneck(trunk: Trunk) -> bool:
    return "layer2.0.conv3.weight" in trunk.entries
