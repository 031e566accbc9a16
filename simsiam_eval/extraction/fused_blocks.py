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
_ONEDNN: Any = torch.ops.mkldnn
# Of ReLU's negative side: oneDNN's own ReLU makes 0 of NaN, so that an overflow would end in finite features.
_SLOPE = 1e-20


def fuse_blocks(trunk: ResNet) -> None:
    """Replace the blocks and the stem of a trunk, its batch normalizations folded, by fused ones, in place.

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
        self.conv, self._relu = conv, relu
        self._geometry = (conv.padding, conv.stride, conv.dilation, conv.groups)
        self._ordered: tuple[torch.Size, Tensor] | None = None

    def forward(self, maps: Tensor) -> Tensor:
        then = ("leaky_relu", [_SLOPE], "") if self._relu else ("none", [], "")
        found: Tensor = _ONEDNN._convolution_pointwise(maps, self._weight(maps), self.conv.bias, *self._geometry, *then)
        return found

    def add_to(self, other: Tensor, maps: Tensor) -> Tensor:
        """ReLU of `other` + the convolution of `maps`, in the place of `other`."""
        found: Tensor = _ONEDNN._convolution_pointwise_.binary(
            other, maps, self._weight(maps), self.conv.bias, *self._geometry, "add", 1.0, None, [], None
        )
        return found.relu_()

    def _weight(self, maps: Tensor) -> Tensor:
        """In the order that oneDNN's kernel for maps of this shape reads."""
        ordered = self._ordered  # another thread may put another in its place
        if ordered is None or ordered[0] != maps.shape:
            weight = _ONEDNN._reorder_convolution_weight(self.conv.weight, *self._geometry, list(maps.shape))
            ordered = self._ordered = (maps.shape, weight)
        return ordered[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_ordered": None}  # oneDNN's own tensors are neither copied nor pickled


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


def can_fuse(device: torch.device, precision: str) -> bool:
    """Whether this torch has the operators for this processor and `precision`, and small convolutions come out right."""
    return device.type == "cpu" and _are_right(torch.bfloat16 if precision == "bf16" else torch.float32)


@cache
def _are_right(dtype: torch.dtype) -> bool:
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.default_generator.manual_seed(0)  # the CPU only
            return all(
                _is_right(nn.Conv2d(16, 16, side, stride, side // 2, groups=groups), dtype)
                for side, stride, groups in ((1, 1, 1), (1, 2, 1), (3, 1, 1), (3, 2, 4), (7, 2, 1))
            )
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):
        return False


def _is_right(conv: nn.Conv2d, dtype: torch.dtype) -> bool:
    """Both operators, NaN too: an overflow must be seen."""
    conv = conv.to(dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    maps = torch.randn(2, 16, 9, 9).to(dtype, memory_format=torch.channels_last)
    maps[1, 3, 4, 4] = torch.nan
    plain, fused = conv(maps), _FusedConv(conv, relu=True)
    other = torch.randn(plain.shape).to(dtype, memory_format=torch.channels_last)
    pairs = ((fused(maps), plain.relu()), (fused.add_to(other.clone(), maps), (plain + other).relu()))
    return all(torch.allclose(found, wanted, 0.05, 0.05, equal_nan=True) for found, wanted in pairs)
