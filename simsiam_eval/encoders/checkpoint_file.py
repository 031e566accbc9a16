"""Read a checkpoint file of any format without executing code from it, or say what the file is instead."""

import os
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import safetensors
from torch import Tensor

from simsiam_eval.encoders.attributes import attributes_of
from simsiam_eval.encoders.module_state import ModuleState, with_module_states
from simsiam_eval.encoders.torch_file import LEGACY_MAGIC, Source, read_legacy, read_pickle, read_zip
from simsiam_eval.encoders.unpickler import ForeignClass, ForeignObject
from simsiam_eval.errors import DataError
from simsiam_eval.wording import first_few

__all__ = [
    "CheckpointFile",
    "ForeignClass",
    "ForeignObject",
    "ModuleState",
    "attributes_of",
    "open_checkpoint",
    "read_checkpoint",
]

_SAVE_WEIGHTS = "Save only the weights, with torch.save(model.state_dict(), FILE), and give that file."
_COPY_AGAIN = "copy or write the file again."
_IMAGE_STARTS = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*")


@dataclass(frozen=True)
class CheckpointFile:
    """What a checkpoint contains.

    Attributes:
        path: as it was given.
        content: nested dicts, lists and plain values. Tensors are on the CPU and, where the format allows it, mapped from
            the file: copy those that are used for longer. A whole pickled module is a `ModuleState`, an object of any
            other class a `ForeignObject`, a class a `ForeignClass`.
        format: such as "torch", "torch (before 1.6)", "safetensors" or "pickle".
        metadata: of a safetensors file.
        config: the parsed config.json beside the weights; {} if there is none.
    """

    path: str
    content: Mapping[str, Any]
    format: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)


def open_checkpoint(path: str | os.PathLike[str]) -> CheckpointFile:
    """The content of a checkpoint. Nothing in it is executed or imported.

    Raises:
        DataError: the file is not a checkpoint, or is damaged.
    """
    name = os.fspath(path)
    try:
        with open(path, "rb") as file:
            content, kind, metadata = _read(file, name)
    except FileNotFoundError as error:
        raise DataError(f"{name} does not exist; give the path of a checkpoint file.") from error
    except IsADirectoryError as error:
        raise DataError(
            f"{name} is a folder, not a checkpoint; give a file in it, such as checkpoint_0099.pth.tar."
        ) from error
    except OSError as error:
        raise DataError(
            f"{name} cannot be read ({(error.strerror or str(error)).lower()}); give a readable file."
        ) from error
    return CheckpointFile(name, _mapping(content, name), kind, metadata)


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """`open_checkpoint(path).content` as a dict."""
    return dict(open_checkpoint(path).content)


def unsafe_name(error: Exception) -> str | None:
    """The Python name that torch.load rejected, from its message; None for another error."""
    match = re.search(r"(?:GLOBAL|unrecognized function) (\S*\w)", str(error))
    return match.group(1) if match else None


def _mapping(content: Any, name: str) -> Mapping[str, Any]:
    """The content as a mapping; DataError if it is not one."""
    content = with_module_states(content)
    if isinstance(content, Mapping):
        return content
    attributes = attributes_of(content)
    if attributes:
        return with_module_states(dict(attributes))
    kind = content.class_name if isinstance(content, ForeignObject) else type(content).__name__
    raise DataError(f"{name} contains a {kind}, not a state dict. {_SAVE_WEIGHTS}")


def _read(file: BinaryIO, name: str) -> tuple[Any, str, dict[str, str]]:
    """The content of an open file, its format and metadata; DataError or OSError for a file of another kind."""
    start = file.read(64)
    file.seek(0)
    if not start:
        raise DataError(f"{name} is an empty file; {_COPY_AGAIN}")
    if start[8:9] == b"{":  # 8 bytes for the header's length, then the header in JSON
        return _read_safetensors(name)
    source = Source.of_file(file, name)
    try:
        if start[:4] == b"PK\x03\x04":
            return _read_zip(source, name)
        if LEGACY_MAGIC in start:
            return read_legacy(source), "torch (before 1.6)", {}
        if start[:1] == b"\x80":
            return read_pickle(source), "pickle", {}
    except (OSError, DataError):
        raise
    except Exception as error:  # damaged bytes can raise any exception
        if start[:1] == b"\x80" and LEGACY_MAGIC not in start:
            raise DataError(f"{name} is not a checkpoint (a truncated or damaged pickle); {_COPY_AGAIN}") from error
        raise DataError(f"{name} is a truncated or damaged checkpoint; {_COPY_AGAIN}") from error
    raise DataError(_not_a_checkpoint(start, name))


def _read_safetensors(name: str) -> tuple[dict[str, Tensor], str, dict[str, str]]:
    try:
        with safetensors.safe_open(name, framework="pt", device="cpu") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, "safetensors", dict(file.metadata() or {})  # noqa: SIM118
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise DataError(f"{name} is a damaged safetensors file ({error}); {_COPY_AGAIN}") from error


def _read_zip(source: Source, name: str) -> tuple[Any, str, dict[str, str]]:
    try:
        archive = zipfile.ZipFile(source.file)
        members = archive.namelist()
    except Exception as error:  # besides BadZipFile, damage raises UnicodeDecodeError and others
        raise DataError(
            f"{name} is a truncated or damaged checkpoint (an incomplete zip archive); {_COPY_AGAIN}"
        ) from error
    pickles = [member for member in members if member.count("/") == 1 and member.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise DataError(f"{name} is a zip archive of {first_few(members)}, not a checkpoint. {_SAVE_WEIGHTS}")
    is_script = pickles[0].replace("data.pkl", "constants.pkl") in members
    return read_zip(source, archive, pickles[0]), "TorchScript" if is_script else "torch", {}


def _not_a_checkpoint(start: bytes, name: str) -> str:
    """The message for a file in no supported format."""
    kind = "a file of unknown format"
    if start.startswith(_IMAGE_STARTS) or start[8:12] == b"WEBP":
        kind = "an image"
    elif start.startswith(b"\x89HDF"):
        kind = "an HDF5 file"
    elif not any(byte < 9 for byte in start):
        kind = "text"
    return f"{name} is not a checkpoint but {kind}; expected a file written by torch.save or safetensors."
