"""Recognize the architecture and the stem of a trunk from its keys and shapes alone."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping

import torch

from simsiam_eval.encoders.architectures import ARCHITECTURES, BASIC, BOTTLENECK, TrunkVariant
from simsiam_eval.encoders.encoder import build_trunk
from simsiam_eval.encoders.recognition.search import Shape
from simsiam_eval.errors import DataError
from simsiam_eval.vocabulary import STEMS
from simsiam_eval.wording import first_few

_STEM_OF_KERNEL = {(7, 7): "imagenet", (3, 3): "cifar"}


def recognize_trunk(trunk: Mapping[str, Shape], where: str, prefix: str = "") -> tuple[str, str, int]:
    """(arch, stem, channels of an input image) of a trunk; every key and shape is verified.

    Args:
        trunk: torchvision's key -> shape of its tensor.
        where: the start of an error message, such as the file's path.
        prefix: put before the keys listed in an error message.

    Raises:
        DataError: this is not a complete trunk of a known architecture.

    >>> recognize_trunk(trunk_shapes("resnet18", "cifar"), "a.pt")
    ('resnet18', 'cifar', 3)
    """
    signature = _signature(trunk)
    arch = next((name for name, known in ARCHITECTURES.items() if known == signature), None)
    first = trunk.get("conv1.weight", ())
    stem, channels = (_STEM_OF_KERNEL.get(first[2:]), first[1]) if len(first) == 4 else (None, 3)
    if arch is None or stem is None:
        near_arch, near_stem = _nearest(trunk, [arch] if arch else ARCHITECTURES, [stem] if stem else STEMS)
    else:
        near_arch, near_stem = arch, stem
    differences = _differences(trunk, trunk_shapes(near_arch, near_stem, channels), prefix)
    if not differences:
        return near_arch, near_stem, channels
    compared = f"{near_arch} with the {near_stem} stem: {', '.join(differences)}"
    if arch is None and signature is not None and all(signature[1]):
        block, blocks, groups, width = signature
        raise DataError(
            f"{where} has an unknown architecture ({block} blocks {blocks}, groups {groups}, width {width}), "
            f"nearest to {compared}. Supported: {', '.join(ARCHITECTURES)}."
        )
    if "bn1.weight" in trunk and not any(key.endswith("running_mean") for key in trunk):
        raise DataError(
            f"{where} has a ResNet without running means and variances, so its normalization is another than batch "
            f"normalization, such as group normalization; torchvision's ResNets do not have that. Compared with {compared}."
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
        differences.append(f"missing keys: {len(missing)} of {len(expected)} ({first_few(missing)})")
    if extra:
        differences.append(f"unexpected keys: {len(extra)} ({first_few(extra)})")
    if mismatched:
        differences.append(f"mismatched shapes: {len(mismatched)} ({first_few(mismatched)})")
    return differences


@functools.cache
def trunk_shapes(arch: str, stem: str, channels: int = 3) -> Mapping[str, Shape]:
    """torchvision's key -> shape for every tensor of a trunk, in the model's order, without allocating weights."""
    with torch.device("meta"):
        trunk = build_trunk(arch, stem, variant=TrunkVariant(channels=channels))
    return {key: tuple(tensor.shape) for key, tensor in trunk.state_dict().items()}


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
