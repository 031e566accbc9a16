"""Read a checkpoint of any format without executing code from it, or say what the file is instead."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from simsiam_eval.encoders.checkpoint_files.attributes import attributes_of
from simsiam_eval.encoders.checkpoint_files.distributed_file import read_distributed
from simsiam_eval.encoders.checkpoint_files.folder import (
    INDEX_SUFFIX,
    checkpoint_in,
    read_configs,
    read_index,
    reject_part,
)
from simsiam_eval.encoders.checkpoint_files.formats import FileContent, read_file
from simsiam_eval.encoders.checkpoint_files.module_state import with_module_states
from simsiam_eval.encoders.checkpoint_files.other_files import COPY_AGAIN, SAVE_WEIGHTS
from simsiam_eval.encoders.checkpoint_files.unpickler import ForeignClass, ForeignObject, UnpicklingError
from simsiam_eval.errors import DataError
from simsiam_eval.wording import first_few


@dataclass(frozen=True)
class CheckpointFile:
    """What a checkpoint contains.

    Attributes:
        path: as it was given.
        content: nested dicts, lists and plain values. Tensors are on the CPU and, where the format allows it, mapped from
            the file: copy those that are used for longer. A whole pickled module is a `ModuleState`, an object of any
            other class a `ForeignObject`, a class a `ForeignClass`.
        format: such as "torch", "torch (before 1.6)", "safetensors", "safetensors (3 shards)", "npz", "pickle",
            "TorchScript", "gzip of torch" or "distributed checkpoint".
        metadata: of a safetensors file.
        configs: file name -> content of each file beside the weights that is about a model, as from `read_configs`.
    """

    path: str
    content: Mapping[str, Any]
    format: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    configs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def config(self) -> dict[str, Any]:
        """The settings in `configs`, in one dict; the first file counts."""
        return {name: value for content in reversed([*self.configs.values()]) for name, value in content.items()}


def open_checkpoint(path: str | os.PathLike[str]) -> CheckpointFile:
    """The content of a checkpoint file, or of the only checkpoint in a folder. Nothing in it is executed or imported.

    Raises:
        DataError: there is no checkpoint, or it is damaged or incomplete.
    """
    name = os.fspath(path)
    if not name:
        raise DataError("The path of the checkpoint is empty; give the path of a checkpoint file.")
    try:
        place = checkpoint_in(Path(name), name) if os.path.isdir(name) else Path(name)
        label = name if place == Path(name) else str(place)
        file = _read(place, label)
        configs = read_configs(place)
    except FileNotFoundError as error:
        raise DataError(f"{name} does not exist; give the path of a checkpoint file.") from error
    except OSError as error:
        raise DataError(
            f"{name} cannot be read ({(error.strerror or str(error)).lower()}); give a readable file."
        ) from error
    return CheckpointFile(name, _mapping(file.content, label), file.format, file.metadata, configs)


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """`open_checkpoint(path).content` as a dict."""
    return dict(open_checkpoint(path).content)


def _read(path: Path, name: str) -> FileContent:
    if path.is_dir():
        return _read_distributed(path, name)
    if path.name.endswith(INDEX_SUFFIX):
        shards = read_index(path, name)
        if shards is not None:
            return _read_shards(shards.files, shards.keys, name)
    reject_part(path, name)
    return read_file(str(path), name)


def _read_distributed(folder: Path, name: str) -> FileContent:
    try:
        return FileContent(read_distributed(folder), "distributed checkpoint")
    except OSError:
        raise
    except Exception as error:  # damaged bytes can raise any exception
        raise DataError(
            f"{name} is a distributed checkpoint that cannot be put together ({error}); write it as one file with "
            "`python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE` and give that file."
        ) from error


def _read_shards(files: tuple[Path, ...], keys: frozenset[str], name: str) -> FileContent:
    tensors: dict[str, Tensor] = {}
    kind = "safetensors"
    for path in files:
        shard = read_file(str(path), str(path))
        kind = shard.format
        if isinstance(shard.content, Mapping):
            tensors |= shard.content
    missing = sorted(keys - tensors.keys())
    if missing:
        raise DataError(f"{name} lists {first_few(missing)}, which no shard has; {COPY_AGAIN}")
    return FileContent(tensors, f"{kind} ({len(files)} shards)")


def _mapping(content: Any, name: str) -> Mapping[str, Any]:
    """The content as a mapping; DataError if it is not one."""
    try:
        content = with_module_states(content)
        if isinstance(content, Mapping):
            return content
        attributes = with_module_states(dict(attributes_of(content)))
    except UnpicklingError as error:
        raise DataError(f"{name} is a damaged checkpoint ({error}); {COPY_AGAIN}") from error
    if attributes:
        return attributes
    kind = content.class_name if isinstance(content, ForeignObject | ForeignClass) else type(content).__name__
    raise DataError(f"{name} contains a {kind}, not a state dict. {SAVE_WEIGHTS}")
