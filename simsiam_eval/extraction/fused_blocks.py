"""ResNet blocks whose ReLUs and residual sums are computed inside the convolutions, by oneDNN on a CPU.

This module uses private operators of torch (`torch.ops.mkldnn`: `_convolution_pointwise`, `_convolution_pointwise_` and
`_reorder_convolution_weight`), which any release may rename or remove. `can_fuse` tries them on small convolutions first:
where one is missing, fails or is wrong, blocks are not fused, and features are computed by torch's public operators. They
are then the same up to rounding, and extraction is slower.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from simsiam_eval.encoders.resnet import BasicBlock, Bottleneck, ResNet

_STAGES = ("layer1", "layer2", "layer3", "layer4")
_ONEDNN: Any = torch.ops.mkldnn
# Slope of the negative side instead of a ReLU: oneDNN's ReLU turns NaN into 0, which would hide an overflow.
_SLOPE = 1e-20


def fuse_blocks(trunk: ResNet) -> None:
    """Replace the blocks and the stem of a trunk, whose batch normalizations are folded, by fused ones, in place.

    For inference only. Features are the same up to rounding. It saves reading and writing every feature map again for the
    ReLU and the sum, and reordering the weights for oneDNN in every call.

    Raises:
        ValueError: a block that torchvision's ResNets do not have.
    """
    for stage in _STAGES:
        blocks = getattr(trunk, stage)
        for index, block in enumerate(blocks):
            blocks[index] = _FusedBlock(block, first=index == 0)
    trunk.conv1 = _FusedConv(trunk.conv1, relu=isinstance(trunk.relu, nn.ReLU))  # type: ignore[assignment]
    trunk.relu = nn.Identity()  # type: ignore[assignment]


class _FusedConv(nn.Module):
    """A convolution with bias, optionally followed by ReLU; or by adding another feature map and ReLU."""

    def __init__(self, conv: nn.Conv2d, relu: bool) -> None:
        super().__init__()
        self.conv, self._relu = conv, relu
        self._geometry = (conv.padding, conv.stride, conv.dilation, conv.groups)
        self._ordered: tuple[torch.Size, Tensor] | None = None

    def forward(self, maps: Tensor) -> Tensor:
        activation = ("leaky_relu", [_SLOPE], "") if self._relu else ("none", [], "")
        output: Tensor = _ONEDNN._convolution_pointwise(
            maps, self._weight(maps), self.conv.bias, *self._geometry, *activation
        )
        return output

    def add_to(self, other: Tensor, maps: Tensor) -> Tensor:
        """ReLU of `other` + the convolution of `maps`, which overwrites `other`."""
        output: Tensor = _ONEDNN._convolution_pointwise_.binary(
            other, maps, self._weight(maps), self.conv.bias, *self._geometry, "add", 1.0, None, [], None
        )
        return output.relu_()

    def _weight(self, maps: Tensor) -> Tensor:
        """The weight, reordered for oneDNN's kernel for feature maps of this shape."""
        ordered = self._ordered  # another thread may replace it
        if ordered is None or ordered[0] != maps.shape:
            weight = _ONEDNN._reorder_convolution_weight(self.conv.weight, *self._geometry, list(maps.shape))
            ordered = self._ordered = (maps.shape, weight)
        return ordered[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_ordered": None}  # oneDNN's tensors can be neither copied nor pickled


class _FusedBlock(nn.Module):
    def __init__(self, block: nn.Module, first: bool) -> None:
        super().__init__()
        if not isinstance(block, BasicBlock | Bottleneck):
            raise ValueError(f"not a block of torchvision's ResNets: {type(block).__name__}")
        convs = [block.conv1, block.conv2, *([block.conv3] if isinstance(block, Bottleneck) else [])]
        self.convs = nn.Sequential(*(_FusedConv(conv, relu=True) for conv in convs[:-1]))
        self.last = _FusedConv(convs[-1], relu=False)
        self.shortcut: Callable[[Tensor], Tensor]
        if block.downsample is not None:
            self.shortcut = _FusedConv(block.downsample[0], relu=False)  # type: ignore[arg-type]
        else:  # the input of a stage may itself be a requested layer, so it must not be overwritten
            self.shortcut = torch.clone if first else nn.Identity()

    def forward(self, maps: Tensor) -> Tensor:
        return self.last.add_to(self.shortcut(maps), self.convs(maps))


def can_fuse(device: torch.device, precision: str) -> bool:
    """Whether torch has the operators for this processor and `precision`, and they compute small convolutions correctly."""
    return device.type == "cpu" and _are_correct(torch.bfloat16 if precision == "bf16" else torch.float32)


@cache
def _are_correct(dtype: torch.dtype) -> bool:
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.default_generator.manual_seed(0)  # the CPU's only
            return all(
                _is_correct(nn.Conv2d(16, 16, size, stride, size // 2, groups=groups), dtype)
                for size, stride, groups in ((1, 1, 1), (1, 2, 1), (3, 1, 1), (3, 2, 4), (7, 2, 1))
            )
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):
        return False


def _is_correct(conv: nn.Conv2d, dtype: torch.dtype) -> bool:
    """Whether both operators give what public ones give, for NaN too: an overflow must stay visible."""
    conv = conv.to(dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    maps = torch.randn(2, 16, 9, 9).to(dtype, memory_format=torch.channels_last)
    maps[1, 3, 4, 4] = torch.nan
    plain, fused = conv(maps), _FusedConv(conv, relu=True)
    other = torch.randn(plain.shape).to(dtype, memory_format=torch.channels_last)
    pairs = ((fused(maps), plain.relu()), (fused.add_to(other.clone(), maps), (plain + other).relu()))
    return all(torch.allclose(actual, expected, 0.05, 0.05, equal_nan=True) for actual, expected in pairs)
