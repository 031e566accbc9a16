"""Tensors and lists in files of torch.save. Nothing in them is executed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from simsiam_eval.encoders.checkpoint_files.formats import read_file
from simsiam_eval.errors import DataError
from simsiam_eval.features.foreign.arrays import ForeignArray, sliced_array, text_array

_LONGEST_VECTOR = 8192  # floats, which are one block of an array


def torch_arrays(path: Path) -> list[ForeignArray]:
    """A tensor, or the tensors, arrays and lists of a dict (also within a dict), under names such as `train/features`.

    A dict of nothing but vectors of one length, such as {"cat.jpg": vector}, becomes `features` with the `ids`.

    Raises:
        DataError: not a file of torch.save, or neither a tensor nor a dict.
    """
    content = read_file(str(path), str(path)).content
    if not isinstance(content, Mapping):
        array = _array("", content)
        if array is None:
            kind = type(content).__name__
            raise DataError(f"{path} contains a {kind}; expected a tensor (N, D), or a dict of tensors and lists.")
        return [array]
    if any(isinstance(key, str) and key.endswith((".weight", ".bias")) for key, _ in _items(content, ".")):
        raise DataError(
            f"{path} contains the weights of a network instead of features; `extract` takes it with --checkpoint."
        )
    arrays = list(filter(None, (_array(name, value) for name, value in _items(content, ""))))
    if len(arrays) > 1 and len({array.shape for array in arrays}) == 1 and all(map(_is_vector, arrays)):
        rows = [next(array.blocks()) for array in arrays]
        return [sliced_array("features", np.stack(rows)), text_array("ids", [array.name for array in arrays])]
    return arrays


def _is_vector(array: ForeignArray) -> bool:
    return len(array.shape) == 1 and 1 < array.shape[0] <= _LONGEST_VECTOR and array.dtype.kind == "f"


def _items(content: Mapping[Any, Any], prefix: str) -> list[tuple[str, Any]]:
    items: list[tuple[str, Any]] = []
    for key, value in content.items():
        name = f"{prefix}{key}"
        items += _items(value, name + "/") if isinstance(value, Mapping) else [(name, value)]
    return items


def _array(name: str, value: Any) -> ForeignArray | None:
    """A tensor, an array, or a list of numbers, of strings or of vectors; None for anything else."""
    if isinstance(value, torch.Tensor):
        if value.layout != torch.strided or value.is_quantized or value.is_meta:
            return None
        value = value.detach().cpu().resolve_conj()
        value = value.float() if value.dtype == torch.bfloat16 else value
        return sliced_array(name, value.numpy()) if value.dim() else None
    if isinstance(value, np.ndarray):
        return sliced_array(name, value) if value.ndim and value.dtype.kind in "fiubU" else None
    if not isinstance(value, list | tuple) or not value:
        return None
    if all(isinstance(item, str | None) for item in value):
        return text_array(name, value)
    if all(isinstance(item, torch.Tensor) and item.shape == value[0].shape for item in value):
        return _array(name, torch.stack(list(value)))
    if all(isinstance(item, int | float) for item in value):
        return sliced_array(name, np.array(value))
    return None
