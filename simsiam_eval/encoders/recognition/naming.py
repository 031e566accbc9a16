"""How toolkits name the weights of a ResNet trunk: a table of rules that translate their keys to torchvision's."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

# Key components added by DistributedDataParallel, AveragedModel, torch.compile, FSDP, DeepSpeed and checkpointing of
# activations, at any depth; removed before keys are compared.
WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")

_STATISTIC = r"(weight|bias|running_mean|running_var|num_batches_tracked)"


@dataclass(frozen=True)
class Naming:
    """One way to name the weights of a trunk.

    Attributes:
        name: as reported.
        anchor: regular expression that finds a trunk by one of its keys; the group `prefix` is what precedes all keys.
        translate: (the rest of a key after the prefix, the anchor's match) -> torchvision's key; None: not in a trunk.
        elsewhere: start of keys of the trunk that are not under the prefix.
        without_statistics: whether scale and bias of batch normalization already have mean and variance in them.
    """

    name: str
    anchor: re.Pattern[str]
    translate: Callable[[str, re.Match[str]], str | None]
    elsewhere: str = "\0"
    without_statistics: bool = False


# Keys with these names belong to the trunk even if torchvision's ResNets do not have them: such a trunk is another network.
_OF_TRUNK = re.compile(r"(?:stem|conv|bn|gn|norm|layer|attnpool|blur)\d*\.")


def _torchvision(rest: str, anchor: re.Match[str]) -> str | None:
    if not _OF_TRUNK.match(rest):
        return None
    # maskrcnn-benchmark's stem; kuangliu/pytorch-cifar's and lightly's shortcut.
    rest = re.sub(rf"^stem\.(conv1\.weight|bn1\.{_STATISTIC})$", r"\1", rest)
    return re.sub(r"^(layer\d+\.\d+\.)shortcut\.", r"\1downsample.", rest)


def _sequential(rest: str, anchor: re.Match[str]) -> str | None:
    """nn.Sequential of a ResNet's children: the index of layer1 depends on what is between it and bn1."""
    index, _, inside = rest.partition(".")
    if not index.isdigit():
        return None
    first = int(anchor["layer1"])
    if index == "0":
        return f"conv1.{inside}"
    if index == "1":
        return f"bn1.{inside}"
    if int(index) in range(first, first + 4):
        return f"layer{int(index) - first + 1}." + re.sub(r"^(\d+\.)shortcut\.", r"\1downsample.", inside)
    return None


def _detectron2(rest: str, anchor: re.Match[str]) -> str | None:
    rest = rest.removeprefix("roi_heads.")  # the box head of C4 detectors holds the last stage
    if rest in ("stem.conv1.weight", "stem.conv1.bias"):
        return rest.removeprefix("stem.")
    if rest.startswith("stem.conv1.norm."):
        return "bn1." + rest.removeprefix("stem.conv1.norm.")
    match = re.fullmatch(rf"res([2-5])\.(\d+)\.(conv\d|shortcut)\.(norm\.)?{_STATISTIC}", rest)
    if match is None:
        return f"layer.{rest}" if re.match(r"res\d\.\d", rest) else None
    stage, block, module, norm, statistic = match.groups()
    inside = (
        f"downsample.{1 if norm else 0}" if module == "shortcut" else module.replace("conv", "bn") if norm else module
    )
    return f"layer{int(stage) - 1}.{block}.{inside}.{statistic}"


def _transformers(rest: str, anchor: re.Match[str]) -> str | None:
    match = re.fullmatch(rf"embedder\.embedder\.(convolution|normalization)\.{_STATISTIC}", rest)
    if match:
        return f"{'conv1' if match[1] == 'convolution' else 'bn1'}.{match[2]}"
    match = re.fullmatch(
        rf"encoder\.stages\.(\d)\.layers\.(\d+)\.(shortcut|layer\.\d)\.(convolution|normalization)\.{_STATISTIC}", rest
    )
    if match is None:
        return f"layer.{rest}" if rest.startswith(("embedder.", "encoder.")) else None
    stage, block, module, kind, statistic = match.groups()
    if module == "shortcut":
        inside = f"downsample.{0 if kind == 'convolution' else 1}"
    else:
        inside = ("conv" if kind == "convolution" else "bn") + str(int(module.removeprefix("layer.")) + 1)
    return f"layer{int(stage) + 1}.{block}.{inside}.{statistic}"


# Letters of the convolutions in a block, and statistics, as facebookresearch/Detectron has them.
_CAFFE2_MODULES = {"branch1": ("downsample.0", "downsample.1")} | {
    f"branch2{letter}": (f"conv{number}", f"bn{number}") for number, letter in enumerate("abc", 1)
}
_CAFFE2_NORM = {"s": "weight", "b": "bias"}


def _caffe2(rest: str, anchor: re.Match[str]) -> str | None:
    """MSRA's ImageNet models and Detectron's detectors; Detectron adds no bias to convolutions, not even `conv1_b`."""
    if rest == "conv1_w":
        return "conv1.weight"
    match = re.fullmatch(r"res_conv1_bn_([sb])", rest)
    if match:
        return f"bn1.{_CAFFE2_NORM[match[1]]}"
    match = re.fullmatch(r"res([2-5])_(\d+)_(branch1|branch2[abc])_(w|bn_[sb])", rest)
    if match is None:
        return f"layer.{rest}" if re.match(r"res[2-5]_\d+_branch\w+_(?!b$|\w*momentum$)", rest) else None
    stage, block, module, kind = match.groups()
    convolution, norm = _CAFFE2_MODULES[module]
    inside = f"{convolution}.weight" if kind == "w" else f"{norm}.{_CAFFE2_NORM[kind[-1]]}"
    return f"layer{int(stage) - 1}.{block}.{inside}"


NAMINGS = (
    Naming(  # with timm's convolutions that are a module of several layers
        "torchvision",
        re.compile(r"(?P<prefix>(?:.*\.)?)layer1\.0\.conv1\.(?:paths\.0\.)?(?:conv\.)?weight"),
        _torchvision,
    ),
    Naming("sequential", re.compile(r"(?P<prefix>(?:.*\.)?)(?P<layer1>[2-4])\.0\.conv1\.weight"), _sequential),
    Naming("detectron2", re.compile(r"(?P<prefix>(?:.*\.)?)res2\.0\.conv1\.weight"), _detectron2, "roi_heads.res5."),
    Naming(
        "transformers",
        re.compile(r"(?P<prefix>(?:.*\.)?)encoder\.stages\.0\.layers\.0\.layer\.0\.convolution\.weight"),
        _transformers,
    ),
    Naming("caffe2", re.compile(r"(?P<prefix>(?:.*\.)?)res2_0_branch2a_w"), _caffe2, without_statistics=True),
)


def plain(key: str) -> str:
    """A key without the components that wrappers add.

    >>> plain("module.encoder._orig_mod.conv1.weight")
    'encoder.conv1.weight'
    """
    return ".".join(part for part in key.split(".") if part not in WRAPPERS)
