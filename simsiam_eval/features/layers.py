"""Which layers a feature file holds, and which of them a task reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from simsiam_eval.errors import DataError
from simsiam_eval.features.file import read_attributes
from simsiam_eval.vocabulary import LAYERS


def layers_in(attributes: dict[str, Any]) -> dict[str, str]:
    """Layer -> dataset of a feature file; the layer is called `features` where the file does not name it."""
    further = {name.removeprefix("layers/"): name for name in attributes["columns"] if name.startswith("layers/")}
    return {attributes["encoder"].get("layer") or "features": "features"} | further


def chosen_layers(wanted: Sequence[str], path: Path, every: bool = False) -> dict[str, str]:
    """Layer -> dataset of the layers that are wanted, or of every one.

    `wanted` of pool alone, the default of --layer, means the file's own layer where it holds no pool.

    Raises:
        DataError: the file lacks one.
    """
    there = layers_in(read_attributes(path))
    if every:
        return dict(sorted(there.items(), key=lambda layer: _depth(layer[0])))
    if tuple(wanted) == ("pool",) and "pool" not in there:
        return dict([next(iter(there.items()))])
    for layer in wanted:
        if layer not in there:
            raise DataError(f"{path} holds no layer {layer}; it holds: {', '.join(there)}.")
    return {layer: there[layer] for layer in wanted}


def _depth(layer: str) -> int:
    return LAYERS.index(layer) if layer in LAYERS else -1
