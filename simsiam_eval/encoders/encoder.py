"""Encoders: the interface of all, from images to features, and those with the ResNets of torchvision."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from simsiam_eval.encoders.architectures import ARCHITECTURES, BASIC, TRUNK, TrunkVariant, feature_width, stem_width
from simsiam_eval.encoders.resnet import Bottleneck, ResNet, initialize_convolution
from simsiam_eval.errors import UsageError
from simsiam_eval.vocabulary import LAYERS, MAP_POOLINGS, POOLINGS, STEMS


def _reject_unknown(what: str, name: str, choices: Sequence[str]) -> None:
    if name not in choices:
        raise UsageError(f"Unknown {what} {name!r}; expected one of {', '.join(choices)}.")


def build_trunk(
    arch: str, stem: str = "imagenet", zero_init_residual: bool = False, variant: TrunkVariant = TRUNK
) -> ResNet:
    """A freshly initialized ResNet, whose `fc` is `nn.Identity()`.

    Args:
        arch: a name in ARCHITECTURES.
        stem: "imagenet" (torchvision's: 7x7 convolution with stride 2, max pooling) or "cifar" (for 32-pixel images: 3x3
            convolution with stride 1, no max pooling; He et al. 2015, section 4.2).
        zero_init_residual: initialize the last batch normalization of each block to zero, as SimSiam's pretraining does.
        variant: differences from torchvision's.

    Raises:
        UsageError: unknown `arch` or `stem`, or a variant that does not fit them.

    >>> build_trunk("resnet18", stem="cifar")(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 512])
    """
    _reject_unknown("architecture", arch, tuple(ARCHITECTURES))
    _reject_unknown("stem", stem, STEMS)
    full = variant.completed(stem)
    if full.output_stride != 32 and ARCHITECTURES[arch][0] == BASIC:
        raise UsageError(
            f"Output stride {full.output_stride} cannot be used with {arch}, which has no bottleneck blocks."
        )
    trunk = ResNet(arch, full.output_stride, zero_init_residual)
    trunk.fc = nn.Identity()
    if stem == "cifar" or full.channels != 3:
        kernel = 3 if stem == "cifar" else 7
        trunk.conv1 = nn.Conv2d(full.channels, stem_width(arch), kernel, bias=False)
        initialize_convolution(trunk.conv1)
    assert full.stem_stride is not None and full.stem_padding is not None
    trunk.conv1.stride, trunk.conv1.padding = (full.stem_stride,) * 2, (full.stem_padding,) * 2
    if not full.stem_pool:
        trunk.maxpool = nn.Identity()
    if not full.stem_relu:
        trunk.relu = nn.Identity()
    if full.stride_in_1x1:
        _move_strides(trunk)
    return trunk


def _move_strides(trunk: ResNet) -> None:
    """Move the strides of bottleneck blocks from the 3x3 convolution to the 1x1 convolution before it, in place."""
    for block in trunk.modules():
        if isinstance(block, Bottleneck):
            block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride


class Encoder(nn.Module):
    """Images (B, C, H, W) float -> features (B, D) of the images' dtype, where D is `width`; the interface of all encoders.

    Attributes:
        trunk: the network, whose state dict holds the encoder's weights.
        arch: torchvision's name of a ResNet, `timm:NAME`, or `hf:CLASS` of transformers.
        stem: "imagenet" or "cifar"; None if the trunk is not a ResNet of torchvision.
        layers: "stem", "layer1" to "layer4" or "pool"; the first is the output, and `all_layers` returns all of them from
            one forward pass.
        pooling: a name in POOLINGS, not "auto".
        variant: how a ResNet differs from torchvision's.
    """

    trunk: nn.Module
    arch: str
    stem: str | None
    layers: tuple[str, ...]
    pooling: str
    variant: TrunkVariant

    @property
    def width(self) -> int:
        """Number of features D for an image, known without a forward pass."""
        return self.widths[0]

    @property
    def widths(self) -> tuple[int, ...]:
        """D of each of `layers`."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) -> features (B, `width`)."""
        return self.all_layers(images)[0]

    def all_layers(self, images: Tensor, pool_in: torch.dtype | None = None) -> tuple[Tensor, ...]:
        """Images (B, C, H, W) -> features (B, D) of each of `layers`, in one pass.

        Args:
            pool_in: dtype of the pooling, where the trunk does not contain it; default: that of the feature maps.
        """
        raise NotImplementedError


def checked_layers(layer: str | Sequence[str]) -> tuple[str, ...]:
    """The layers of an encoder.

    Raises:
        UsageError: none, an unknown one, or one that is given twice.
    """
    layers = (layer,) if isinstance(layer, str) else tuple(layer)
    for name in layers:
        _reject_unknown("layer", name, LAYERS)
    if len(set(layers)) < len(layers) or not layers:
        raise UsageError(f"Expected one or more different layers, got {', '.join(layers) or 'none'}.")
    return layers


def checked_pooling(pooling: str, fitting: Sequence[str], arch: str, default: str) -> str:
    """The pooling of an encoder; "auto" is `default`.

    Args:
        fitting: the poolings that fit the architecture `arch`.

    Raises:
        UsageError: the pooling is unknown or does not fit.
    """
    _reject_unknown("pooling", pooling, POOLINGS)
    chosen = default if pooling == "auto" else pooling
    if chosen not in fitting:
        raise UsageError(f"--pool {chosen} cannot be used with {arch}; expected one of {', '.join(fitting)}.")
    return chosen


class ResNetEncoder(Encoder):
    """A ResNet of torchvision, or a variant of one.

    Args:
        trunk: from `build_trunk`, with `arch` and `stem`.
        arch: a name in ARCHITECTURES.
        stem: "imagenet" or "cifar".
        layer: "stem" (the input of layer1), "layer1" to "layer4", or "pool"; later layers are not computed.
        pooling: over spatial positions, "avg" (also "auto") or "max". "pool" with "avg" is the trunk's average pooling
            (pool5), "pool" with "max" is the maximum over layer4.
        variant: of the trunk.

    Raises:
        UsageError: unknown `arch`, `stem`, layer or `pooling`, or a layer given twice.

    >>> encoder = ResNetEncoder(build_trunk("resnet18"), "resnet18", "imagenet", layer="layer2")
    >>> encoder.width, encoder(torch.zeros(2, 3, 64, 64)).shape
    (128, torch.Size([2, 128]))
    """

    trunk: ResNet
    stem: str

    def __init__(
        self,
        trunk: ResNet,
        arch: str,
        stem: str,
        layer: str | Sequence[str] = "pool",
        pooling: str = "auto",
        variant: TrunkVariant = TRUNK,
    ) -> None:
        super().__init__()
        _reject_unknown("architecture", arch, tuple(ARCHITECTURES))
        _reject_unknown("stem", stem, STEMS)
        self.trunk = trunk
        self.arch, self.stem, self.layers, self.variant = arch, stem, checked_layers(layer), variant
        self.pooling = checked_pooling(pooling, MAP_POOLINGS, arch, "avg")

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(feature_width(self.arch, layer) for layer in self.layers)

    def all_layers(self, images: Tensor, pool_in: torch.dtype | None = None) -> tuple[Tensor, ...]:
        stages = ["layer4" if layer == "pool" else layer for layer in self.layers]
        maps = _feature_maps(self.trunk, images, stages)
        if pool_in is not None:
            maps = {stage: stage_maps.to(pool_in) for stage, stage_maps in maps.items()}
        return tuple(self._pooled(maps[stage], layer) for stage, layer in zip(stages, self.layers, strict=True))

    def _pooled(self, maps: Tensor, layer: str) -> Tensor:
        if self.pooling == "max":
            return torch.amax(maps, dim=(2, 3))
        pooled: Tensor = self.trunk.avgpool(maps) if layer == "pool" else maps.mean(dim=(2, 3))
        return pooled.flatten(1)


def require_resnet(encoder: Encoder, checkpoint: str, task: str) -> ResNetEncoder:
    """The encoder, for a task that only ResNets of torchvision have the structure for.

    Raises:
        UsageError: it is another encoder.
    """
    if not isinstance(encoder, ResNetEncoder):
        raise UsageError(not_a_resnet(checkpoint, encoder.arch, task))
    return encoder


def not_a_resnet(checkpoint: str, arch: str, task: str) -> str:
    """The message for an encoder that a task cannot use."""
    return f"{checkpoint} has the architecture {arch}; {task} requires a ResNet of torchvision, such as resnet50."


def pooled_features(trunk: ResNet, images: Tensor) -> Tensor:
    """Images (B, 3, H, W) -> (B, D): the trunk's average pooling, the input of its `fc`."""
    pooled: Tensor = trunk.avgpool(_feature_maps(trunk, images, ["layer4"])["layer4"])
    return pooled.flatten(1)


def _feature_maps(trunk: ResNet, images: Tensor, stages: Sequence[str]) -> dict[str, Tensor]:
    """The outputs (B, C, h, w) of the given stages ("stem", "layer1" to "layer4"); later stages are not computed."""
    maps: Tensor = trunk.maxpool(trunk.relu(trunk.bn1(trunk.conv1(images))))
    outputs = {"stem": maps}
    for name in LAYERS[1 : 1 + max(map(LAYERS.index, stages))]:
        maps = outputs[name] = getattr(trunk, name)(maps)
    return {name: outputs[name] for name in stages}
