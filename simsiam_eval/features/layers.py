"""The layers in a feature file, and which of them a task reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from simsiam_eval.errors import DataError
from simsiam_eval.features.file import read_attributes
from simsiam_eval.vocabulary import LAYERS


def layers_in(attributes: dict[str, Any]) -> dict[str, str]:
    """Layer -> dataset of a feature file; a layer that the file does not name is called `features`."""
    other_layers = {name.removeprefix("layers/"): name for name in attributes["columns"] if name.startswith("layers/")}
    return {attributes["encoder"].get("layer") or "features": "features"} | other_layers


def chosen_layers(layers: Sequence[str], path: Path, every: bool = False) -> dict[str, str]:
    """Layer -> dataset of the chosen layers of a feature file.

    Args:
        layers: names of layers. Only `pool`, the default of --layer, means the first layer if the file has no `pool`.
        path: the feature file.
        every: whether to return all layers instead, from the stem upward.

    Raises:
        DataError: a layer is not in the file.
    """
    dataset_of = layers_in(read_attributes(path))
    if every:
        return dict(sorted(dataset_of.items(), key=lambda item: _depth(item[0])))
    if tuple(layers) == ("pool",) and "pool" not in dataset_of:
        return dict([next(iter(dataset_of.items()))])
    for layer in layers:
        if layer not in dataset_of:
            raise DataError(f"{path} has no layer {layer}; it has: {', '.join(dataset_of)}.")
    return {layer: dataset_of[layer] for layer in layers}


def _depth(layer: str) -> int:
    return LAYERS.index(layer) if layer in LAYERS else -1
