"""The supported architectures, their variants and the widths of their layers. Does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

BASIC, BOTTLENECK = "basic", "bottleneck"

# torchvision's name, except of ours: (residual block, blocks in layer1..layer4, groups, width per group). He et al. 2015,
# Xie et al. 2016, Zagoruyko and Komodakis 2016.
ARCHITECTURES: dict[str, tuple[str, tuple[int, int, int, int], int, int]] = {
    "resnet18": (BASIC, (2, 2, 2, 2), 1, 64),
    "resnet34": (BASIC, (3, 4, 6, 3), 1, 64),
    "resnet50": (BOTTLENECK, (3, 4, 6, 3), 1, 64),
    "resnet101": (BOTTLENECK, (3, 4, 23, 3), 1, 64),
    "resnet152": (BOTTLENECK, (3, 8, 36, 3), 1, 64),
    "wide_resnet50_2": (BOTTLENECK, (3, 4, 6, 3), 1, 128),
    "wide_resnet101_2": (BOTTLENECK, (3, 4, 23, 3), 1, 128),
    "resnext50_32x4d": (BOTTLENECK, (3, 4, 6, 3), 32, 4),
    "resnext101_32x8d": (BOTTLENECK, (3, 4, 23, 3), 32, 8),
    "resnext101_64x4d": (BOTTLENECK, (3, 4, 23, 3), 64, 4),
    # Half the blocks and half the width of resnet18, for small images on a CPU.
    "resnet10_x0_5": (BASIC, (1, 1, 1, 1), 1, 32),
}
NOT_IN_TORCHVISION = frozenset({"resnet10_x0_5"})  # nor in any other library


def stem_width(arch: str) -> int:
    """Number of channels of the stem and of the 3x3 convolutions of layer1; every later stage doubles it.

    >>> stem_width("wide_resnet50_2"), stem_width("resnet10_x0_5")
    (64, 32)
    """
    block, _, _, width = ARCHITECTURES[arch]
    return width if block == BASIC else 64


def feature_width(arch: str, layer: str = "pool") -> int:
    """Number of channels D of the output of `layer`.

    >>> feature_width("resnet50"), feature_width("resnet18", "layer2"), feature_width("resnet50", "stem")
    (2048, 128, 64)
    """
    if layer == "stem":
        return stem_width(arch)
    stage = 4 if layer == "pool" else int(layer.removeprefix("layer"))
    expansion = 4 if ARCHITECTURES[arch][0] == BOTTLENECK else 1
    return stem_width(arch) * 2 ** (stage - 1) * expansion


def arch_text(arch: str, stem: str | None) -> str:
    """An architecture for messages; `stem`: None if it is not a ResNet of torchvision.

    >>> arch_text("resnet18", "cifar"), arch_text("timm:vit_tiny_patch16_224", None)
    ('resnet18 (cifar stem)', 'timm:vit_tiny_patch16_224')
    """
    return arch if stem is None else f"{arch} ({stem} stem)"


@dataclass(frozen=True)
class TrunkVariant:
    """How a trunk differs from torchvision's ResNet of its architecture and stem; the defaults are torchvision's.

    Only `channels` shows in the shapes of the weights. A wrong value of the others loads without an error and computes other
    features.

    Attributes:
        channels: channels of an input image.
        stem_stride: stride of the first convolution; None: 2 for the stem "imagenet", 1 for "cifar".
        stem_padding: padding of the first convolution in pixels; None: 3 for "imagenet", 1 for "cifar".
        stem_pool: whether 3x3 max pooling with stride 2 follows; None: for "imagenet".
        stem_relu: whether a ReLU follows the first batch normalization.
        stride_in_1x1: whether bottleneck blocks have their stride in the first 1x1 convolution (Caffe, MSRA), not in the
            3x3 convolution.
        output_stride: 32, or 16 or 8, where layer4, or layer3 and layer4, dilate their convolutions instead of halving the
            resolution, as segmentation networks do.
    """

    channels: int = 3
    stem_stride: int | None = None
    stem_padding: int | None = None
    stem_pool: bool | None = None
    stem_relu: bool = True
    stride_in_1x1: bool = False
    output_stride: int = 32

    def completed(self, stem: str | None) -> TrunkVariant:
        """The same without None.

        >>> full = TrunkVariant(stem_padding=2).completed("cifar")
        >>> full.stem_stride, full.stem_padding, full.stem_pool
        (1, 2, False)
        """
        stride, padding, pool = (2, 3, True) if stem == "imagenet" else (1, 1, False)
        return replace(
            self,
            stem_stride=stride if self.stem_stride is None else self.stem_stride,
            stem_padding=padding if self.stem_padding is None else self.stem_padding,
            stem_pool=pool if self.stem_pool is None else self.stem_pool,
        )

    def to_dict(self, stem: str | None) -> dict[str, Any]:
        """The values that differ from torchvision's; {} for torchvision's ResNet.

        >>> TrunkVariant(stem_padding=2, stem_stride=1).to_dict("cifar")
        {'stem_padding': 2}
        """
        default = asdict(TrunkVariant().completed(stem))
        return {name: value for name, value in asdict(self.completed(stem)).items() if value != default[name]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrunkVariant:
        """What `to_dict` returned."""
        return cls(**values)


TRUNK = TrunkVariant()  # torchvision's
