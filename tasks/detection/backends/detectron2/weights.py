"""Convert the encoder's weights to detectron2's names with a table of exact rules."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from simsiam_eval.encoders.encoder import ResNetEncoder
from simsiam_eval.encoders.export.writer import cannot_rebuild, trunk_differences
from simsiam_eval.encoders.recognition.architecture import trunk_shapes
from simsiam_eval.errors import DataError
from simsiam_eval.wording import first_few

# Pattern of torchvision's whole key -> detectron2's key; the first match counts. {stage} is {layer} plus one.
RULES: tuple[tuple[str, str], ...] = (
    (r"conv1\.weight", "stem.conv1.weight"),
    (r"bn1\.(?P<what>\w+)", "stem.conv1.norm.{what}"),
    (r"layer(?P<layer>\d)\.(?P<block>\d+)\.conv(?P<conv>\d)\.weight", "res{stage}.{block}.conv{conv}.weight"),
    (r"layer(?P<layer>\d)\.(?P<block>\d+)\.bn(?P<conv>\d)\.(?P<what>\w+)", "res{stage}.{block}.conv{conv}.norm.{what}"),
    (r"layer(?P<layer>\d)\.(?P<block>\d+)\.downsample\.0\.weight", "res{stage}.{block}.shortcut.weight"),
    (r"layer(?P<layer>\d)\.(?P<block>\d+)\.downsample\.1\.(?P<what>\w+)", "res{stage}.{block}.shortcut.norm.{what}"),
)


# What detectron2's ResNets have an option for, as ResNetWriter.CARRIES.
CARRIES = frozenset({"stride_in_1x1"})


def unsupported_trunk(arch: str, stem: str, variant: Mapping[str, Any]) -> str | None:
    """Why detectron2's ResNets cannot be this trunk, as a sentence; None if they can.

    Args:
        arch: a name in ARCHITECTURES.
        stem: imagenet or cifar.
        variant: as from `TrunkVariant.to_dict`.
    """
    differences = trunk_differences(arch, stem, variant, CARRIES)
    return f"{cannot_rebuild('detectron2', differences)}; use --backend torchvision." if differences else None


def detectron2_keys(keys: Iterable[str], heads: str, rules: tuple[tuple[str, str], ...] = RULES) -> dict[str, str]:
    """torchvision's key -> the key in a detectron2 detector with these heads (c4, fpn), for every key.

    With C4 the last stage belongs to the heads.

    Raises:
        DataError: no rule matches a key, or two keys get the same name.

    >>> detectron2_keys(["layer4.0.bn2.weight"], "c4"), detectron2_keys(["conv1.weight"], "fpn")
    ({'layer4.0.bn2.weight': 'roi_heads.res5.0.conv2.norm.weight'}, {'conv1.weight': 'backbone.bottom_up.stem.conv1.weight'})
    """
    names: dict[str, str] = {}
    unknown = []
    for key in keys:
        name = next((_renamed(match, new) for old, new in rules if (match := re.fullmatch(old, key))), None)
        if name is None:
            unknown.append(key)
        else:
            trunk = "backbone." if heads == "c4" else "backbone.bottom_up."
            names[key] = ("roi_heads." if heads == "c4" and name.startswith("res5.") else trunk) + name
    if unknown or not names:
        raise DataError(
            f"No detectron2 name is known for {first_few(unknown) or 'an empty set of keys'}; nothing was converted."
        )
    if len(set(names.values())) < len(names):
        clashing = [key for key, name in names.items() if list(names.values()).count(name) > 1]
        raise DataError(f"Keys would get the same name in detectron2 ({first_few(clashing)}); nothing was converted.")
    return names


def _renamed(match: re.Match[str], new: str) -> str:
    parts = match.groupdict()
    return new.format(**parts, stage=int(parts.get("layer") or 0) + 1)


def detectron2_weights(
    encoder: ResNetEncoder, heads: str, rules: tuple[tuple[str, str], ...] = RULES
) -> dict[str, Tensor]:
    """All weights of the encoder, under their names in a detectron2 detector with these heads.

    Raises:
        DataError: a key has no name, or the encoder is not complete.
    """
    state = encoder.trunk.state_dict()
    expected = trunk_shapes(encoder.arch, encoder.stem)
    wrong = [key for key in expected if key not in state or tuple(state[key].shape) != expected[key]]
    if wrong or len(state) != len(expected):
        raise DataError(
            f"The encoder is not a complete {encoder.arch} ({first_few(wrong) or 'it has further keys'}); "
            "nothing was converted."
        )
    return {name: state[key].detach().cpu() for key, name in detectron2_keys(state, heads, rules).items()}
