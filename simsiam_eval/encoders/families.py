"""How checkpoints name the encoder's weights: the table of key rules, and what keys and shapes alone tell of a file.

To read one more toolkit's files, add a row to FAMILIES (and to CONTAINERS, if it keeps its weights elsewhere).
"""

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from simsiam_eval.encoders.architectures import ARCHITECTURES, BASIC, BOTTLENECK
from simsiam_eval.encoders.encoder import build_trunk
from simsiam_eval.errors import DataError
from simsiam_eval.vocabulary import STEMS

Shape = tuple[int, ...]

# Components that DistributedDataParallel and torch.compile put into keys, wherever they stand.
WRAPPERS = ("module", "_orig_mod")


@dataclass(frozen=True)
class Family:
    """How one toolkit names its keys, wrappers stripped; every prefix ends with a dot or is a whole key.

    `left` pairs a prefix with the reason why its keys are not taken. A prefix inside `trunk` (the projector that sits
    in the trunk's `fc`) wins over the trunk's.
    """

    name: str
    trunk: str
    projector: str | None = None
    predictor: str | None = None
    left: tuple[tuple[str, str], ...] = ()


FAMILIES = (
    # facebookresearch/simsiam's main_simsiam.py, and ours.
    Family("simsiam", trunk="encoder.", projector="encoder.fc.", predictor="predictor."),
    # Also the reference's and MoCo's main_lincls.py, under `module.`, and DINO's backbone-only files, without `fc`.
    Family("torchvision", trunk="", left=(("fc.", "the classifier"),)),
    Family(
        "moco",
        trunk="encoder_q.",
        projector="encoder_q.fc.",
        left=(
            ("encoder_k.", "the momentum encoder"),
            ("queue", "the queue of negatives"),
            ("queue_ptr", "the queue of negatives"),
        ),
    ),
    Family(
        "moco-v3",
        trunk="base_encoder.",
        projector="base_encoder.fc.",
        predictor="predictor.",
        left=(("momentum_encoder.", "the momentum encoder"),),
    ),
    Family("dino", trunk="backbone.", left=(("head.", "the projection head"),)),
)

# Where a file keeps its state dict, the preferred first, and what to say of those that are passed over for it.
CONTAINERS = (
    ("state_dict", "a second set of weights: `state_dict` is preferred"),
    ("model", "a second set of weights"),
    ("teacher", "the teacher network"),
    ("student", "the student network: the teacher, its average over the training, is preferred"),
)
BARE = "bare"  # the file is itself the state dict

_STEM_OF: dict[Shape, str] = {(64, 3, 7, 7): "imagenet", (64, 3, 3, 3): "cifar"}
_TRUNK_KEY = re.compile(r"(conv1|bn1|layer[1-4]\.\d+)\.")
_TRUNK_START = re.compile(r"(.*?)(?:layer[1-4]\.\d+\.|(?:conv1|bn1)\.weight$)")
_TRANSFORMER_KEY = re.compile(r"(^|\.)(patch_embed|cls_token|class_token|pos_embed)(\.|$)")


@dataclass(frozen=True)
class Match:
    """What keys and shapes tell: `taken` checkpoint key -> torchvision key of the trunk, `left` checkpoint key -> why.

    `projector` and `predictor` are the widths of their linear layers from input to output (None where there is none).
    """

    family: Family
    arch: str
    stem: str
    taken: dict[str, str]
    left: dict[str, str]
    projector: list[int] | None
    predictor: list[int] | None


def find_container(checkpoint: Mapping[Any, Any], where: str) -> tuple[str, Mapping[Any, Any], dict[str, str]]:
    """(name of the container, the state dict in it, container passed over -> why).

    Raises DataError, starting with `where`, where `checkpoint` holds no weights.
    """

    def has_weights(value: object) -> bool:
        return isinstance(value, Mapping) and any(isinstance(entry, torch.Tensor) for entry in value.values())

    found = [(name, why) for name, why in CONTAINERS if has_weights(checkpoint.get(name))]
    if found:
        name = found[0][0]
        return name, checkpoint[name], dict(found[1:])
    empty = [name for name, _ in CONTAINERS if isinstance(checkpoint.get(name), Mapping)]
    if empty and checkpoint[empty[0]]:
        inside = some(map(str, checkpoint[empty[0]]))
        raise DataError(f"{where} holds no weights in {empty[0]}, only {inside}: save the model's own state dict there")
    if empty:
        raise DataError(
            f"{where} holds an empty {empty[0]}, no weights: give a checkpoint that was written after training"
        )
    if has_weights(checkpoint):
        return BARE, checkpoint, {}
    if not checkpoint:
        raise DataError(
            f"{where} holds an empty state dict, no weights: give a checkpoint that was written after training"
        )
    if "optimizer" in checkpoint or {"state", "param_groups"} <= set(checkpoint):
        raise DataError(
            f"{where} holds an optimizer's state and no weights: give the checkpoint that holds the model's"
        )
    raise DataError(
        f"{where} holds no weights, only {some(map(str, checkpoint))}: give a file with a model's state dict"
    )


def match_state_dict(shapes: Mapping[str, Shape], where: str) -> Match:
    """Recognize family, architecture and stem of a state dict, given the shape of the tensor under each of its keys.

    Every key and shape of the trunk must be there, and no other; only `num_batches_tracked` may be missing.
    Raises DataError, starting with `where`, where no encoder is found, or not a whole one of a known architecture.

    >>> match = match_state_dict({f"module.{key}": s for key, s in trunk_shapes("resnet18", "cifar").items()}, "a.pt")
    >>> match.family.name, match.arch, match.stem, match.taken["module.conv1.weight"]
    ('torchvision', 'resnet18', 'cifar', 'conv1.weight')
    """
    plain = {key: ".".join(part for part in key.split(".") if part not in WRAPPERS) for key in shapes}
    family = _choose_family(plain.values(), where)
    taken: dict[str, str] = {}
    left: dict[str, str] = {}
    heads: dict[str, dict[str, Shape]] = {"projector": {}, "predictor": {}}
    for key, name in plain.items():
        part, detail = _place(family, name)
        if part == "trunk":
            taken[key] = detail
        else:
            left[key] = detail
            heads.get(part, {})[name] = shapes[key]
    trunk = {detail: shapes[key] for key, detail in taken.items()}
    if len(trunk) < len(taken):
        raise DataError(
            f"{where} holds the same encoder key twice, with and without {' or '.join(WRAPPERS)}: "
            "save one model's state dict"
        )
    arch, stem = recognize(trunk, where, family.trunk)
    return Match(family, arch, stem, taken, left, _layer_widths(heads["projector"]), _layer_widths(heads["predictor"]))


def recognize(trunk: Mapping[str, Shape], where: str, prefix: str = "") -> tuple[str, str]:
    """(arch, stem) of a trunk from its torchvision keys and their shapes, each of which is verified.

    `prefix` is put before the keys that an error lists. Raises DataError, starting with `where`, for anything but a
    whole trunk of a known architecture.
    """
    signature = _signature(trunk)
    arch = next((name for name, known in ARCHITECTURES.items() if known == signature), None)
    stem = _STEM_OF.get(trunk.get("conv1.weight", ()))
    if arch is None or stem is None:
        near_arch, near_stem = _nearest(trunk, [arch] if arch else ARCHITECTURES, [stem] if stem else STEMS)
    else:
        near_arch, near_stem = arch, stem
    expected = trunk_shapes(near_arch, near_stem)
    missing = [key for key in expected if key not in trunk and not key.endswith("num_batches_tracked")]
    extra = [key for key in trunk if key not in expected]
    wrong = [
        f"{prefix}{key} is {trunk[key]}, not {shape}"
        for key, shape in expected.items()
        if trunk.get(key, shape) != shape
    ]
    if not (missing or extra or wrong):
        return near_arch, near_stem
    faults = []
    if missing:
        faults.append(f"{len(missing)} of {len(expected)} keys are missing ({some(prefix + key for key in missing)})")
    if extra:
        faults.append(f"{len(extra)} keys are unexpected ({some(prefix + key for key in extra)})")
    if wrong:
        faults.append(f"{len(wrong)} shapes do not match ({some(wrong)})")
    compared = f"{near_arch} with the {near_stem} stem: {', '.join(faults)}"
    if arch is None and signature is not None and all(signature[1]):
        block, blocks, groups, width = signature
        raise DataError(
            f"{where} holds an unknown architecture ({block} blocks {blocks}, groups {groups}, width {width}), "
            f"nearest to {compared}; known are {', '.join(ARCHITECTURES)}"
        )
    raise DataError(
        f"{where} does not hold a whole encoder, compared with {compared}; give a complete checkpoint of "
        f"one of {', '.join(ARCHITECTURES)}"
    )


@functools.cache
def trunk_shapes(arch: str, stem: str) -> Mapping[str, Shape]:
    """The shape under each torchvision key of a trunk, in the model's order; no weights are made."""
    with torch.device("meta"):
        return {key: tuple(tensor.shape) for key, tensor in build_trunk(arch, stem).state_dict().items()}


def some(names: Iterable[str], limit: int = 4) -> str:
    """The first `limit` names for a message, with the number of the others.

    >>> some("abcdef")
    'a, b, c, d and 2 more'
    """
    every = list(names)
    more = f" and {len(every) - limit} more" if len(every) > limit else ""
    return ", ".join(every[:limit]) + more


def _place(family: Family, name: str) -> tuple[str, str]:
    """(part, detail) of a key: "trunk" with the trunk's own key, or another part with the reason why it is left."""
    rules = [("left", prefix, why) for prefix, why in family.left]
    rules += [
        (part, prefix, f"the {part}")
        for part, prefix in (("projector", family.projector), ("predictor", family.predictor))
        if prefix is not None
    ]
    for part, prefix, why in rules:
        if name == prefix or (prefix.endswith(".") and name.startswith(prefix)):
            return part, why
    if name.startswith(family.trunk):
        return "trunk", name.removeprefix(family.trunk)
    return "unknown", f"not a part of a {family.name} model that is known"


def _choose_family(names: Iterable[str], where: str) -> Family:
    """The family whose trunk prefix has the most trunk keys; of equals, the one that leaves the fewest unexplained."""
    every = list(names)

    def fit(family: Family) -> tuple[int, int]:
        places = [_place(family, name) for name in every]
        trunk = sum(part == "trunk" and _TRUNK_KEY.match(detail) is not None for part, detail in places)
        return trunk, -sum(part == "unknown" for part, _ in places)

    family = max(FAMILIES, key=fit)
    if fit(family)[0]:
        return family
    if any(_TRANSFORMER_KEY.search(name) for name in every):
        raise DataError(
            f"{where} holds a vision transformer, an unknown architecture: known are {', '.join(ARCHITECTURES)}"
        )
    starts = [match.group(1) for match in map(_TRUNK_START.match, every) if match]
    seen = some(dict.fromkeys(starts or [name.split(".")[0] + "." if "." in name else name for name in every]), limit=6)
    known = ", ".join(f"{family.name} ({family.trunk or 'no prefix'})" for family in FAMILIES)
    raise DataError(
        f"{where} holds no encoder under a known prefix: its keys start with {seen}; rename them to those of "
        f"a known family: {known}"
    )


def _signature(trunk: Mapping[str, Shape]) -> tuple[str, Shape, int, int] | None:
    """(block, blocks in layer1..layer4, groups, width per group) as in ARCHITECTURES; None where it cannot be told."""
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
    """The (arch, stem) that shares the most keys and shapes; of equals, the one with the fewest missing."""

    def likeness(candidate: tuple[str, str]) -> tuple[int, int]:
        expected = trunk_shapes(*candidate)
        return sum(expected.get(key) == shape for key, shape in trunk.items()), -len(expected)

    return max(((arch, stem) for arch in archs for stem in stems), key=likeness)


def _layer_widths(head: Mapping[str, Shape]) -> list[int] | None:
    """[input, ..., output] of the linear layers of a head, in the order of their indices; None where there are none."""

    def order(key: str) -> list[tuple[int, str]]:
        return [(int(part), "") if part.isdigit() else (-1, part) for part in key.split(".")]

    linear = [head[key] for key in sorted(head, key=order) if key.endswith("weight") and len(head[key]) == 2]
    return [linear[0][1], *(shape[0] for shape in linear)] if linear else None
