"""A trained head in a safetensors file, with all that it takes to classify images by it."""

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
from simsiam_eval.vocabulary import PRECISIONS, SCALINGS

FORMAT, FORMAT_VERSION = "simsiam-eval-head", 1


@dataclass(frozen=True)
class SavedHead:
    """A head and where it belongs.

    Attributes:
        class_names: (C,) what each score is of, no two the same.
        encoder: attributes of the feature file that it was trained on: weights_sha256, arch, stem, pooling, flip_average,
            normalize.
        preprocessing: of the images, as feature files record it; None for features of unknown images.
        precision: of the encoder; None where it is not known.
        trained: protocol and settings, for the reader.
    """

    head: Head
    class_names: Sequence[str]
    encoder: dict[str, Any]
    preprocessing: dict[str, Any] | None
    precision: str | None
    trained: dict[str, Any]

    @property
    def attributes(self) -> dict[str, Any]:
        """Of the features that the head reads, named as in a feature file."""
        return {"encoder": self.encoder, "preprocessing": self.preprocessing, "precision": self.precision}


def write_head(path: Path, saved: SavedHead) -> None:
    """Write the tensors `weight` (C,D), `bias` (C,) and, for `standard` scaling, `mean` and `std` (D,).

    Raises:
        DataError: the file cannot be written.
    """
    from safetensors.torch import save

    head = saved.head
    tensors = {"weight": head.weight, "bias": head.bias, "mean": head.scaling.mean, "std": head.scaling.std}
    described = {
        "class_names": list(saved.class_names),
        "layer": head.layer,
        "scaling": head.scaling.name,
        "encoder": saved.encoder,
        "preprocessing": saved.preprocessing,
        "precision": saved.precision,
        "trained": saved.trained,
    }
    metadata = {"format": FORMAT, "format_version": str(FORMAT_VERSION), "head": json.dumps(described)}
    content = save({name: one.cpu().contiguous() for name, one in tensors.items() if one is not None}, metadata)
    with atomic_write(path) as file:
        file.write(content)


def read_head(path: Path) -> SavedHead:
    """Read what `write_head` wrote.

    Raises:
        DataError: missing, not a head, of a newer version, or damaged.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise DataError(f"There is no head {path}; linear-eval --save-head writes one.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} is not a safetensors file, or it is damaged: {error}.") from error
    if metadata.get("format") != FORMAT:
        raise DataError(f"{path} holds no head of linear-eval (no format {FORMAT} in its metadata).")
    if int(metadata["format_version"]) > FORMAT_VERSION:
        raise DataError(f"{path} has format version {metadata['format_version']}; this program reads {FORMAT_VERSION}.")
    try:
        told = json.loads(metadata["head"])
        scaling = Scaling(told["scaling"], tensors.get("mean"), tensors.get("std"))
        head = Head(tensors["weight"], tensors["bias"], told["layer"], scaling)
        saved = SavedHead(
            head,
            distinct_names(told["class_names"]),
            told["encoder"],
            told["preprocessing"],
            told.get("precision"),
            told["trained"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is damaged: its metadata lacks {error}.") from error
    _refuse_misfit(path, saved)
    return saved


def _refuse_misfit(path: Path, saved: SavedHead) -> None:
    weight, bias, scaling = saved.head.weight, saved.head.bias, saved.head.scaling
    classes = len(saved.class_names)
    fits = weight.dim() == 2 and weight.shape[0] == classes and bias.shape == (classes,) and scaling.name in SCALINGS
    wanted = scaling.name == "standard"
    for one in (scaling.mean, scaling.std):
        fits = fits and (one is None if not wanted else one is not None and one.shape == weight.shape[1:])
    fits = fits and saved.precision in (None, *PRECISIONS)
    if not fits or not all(bool(torch.isfinite(one).all()) for one in (weight, bias)):
        raise DataError(
            f"{path} is damaged: weight {tuple(weight.shape)}, bias, precision and {classes} classes do not fit."
        )
