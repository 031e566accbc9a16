"""A trained head as a safetensors file, with all the information needed to classify images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from simsiam_eval.errors import DataError
from simsiam_eval.features.class_names import distinct_names
from simsiam_eval.files.atomic import atomic_write
from simsiam_eval.linear.heads import Head
from simsiam_eval.linear.scaling import Scaling
from simsiam_eval.vocabulary import PRECISIONS, SCALINGS, UNKNOWN_PRECISION

FORMAT, FORMAT_VERSION = "simsiam-eval-head", 1


@dataclass(frozen=True)
class SavedHead:
    """A head, and the features that it was trained on.

    Attributes:
        class_names: C distinct names.
        encoder: as in the attributes of a feature file: weights_sha256, arch, stem, pooling, flip_average, normalize.
        preprocessing: of the images, as in a feature file; None for features of unknown images.
        precision: of the encoder; None if unknown.
        trained: protocol, settings and test accuracy, for information.
        assumptions: what was assumed about the encoder, as in a feature file; None if unknown.
    """

    head: Head
    class_names: Sequence[str]
    encoder: dict[str, Any]
    preprocessing: dict[str, Any] | None
    precision: str | None
    trained: dict[str, Any]
    assumptions: list[str] | None = None

    @property
    def attributes(self) -> dict[str, Any]:
        """The attributes of the features that the head reads, named as in a feature file."""
        return {"encoder": self.encoder, "preprocessing": self.preprocessing, "precision": self.precision}


def write_head(path: Path, saved: SavedHead) -> None:
    """Write the tensors `weight` (C,D), `bias` (C,) and, for `standard` scaling, `mean` and `std` (D,).

    Raises:
        DataError: the file cannot be written.
    """
    from safetensors.torch import save

    head = saved.head
    tensors = {"weight": head.weight, "bias": head.bias, "mean": head.scaling.mean, "std": head.scaling.std}
    description = {
        "class_names": list(saved.class_names),
        "layer": head.layer,
        "scaling": head.scaling.name,
        "encoder": saved.encoder,
        "preprocessing": saved.preprocessing,
        "precision": saved.precision,
        "trained": saved.trained,
        "assumptions": saved.assumptions,
    }
    metadata = {"format": FORMAT, "format_version": str(FORMAT_VERSION), "head": json.dumps(description)}
    content = save(
        {name: tensor.cpu().contiguous() for name, tensor in tensors.items() if tensor is not None}, metadata
    )
    with atomic_write(path) as file:
        file.write(content)


def read_head(path: Path) -> SavedHead:
    """Read a head that `write_head` wrote.

    Raises:
        DataError: the file is missing, not a head, of a newer format version, or damaged.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise DataError(f"Head {path} not found. Create one with `simsiam-eval linear-eval --save-head`.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} is not a safetensors file, or is damaged: {error}.") from error
    if metadata.get("format") != FORMAT:
        raise DataError(f"{path} is not a head of linear-eval: its metadata lack format {FORMAT}.")
    if int(metadata["format_version"]) > FORMAT_VERSION:
        raise DataError(f"{path} has format version {metadata['format_version']}; this version reads {FORMAT_VERSION}.")
    try:
        description = json.loads(metadata["head"])
        scaling = Scaling(description["scaling"], tensors.get("mean"), tensors.get("std"))
        head = Head(tensors["weight"], tensors["bias"], description["layer"], scaling)
        saved = SavedHead(
            head,
            distinct_names(description["class_names"]),
            description["encoder"],
            description["preprocessing"],
            description.get("precision"),
            description["trained"],
            description.get("assumptions"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is damaged: metadata {error}.") from error
    _check(path, saved)
    return saved


def _check(path: Path, saved: SavedHead) -> None:
    """Reject tensors that do not fit each other or the metadata, or are not finite."""
    weight, bias, scaling = saved.head.weight, saved.head.bias, saved.head.scaling
    classes = len(saved.class_names)
    valid = weight.dim() == 2 and weight.shape[0] == classes and bias.shape == (classes,) and scaling.name in SCALINGS
    for moment in (scaling.mean, scaling.std):
        if scaling.name == "standard":
            valid = valid and moment is not None and moment.shape == weight.shape[1:]
        else:
            valid = valid and moment is None
    valid = valid and saved.precision in (None, UNKNOWN_PRECISION, *PRECISIONS)
    if not valid or not all(bool(torch.isfinite(tensor).all()) for tensor in (weight, bias)):
        raise DataError(
            f"{path} is damaged: weight {tuple(weight.shape)}, bias, precision and {classes} classes do not match."
        )
