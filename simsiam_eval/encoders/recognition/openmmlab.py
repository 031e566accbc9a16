"""The settings of OpenMMLab's backbones that change what a ResNet computes, and not its keys and shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from simsiam_eval.encoders.architectures import ARCHITECTURES, BASIC
from simsiam_eval.encoders.recognition.family import EPSILON
from simsiam_eval.encoders.recognition.file_settings import Settings, depth_of, mappings_in
from simsiam_eval.encoders.recognition.networks import Network
from simsiam_eval.errors import DataError

_BATCH_NORMS = ("BN", "BN2d", "SyncBN", "MMSyncBN", "NaiveSyncBN", "torch.nn.SyncBatchNorm")
_CONVOLUTIONS = ("Conv2d", "Conv")
_PLAIN_STRIDES, _PLAIN_DILATIONS = (1, 2, 2, 2), (1, 1, 1, 1)
# (strides, dilations) of the four stages -> output stride.
_OUTPUT_STRIDES = {((1, 2, 2, 1), (1, 1, 1, 2)): 16, ((1, 2, 1, 1), (1, 1, 2, 4)): 8}
_OTHER_LAYERS = ("deep_stem", "avg_down", "dcn", "plugins", "multi_grid")


def openmmlab_output_stride(settings: Settings, network: Network, where: str) -> int | None:
    """The output stride of OpenMMLab's backbone; None if no settings state strides or dilations.

    Args:
        where: the start of an error message, such as the file's path.

    Raises:
        DataError: it computes something else than torchvision's ResNet with any output stride.
    """
    stride = None
    for _, value in settings:
        for backbone in mappings_in(value):
            if _is_backbone(backbone, network):
                _reject_other_layers(backbone, where)
                stride = _output_stride(backbone, network, where) or stride
    return stride


def _is_backbone(mapping: Mapping[str, Any], network: Network) -> bool:
    kind = mapping.get("type")
    name = kind.rpartition(".")[2] if isinstance(kind, str) else ""  # without the scope, as in mmpretrain.ResNet
    return name.startswith(("ResNet", "ResNeXt")) and mapping.get("depth") == depth_of(network.arch)


def _reject_other_layers(backbone: Mapping[str, Any], where: str) -> None:
    normalization = _layer(backbone, "norm_cfg")
    epsilon = normalization.get("eps", EPSILON)
    other = [f"{name}={backbone[name]}" for name in _OTHER_LAYERS if backbone.get(name)]
    if normalization.get("type", "BN") not in _BATCH_NORMS:
        other.append(f"the normalization {normalization['type']}")
    elif epsilon != EPSILON:
        other.append(f"an epsilon of {epsilon} in its batch normalization")
    if _layer(backbone, "conv_cfg").get("type", "Conv2d") not in _CONVOLUTIONS:
        other.append(f"convolutions of the type {_layer(backbone, 'conv_cfg')['type']}")
    if other:
        raise DataError(
            f"{where} has an OpenMMLab config whose backbone has {' and '.join(other)}, so it computes other features than "
            "torchvision's ResNet; expected torchvision's layers."
        )


def _layer(backbone: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = backbone.get(name)
    return value if isinstance(value, Mapping) else {}


def _output_stride(backbone: Mapping[str, Any], network: Network, where: str) -> int | None:
    strides = _four(backbone.get("strides"), _PLAIN_STRIDES)
    dilations = _four(backbone.get("dilations"), _PLAIN_DILATIONS)
    if (strides, dilations) == (_PLAIN_STRIDES, _PLAIN_DILATIONS):
        return 32 if "strides" in backbone or "dilations" in backbone else None
    # Without `contract_dilation` also the first block of a stage dilates; torchvision's dilates as the stage before.
    stride = _OUTPUT_STRIDES.get((strides, dilations)) if backbone.get("contract_dilation") is True else None
    if stride is None or ARCHITECTURES[network.arch][0] == BASIC:
        raise DataError(
            f"{where} has an OpenMMLab config whose backbone has strides={strides} and dilations={dilations}, so it "
            f"computes other features than torchvision's {network.arch}; expected strides={_PLAIN_STRIDES} and "
            f"dilations={_PLAIN_DILATIONS}, or bottleneck blocks and contract_dilation=True."
        )
    return stride


def _four(value: Any, default: tuple[int, ...]) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list | tuple) else default
