"""The supported architectures and the widths of their layers. Does not import torch."""

BASIC, BOTTLENECK = "basic", "bottleneck"

# torchvision's name: (residual block, blocks in layer1..layer4, groups, width per group). He et al. 2015,
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
}


def feature_width(arch: str, layer: str = "pool") -> int:
    """Number of channels D of the output of `layer`.

    >>> feature_width("resnet50"), feature_width("resnet18", "layer2"), feature_width("resnet50", "stem")
    (2048, 128, 64)
    """
    if layer == "stem":
        return 64
    stage = 4 if layer == "pool" else int(layer.removeprefix("layer"))
    expansion = 4 if ARCHITECTURES[arch][0] == BOTTLENECK else 1
    return 64 * 2 ** (stage - 1) * expansion
