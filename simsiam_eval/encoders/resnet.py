"""ResNets with the keys, the features and the initial weights of torchvision's, without its import.

`import torchvision` also imports torch's compiler and the models of detection, which takes time and memory at the start of
every command (benchmarks/results/inspect_memory.md).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from simsiam_eval.encoders.architectures import ARCHITECTURES, BASIC, feature_width, stem_width

# Output stride -> dilation of the 3x3 convolutions that layer1 to layer4 end with.
_DILATIONS = {32: (1, 1, 1, 1), 16: (1, 1, 1, 2), 8: (1, 1, 2, 4)}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2015, figure 5, left).

    (B, C, H, W) -> (B, width, H/stride, W/stride).
    """

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv3x3(channels, width, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = _conv3x3(width, width)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(channels, width, stride)

    def forward(self, maps: Tensor) -> Tensor:
        shortcut = maps if self.downsample is None else self.downsample(maps)
        maps = self.relu(self.bn1(self.conv1(maps)))
        maps = self.bn2(self.conv2(maps))
        maps += shortcut
        return self.relu(maps)  # type: ignore[no-any-return]


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut (He et al. 2015, figure 5, right), with the stride in the 3x3 one.

    (B, C, H, W) -> (B, 4 * width, H/stride, W/stride). ResNeXt has `groups` of `width_per_group` channels for every 64 of
    `width`, and a wide ResNet one wider group.
    """

    expansion = 4

    def __init__(
        self,
        channels: int,
        width: int,
        stride: int,
        groups: int = 1,
        width_per_group: int = 64,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        inner = width * width_per_group // 64 * groups
        self.conv1 = nn.Conv2d(channels, inner, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = _conv3x3(inner, inner, stride, groups, dilation)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, width * self.expansion, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(channels, width * self.expansion, stride)

    def forward(self, maps: Tensor) -> Tensor:
        shortcut = maps if self.downsample is None else self.downsample(maps)
        maps = self.relu(self.bn1(self.conv1(maps)))
        maps = self.relu(self.bn2(self.conv2(maps)))
        maps = self.bn3(self.conv3(maps))
        maps += shortcut
        return self.relu(maps)  # type: ignore[no-any-return]


class ResNet(nn.Module):
    """A ResNet for ImageNet: images (B, 3, H, W) -> logits (B, 1000).

    From the same random state its weights are those of `torchvision.models.get_model(arch, weights=None)`.

    Args:
        arch: a name in ARCHITECTURES.
        output_stride: 32, or 16 or 8, where layer4, or layer3 and layer4, dilate their convolutions instead of halving the
            resolution; only of architectures with bottleneck blocks.
        zero_init_residual: initialize the last batch normalization of each block to zero (Goyal et al. 2017, section 5.1).
    """

    def __init__(self, arch: str, output_stride: int = 32, zero_init_residual: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, stem_width(arch), kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(stem_width(arch))
        self.relu: nn.Module = nn.ReLU(inplace=True)
        self.maxpool: nn.Module = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.layer1, self.layer2, self.layer3, self.layer4 = _stages(arch, output_stride)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc: nn.Module = nn.Linear(feature_width(arch), 1000)
        self._initialize(zero_init_residual)

    def _initialize(self, zero_init_residual: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                initialize_convolution(module)
        if zero_init_residual:
            for module in self.modules():
                if isinstance(module, BasicBlock | Bottleneck):
                    nn.init.zeros_((module.bn2 if isinstance(module, BasicBlock) else module.bn3).weight)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            maps = stage(maps)
        return self.fc(torch.flatten(self.avgpool(maps), 1))  # type: ignore[no-any-return]


def initialize_convolution(convolution: nn.Conv2d) -> None:
    """Initialize the weights, in place, for a ReLU (He et al. 2015, "Delving deep into rectifiers")."""
    if not convolution.weight.is_meta:  # `normal_` of a meta tensor changes nothing, and imports torch's compiler
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")


def _stages(arch: str, output_stride: int) -> list[nn.Sequential]:
    """layer1 to layer4."""
    kind, depths, groups, width_per_group = ARCHITECTURES[arch]
    stages: list[nn.Sequential] = []
    channels, last_dilation = stem_width(arch), 1
    for stage, (depth, dilation) in enumerate(zip(depths, _DILATIONS[output_stride], strict=True)):
        width = stem_width(arch) * 2**stage
        # A stage that dilates more than the one before keeps the resolution; its first block dilates as the one before.
        stride = 2 if stages and dilation == last_dilation else 1
        blocks: list[nn.Module] = []
        for block_stride, block_dilation in [(stride, last_dilation)] + [(1, dilation)] * (depth - 1):
            if kind == BASIC:
                blocks.append(BasicBlock(channels, width, block_stride))
                channels = width
            else:
                blocks.append(Bottleneck(channels, width, block_stride, groups, width_per_group, block_dilation))
                channels = width * Bottleneck.expansion
        stages.append(nn.Sequential(*blocks))
        last_dilation = dilation
    return stages


def _conv3x3(channels: int, width: int, stride: int = 1, groups: int = 1, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, width, 3, stride, padding=dilation, dilation=dilation, groups=groups, bias=False)


def _shortcut(channels: int, width: int, stride: int) -> nn.Sequential | None:
    """The 1x1 convolution of a block whose output differs in shape from its input."""
    if stride == 1 and channels == width:
        return None
    return nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))
