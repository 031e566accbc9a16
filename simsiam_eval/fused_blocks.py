"""ResNet blocks whose ReLUs and shortcuts are part of the convolutions' own pass: oneDNN's, on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import ResNet
from torchvision.models.resnet import BasicBlock, Bottleneck

_STAGES = ("layer1", "layer2", "layer3", "layer4")


def fuse_blocks(trunk: ResNet) -> None:
    """Replace the blocks and the stem of a trunk, its batch normalisations folded, by fused ones, in place.

    The same features up to rounding, of bfloat16 less of it; for inference only. What is saved: reading and writing
    every map again for ReLU and for the sum, and bringing the weights into oneDNN's order in every call.

    Raises:
        ValueError: a block that torchvision's ResNets have not.
    """
    for stage in _STAGES:
        blocks = getattr(trunk, stage)
        for place, block in enumerate(blocks):
            blocks[place] = _FusedBlock(block, first=place == 0)
    trunk.conv1 = _FusedConv(trunk.conv1, relu=True)  # type: ignore[assignment]
    trunk.relu = nn.Identity()  # type: ignore[assignment]


class _FusedConv(nn.Module):
    """A convolution with bias, then ReLU or not; or the convolution plus another map, then ReLU."""

    def __init__(self, conv: nn.Conv2d, relu: bool) -> None:
        super().__init__()
        self.conv, self._relu = conv, "relu" if relu else "none"
        self._where = (conv.padding, conv.stride, conv.dilation, conv.groups)
        self._packed: tuple[torch.Size, Tensor] | None = None

    def forward(self, maps: Tensor) -> Tensor:
        bias, relu = self.conv.bias, self._relu
        found: Tensor = _onednn()._convolution_pointwise(maps, self._weight(maps), bias, *self._where, relu, [], "")
        return found

    def add_to(self, other: Tensor, maps: Tensor) -> Tensor:
        """ReLU of `other` + the convolution of `maps`, in the place of `other`."""
        found: Tensor = _onednn()._convolution_pointwise_.binary(
            other, maps, self._weight(maps), self.conv.bias, *self._where, "add", 1.0, "relu", [], ""
        )
        return found

    def _weight(self, maps: Tensor) -> Tensor:
        """In the order that oneDNN's kernel for maps of this shape reads."""
        if self._packed is None or self._packed[0] != maps.shape:
            ordered = _onednn()._reorder_convolution_weight(self.conv.weight, *self._where, list(maps.shape))
            self._packed = (maps.shape, ordered)
        return self._packed[1]


class _FusedBlock(nn.Module):
    def __init__(self, block: nn.Module, first: bool) -> None:
        super().__init__()
        if not isinstance(block, BasicBlock | Bottleneck):
            raise ValueError(f"not a block of torchvision's ResNets: {type(block).__name__}")
        convs = [block.conv1, block.conv2, *([block.conv3] if isinstance(block, Bottleneck) else [])]
        self.convs = nn.Sequential(*(_FusedConv(one, relu=True) for one in convs[:-1]))
        self.last = _FusedConv(convs[-1], relu=False)
        self.shortcut: Callable[[Tensor], Tensor]
        if block.downsample is not None:
            self.shortcut = _FusedConv(block.downsample[0], relu=False)
        else:  # what enters a stage may be asked for itself, and must not be written on
            self.shortcut = torch.clone if first else nn.Identity()

    def forward(self, maps: Tensor) -> Tensor:
        return self.last.add_to(self.shortcut(maps), self.convs(maps))


def can_fuse(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this torch, on this processor, has the operators for `dtype`, and they are right."""
    return device.type == "cpu" and _are_right(dtype)


@cache
def _are_right(dtype: torch.dtype) -> bool:
    generator = torch.Generator().manual_seed(0)

    def some(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    conv = nn.Conv2d(16, 16, 3, padding=1).requires_grad_(False).to(dtype)
    conv.weight.copy_(some(16, 16, 3, 3) / 12)
    maps, other = (some(2, 16, 5, 5).to(memory_format=torch.channels_last) for _ in range(2))
    try:
        with torch.no_grad():
            one = torch.relu(conv(maps))
            two = torch.relu(conv(maps) + other)
            fused = _FusedConv(conv, relu=True)
            return torch.allclose(fused(maps), one, 0.05, 0.05) and torch.allclose(
                fused.add_to(other.clone(), maps), two, 0.05, 0.05
            )
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):
        return False


def _onednn() -> Any:
    return torch.ops.mkldnn
