"""The encoder's weights under detectron2's names: a table of exact rules, and the proof by numbers that they are right."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from simsiam_eval.encoders.architectures import ARCHITECTURES, BASIC
from simsiam_eval.encoders.encoder import Encoder
from simsiam_eval.encoders.families import some, trunk_shapes
from simsiam_eval.errors import DataError, UsageError

# torchvision's key, whole, -> detectron2's, in the table's order; {stage} is the number of the layer plus one.
RULES: tuple[tuple[str, str], ...] = (
    (r"conv1\.weight", "stem.conv1.weight"),
    (r"bn1\.(?P<what>\w+)", "stem.conv1.norm.{what}"),
    (r"layer(?P<layer>\d)\.(?P<block>\d+)\.conv(?P<conv>\d)\.weight", "res{stage}.{block}.conv{conv}.weight"),
    (r"layer(?P<layer>\d)\.(?P<block>\d+)\.bn(?P<conv>\d)\.(?P<what>\w+)", "res{stage}.{block}.conv{conv}.norm.{what}"),
    (r"layer(?P<layer>\d)\.(?P<block>\d+)\.downsample\.0\.weight", "res{stage}.{block}.shortcut.weight"),
    (r"layer(?P<layer>\d)\.(?P<block>\d+)\.downsample\.1\.(?P<what>\w+)", "res{stage}.{block}.shortcut.norm.{what}"),
)
NO_CIFAR_STEM = "detectron2's ResNets have a 7x7 stem, and this encoder has the 3x3 one of CIFAR: use {} torchvision."
TOLERANCE = 1e-4


def detectron2_keys(keys: Mapping[str, Any], heads: str, rules: tuple[tuple[str, str], ...] = RULES) -> dict[str, str]:
    """torchvision's key -> the key in a detectron2 detector with these heads (c4, fpn), for every key.

    At C4 the last stage is part of the heads.

    Raises:
        DataError: a key that no rule knows, or two that become one.

    >>> detectron2_keys({"layer4.0.bn2.weight": 0}, "c4"), detectron2_keys({"conv1.weight": 0}, "fpn")
    ({'layer4.0.bn2.weight': 'roi_heads.res5.0.conv2.norm.weight'}, {'conv1.weight': 'backbone.bottom_up.stem.conv1.weight'})
    """
    named, unknown = {}, []
    for key in keys:
        name = next((_renamed(match, new) for old, new in rules if (match := re.fullmatch(old, key))), None)
        if name is None:
            unknown.append(key)
        else:
            trunk = "backbone." if heads == "c4" else "backbone.bottom_up."
            named[key] = ("roi_heads." if heads == "c4" and name.startswith("res5.") else trunk) + name
    if unknown or not named:
        raise DataError(
            f"No detectron2 name is known for {some(unknown) or 'an empty set of keys'}: nothing is converted."
        )
    if len(set(named.values())) < len(named):
        twice = [key for key, name in named.items() if list(named.values()).count(name) > 1]
        raise DataError(f"Keys would become one in detectron2 ({some(twice)}): nothing is converted.")
    return named


def _renamed(match: re.Match[str], new: str) -> str:
    parts = match.groupdict()
    return new.format(**parts, stage=int(parts.get("layer") or 0) + 1)


def detectron2_weights(encoder: Encoder, heads: str, rules: tuple[tuple[str, str], ...] = RULES) -> dict[str, Tensor]:
    """The encoder's weights, all of them, under their names in a detectron2 detector with these heads.

    Raises:
        UsageError: the stem is CIFAR's. DataError: a key without a name, or a name that another architecture has.
    """
    if encoder.stem != "imagenet":
        raise UsageError(NO_CIFAR_STEM.format("--to"))
    state = encoder.trunk.state_dict()
    expected = trunk_shapes(encoder.arch, encoder.stem)
    odd = [key for key in expected if key not in state or tuple(state[key].shape) != expected[key]]
    if odd or len(state) != len(expected):
        raise DataError(
            f"The encoder is not a whole {encoder.arch} ({some(odd) or 'keys too many'}): nothing is converted."
        )
    return {name: state[key].detach().cpu() for key, name in detectron2_keys(state, heads, rules).items()}


def architecture_values(arch: str) -> dict[str, Any]:
    """MODEL.RESNETS of a detectron2 config."""
    block, blocks, groups, width = ARCHITECTURES[arch]
    basic = block == BASIC
    return {
        "DEPTH": (2 if basic else 3) * sum(blocks) + 2,
        "NUM_GROUPS": groups,
        "WIDTH_PER_GROUP": width,
        "RES2_OUT_CHANNELS": 64 if basic else 256,
        "STRIDE_IN_1X1": False,  # torchvision strides in the 3x3 convolution
    }


@torch.no_grad()
def largest_difference(encoder: Encoder, weights: Mapping[str, Tensor], model: Any, heads: str) -> float:
    """Largest absolute difference of res2 to res5 between torchvision's trunk and detectron2's with `weights`.

    It is a share of a map's largest value where that is above 1, and comes from random images. `model` is a detectron2
    detector; `weights` are loaded into it.

    Raises:
        DataError: weights and detector do not fit.
    """
    result = model.load_state_dict(dict(weights), strict=False)
    new = "roi_heads.res5.norm."  # the protocol's extra BN
    lost = [key for key in result.missing_keys if re.search(r"(stem\.|\.res\d\.)", key) and not key.startswith(new)]
    if result.unexpected_keys or lost:
        raise DataError(
            f"The converted weights do not fit the detector: not in it {some(result.unexpected_keys) or 'none'}, without "
            f"weights {some(lost) or 'none'}."
        )
    trunk = encoder.trunk.eval()
    device = next(trunk.parameters()).device
    model.eval().to(device)
    images = torch.randn(2, 3, 96, 128, generator=torch.Generator().manual_seed(0)).to(device)
    bottom = model.backbone if heads == "c4" else model.backbone.bottom_up
    ours = trunk.maxpool(trunk.relu(trunk.bn1(trunk.conv1(images))))
    theirs = bottom.stem(images)
    largest = _difference(ours, theirs)
    for stage in (1, 2, 3, 4):
        ours = getattr(trunk, f"layer{stage}")(ours)
        if heads == "c4" and stage == 4:
            blocks = (block for name, block in model.roi_heads.res5.named_children() if name != "norm")
        else:
            blocks = iter(getattr(bottom, f"res{stage + 1}"))
        for block in blocks:
            theirs = block(theirs)
        largest = max(largest, _difference(ours, theirs))
    return largest


def _difference(ours: Tensor, theirs: Tensor) -> float:
    if ours.shape != theirs.shape:
        return float("inf")
    return float((ours - theirs).abs().max() / max(1.0, float(ours.abs().max())))


def refuse_difference(largest: float) -> None:
    """Raises DataError where res2 to res5 differ by more than 1e-4."""
    if not largest <= TOLERANCE:
        raise DataError(
            f"detectron2's backbone and torchvision's trunk differ by {largest:.2g} in res2 to res5 on random images, more "
            f"than {TOLERANCE:g}: the config is not that of this encoder (STRIDE_IN_1X1 must be False), nothing is written."
        )
