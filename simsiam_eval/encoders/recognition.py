"""Recognize a checkpoint's family, architecture and stem from its keys and shapes alone."""

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from simsiam_eval.encoders.architectures import ARCHITECTURES, BASIC, BOTTLENECK
from simsiam_eval.encoders.encoder import build_trunk
from simsiam_eval.encoders.families import BARE, CONTAINERS, FAMILIES, WRAPPERS, Family
from simsiam_eval.errors import DataError
from simsiam_eval.vocabulary import STEMS
from simsiam_eval.wording import first_few

Shape = tuple[int, ...]

_STEM_OF: dict[Shape, str] = {(64, 3, 7, 7): "imagenet", (64, 3, 3, 3): "cifar"}
_TRUNK_KEY = re.compile(r"(conv1|bn1|layer[1-4]\.\d+)\.")
_TRUNK_START = re.compile(r"(.*?)(?:layer[1-4]\.\d+\.|(?:conv1|bn1)\.weight$)")
_TRANSFORMER_KEY = re.compile(r"(^|\.)(patch_embed|cls_token|class_token|pos_embed)(\.|$)")


@dataclass(frozen=True)
class Match:
    """What was recognized in a state dict.

    Attributes:
        family, arch, stem: of the encoder.
        loaded: key in the checkpoint -> torchvision's key in the trunk.
        skipped: key in the checkpoint -> why it is not loaded.
        projector, predictor: widths of their linear layers from input to output; None if absent.
    """

    family: Family
    arch: str
    stem: str
    loaded: dict[str, str]
    skipped: dict[str, str]
    projector: list[int] | None
    predictor: list[int] | None


def find_container(checkpoint: Mapping[Any, Any], where: str) -> tuple[str, Mapping[Any, Any], dict[str, str]]:
    """The state dict in a checkpoint's content.

    Args:
        checkpoint: the content of the file.
        where: the start of an error message, such as the file's path.

    Returns:
        The container's name, the state dict in it, and the other containers with the reason why they are not used.

    Raises:
        DataError: there are no weights in the checkpoint.
    """

    def has_weights(value: object) -> bool:
        return isinstance(value, Mapping) and any(isinstance(entry, torch.Tensor) for entry in value.values())

    containers = [(name, reason) for name, reason in CONTAINERS if has_weights(checkpoint.get(name))]
    if containers:
        name = containers[0][0]
        return name, checkpoint[name], dict(containers[1:])
    if has_weights(checkpoint) and not any(isinstance(checkpoint.get(name), Mapping) for name, _ in CONTAINERS):
        return BARE, checkpoint, {}
    raise DataError(f"{where} {_no_weights(checkpoint)}")


def _no_weights(checkpoint: Mapping[Any, Any]) -> str:
    """What a checkpoint without weights contains instead, and what was expected."""
    later = "expected model weights. Give a checkpoint written after training."
    for name, _ in CONTAINERS:
        content = checkpoint.get(name)
        if isinstance(content, Mapping):
            if not content:
                return f"has an empty {name}; {later}"
            inside = first_few(map(str, content))
            return f"has no weights in {name}, only {inside}; save the model's own state dict there."
    if not checkpoint:
        return f"is an empty state dict; {later}"
    if "optimizer" in checkpoint or {"state", "param_groups"} <= set(checkpoint):
        return "has an optimizer's state and no weights; give the checkpoint that has the model's weights."
    return f"has no weights, only {first_few(map(str, checkpoint))}; give a file with a model's state dict."


def match_state_dict(shapes: Mapping[str, Shape], where: str) -> Match:
    """Recognize family, architecture and stem of a state dict.

    Every key and shape of the trunk must be present, and no others; only `num_batches_tracked` may be missing.

    Args:
        shapes: key -> shape of its tensor.
        where: the start of an error message, such as the file's path.

    Raises:
        DataError: there is no encoder of a known family, or not a complete one of a known architecture.

    >>> match = match_state_dict({f"module.{key}": s for key, s in trunk_shapes("resnet18", "cifar").items()}, "a.pt")
    >>> match.family.name, match.arch, match.stem, match.loaded["module.conv1.weight"]
    ('torchvision', 'resnet18', 'cifar', 'conv1.weight')
    """
    plain_keys = {key: ".".join(part for part in key.split(".") if part not in WRAPPERS) for key in shapes}
    family = _choose_family(list(plain_keys.values()), where)
    loaded: dict[str, str] = {}
    skipped: dict[str, str] = {}
    heads: dict[str, dict[str, Shape]] = {"projector": {}, "predictor": {}}
    for key, plain_key in plain_keys.items():
        part, detail = family.classify(plain_key)
        if part == "trunk":
            loaded[key] = detail
        else:
            skipped[key] = detail
            heads.get(part, {})[plain_key] = shapes[key]
    trunk = {trunk_key: shapes[key] for key, trunk_key in loaded.items()}
    if len(trunk) < len(loaded):
        raise DataError(
            f"{where} has the same encoder key twice, with and without {' or '.join(WRAPPERS)}; "
            "save the state dict of one model."
        )
    arch, stem = recognize_trunk(trunk, where, family.trunk)
    return Match(
        family, arch, stem, loaded, skipped, _layer_widths(heads["projector"]), _layer_widths(heads["predictor"])
    )


def recognize_trunk(trunk: Mapping[str, Shape], where: str, prefix: str = "") -> tuple[str, str]:
    """(arch, stem) of a trunk; every key and shape is verified.

    Args:
        trunk: torchvision's key -> shape of its tensor.
        where: the start of an error message, such as the file's path.
        prefix: put before the keys listed in an error message.

    Raises:
        DataError: this is not a complete trunk of a known architecture.
    """
    signature = _signature(trunk)
    arch = next((name for name, known in ARCHITECTURES.items() if known == signature), None)
    stem = _STEM_OF.get(trunk.get("conv1.weight", ()))
    if arch is None or stem is None:
        near_arch, near_stem = _nearest(trunk, [arch] if arch else ARCHITECTURES, [stem] if stem else STEMS)
    else:
        near_arch, near_stem = arch, stem
    differences = _differences(trunk, trunk_shapes(near_arch, near_stem), prefix)
    if not differences:
        return near_arch, near_stem
    compared = f"{near_arch} with the {near_stem} stem: {', '.join(differences)}"
    if arch is None and signature is not None and all(signature[1]):
        block, blocks, groups, width = signature
        raise DataError(
            f"{where} has an unknown architecture ({block} blocks {blocks}, groups {groups}, width {width}), "
            f"nearest to {compared}. Supported: {', '.join(ARCHITECTURES)}."
        )
    raise DataError(
        f"{where} does not have a complete encoder. Compared with {compared}. Expected a complete checkpoint of "
        f"one of {', '.join(ARCHITECTURES)}."
    )


def _differences(trunk: Mapping[str, Shape], expected: Mapping[str, Shape], prefix: str) -> list[str]:
    """How a trunk differs from the expected keys and shapes, for a message; [] if it does not."""
    missing = [prefix + key for key in expected if key not in trunk and not key.endswith("num_batches_tracked")]
    extra = [prefix + key for key in trunk if key not in expected]
    mismatched = [
        f"{prefix}{key} is {trunk[key]}, not {shape}"
        for key, shape in expected.items()
        if trunk.get(key, shape) != shape
    ]
    differences = []
    if missing:
        differences.append(f"{len(missing)} of {len(expected)} keys are missing ({first_few(missing)})")
    if extra:
        differences.append(f"{len(extra)} keys are unexpected ({first_few(extra)})")
    if mismatched:
        differences.append(f"{len(mismatched)} shapes do not match ({first_few(mismatched)})")
    return differences


@functools.cache
def trunk_shapes(arch: str, stem: str) -> Mapping[str, Shape]:
    """torchvision's key -> shape for every tensor of a trunk, in the model's order, without allocating weights."""
    with torch.device("meta"):
        return {key: tuple(tensor.shape) for key, tensor in build_trunk(arch, stem).state_dict().items()}


def _choose_family(keys: list[str], where: str) -> Family:
    """The family whose prefix matches the most trunk keys; ties go to the family with the fewest unexplained keys."""

    def score(family: Family) -> tuple[int, int]:
        parts = [family.classify(key) for key in keys]
        trunk_keys = sum(part == "trunk" and _TRUNK_KEY.match(detail) is not None for part, detail in parts)
        return trunk_keys, -sum(part == "unknown" for part, _ in parts)

    family = max(FAMILIES, key=score)
    if score(family)[0]:
        return family
    if any(_TRANSFORMER_KEY.search(key) for key in keys):
        raise DataError(
            f"{where} has a vision transformer, an unknown architecture. Supported: {', '.join(ARCHITECTURES)}."
        )
    starts = [match.group(1) for match in map(_TRUNK_START.match, keys) if match]
    starts = starts or [key.split(".")[0] + "." if "." in key else key for key in keys]
    known = ", ".join(f"{family.name} ({family.trunk or 'no prefix'})" for family in FAMILIES)
    raise DataError(
        f"{where} has no encoder under a known prefix: its keys start with {first_few(dict.fromkeys(starts), 6)}. "
        f"Rename them to match a supported family: {known}."
    )


def _signature(trunk: Mapping[str, Shape]) -> tuple[str, Shape, int, int] | None:
    """(block, blocks in layer1..layer4, groups, width per group) as in ARCHITECTURES; None if a key is missing."""
    blocks = tuple(
        len({key.split(".")[1] for key in trunk if key.startswith(f"layer{stage}.")}) for stage in (1, 2, 3, 4)
    )
    block = BOTTLENECK if any(key.endswith(".conv3.weight") for key in trunk) else BASIC
    # The convolution that may be grouped: weight (groups * width, width, 3, 3).
    shape = trunk.get("layer1.0.conv2.weight", ())
    if len(shape) != 4 or shape[1] == 0:
        return None
    return block, blocks, shape[0] // shape[1], shape[1]


def _nearest(trunk: Mapping[str, Shape], archs: Iterable[str], stems: Iterable[str]) -> tuple[str, str]:
    """The (arch, stem) that shares the most keys and shapes; ties go to the one with the fewest missing."""

    def similarity(candidate: tuple[str, str]) -> tuple[int, int]:
        expected = trunk_shapes(*candidate)
        return sum(expected.get(key) == shape for key, shape in trunk.items()), -len(expected)

    return max(((arch, stem) for arch in archs for stem in stems), key=similarity)


def _layer_widths(head: Mapping[str, Shape]) -> list[int] | None:
    """[input, ..., output] of a head's linear layers, sorted by index; None if there are none."""

    def order(key: str) -> list[tuple[int, str]]:
        return [(int(part), "") if part.isdigit() else (-1, part) for part in key.split(".")]

    linear = [head[key] for key in sorted(head, key=order) if key.endswith("weight") and len(head[key]) == 2]
    return [linear[0][1], *(shape[0] for shape in linear)] if linear else None
