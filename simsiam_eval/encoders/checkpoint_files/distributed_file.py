"""Read a distributed checkpoint (torch.distributed.checkpoint: `.metadata` and `*.distcp`) into whole tensors."""

import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from simsiam_eval.encoders.checkpoint_files.torch_file import Source, read_pickle, read_torch
from simsiam_eval.encoders.checkpoint_files.unpickler import ForeignObject, UnpicklingError

METADATA = ".metadata"


def read_distributed(folder: Path) -> dict[str, Tensor]:
    """Full name -> tensor, of all parts together. Values other than tensors are left out.

    Raises:
        UnpicklingError: a file is damaged, or parts are missing.
        OSError: a file cannot be read.
    """
    with open(folder / METADATA, "rb") as file:
        metadata = _state(read_pickle(Source.of_file(file, str(folder / METADATA))))
    parts: dict[str, list[tuple[tuple[int, ...], Mapping[str, Any]]]] = {}
    for index, stored in metadata["storage_data"].items():
        where = _state(index)
        parts.setdefault(where["fqn"], []).append((tuple(where.get("offset") or ()), _state(stored)))
    tensors = {}
    for name, described in metadata["state_dict_metadata"].items():
        if isinstance(described.state, Mapping) and "size" in described.state:  # else it is not a tensor
            tensors[name] = _whole(folder, tuple(described.state["size"]), parts.get(name, []))
    return tensors


def _whole(folder: Path, size: tuple[int, ...], parts: list[tuple[tuple[int, ...], Mapping[str, Any]]]) -> Tensor:
    loaded = [(offset, _part(folder, stored)) for offset, stored in parts]
    if len(loaded) == 1 and tuple(loaded[0][1].shape) == size:
        return loaded[0][1]
    if not loaded or sum(part.numel() for _, part in loaded) != math.prod(size):
        raise UnpicklingError("parts that do not make up a tensor")
    whole = torch.empty(size, dtype=loaded[0][1].dtype)
    for offset, part in loaded:
        place = tuple(slice(start, start + length) for start, length in zip(offset, part.shape, strict=True))
        if whole[place].shape != part.shape:
            raise UnpicklingError("a part beyond its tensor")
        whole[place] = part
    return whole


def _part(folder: Path, stored: Mapping[str, Any]) -> Tensor:
    """One saved tensor: a small file of torch.save's within a file."""
    if stored.get("transform_descriptors"):
        raise UnpicklingError("a compressed part")
    path = folder / Path(stored["relative_path"]).name
    with open(path, "rb") as file:
        source = Source.of_file(file, str(path)).part(stored["offset"], stored["length"])
        with zipfile.ZipFile(source.file) as archive:
            tensor = read_torch(source, archive)
    if not isinstance(tensor, Tensor):
        raise UnpicklingError("a part that is not a tensor")
    return tensor


def _state(stub: Any) -> Mapping[str, Any]:
    if not isinstance(stub, ForeignObject) or not isinstance(stub.state, Mapping):
        raise UnpicklingError("metadata of another kind")
    return stub.state
