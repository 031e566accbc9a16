"""Read a checkpoint file without executing code from it, or say what the file is instead."""

import argparse
import os
import pickletools
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import safetensors
import safetensors.torch
import torch

from simsiam_eval.errors import DataError
from simsiam_eval.wording import first_few

_SAVE_WEIGHTS = "Save only the weights, with torch.save(model.state_dict(), FILE), and give that file."
_COPY_AGAIN = "copy or write the file again."
# The pickled magic number at the start of torch.save's format before 1.6.
_LEGACY_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"
_IMAGE_STARTS = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*")


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a torch checkpoint (zip or legacy format) or a safetensors file, its tensors on the CPU.

    Nothing in the file is executed: `weights_only=True`, with argparse.Namespace allowed in addition to torch's list,
    because MoCo's and DINO's checkpoints contain it.

    Raises:
        DataError: the file is not a checkpoint, is damaged, or could only be read by executing code.
    """
    name = os.fspath(path)
    try:
        with open(path, "rb") as file:
            checkpoint = _read(file, name)
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
    if not isinstance(checkpoint, Mapping):
        raise DataError(f"{name} contains a {type(checkpoint).__name__}, not a state dict. {_SAVE_WEIGHTS}")
    return dict(checkpoint)


def unsafe_name(error: Exception) -> str | None:
    """The Python name that torch.load rejected, from its message; None for another error."""
    match = re.search(r"(?:GLOBAL|unrecognized function) (\S*\w)", str(error))
    return match.group(1) if match else None


def _read(file: BinaryIO, name: str) -> object:
    """The content of an open file in any supported format; DataError or OSError for any other."""
    start = file.read(64)
    file.seek(0)
    if not start:
        raise DataError(f"{name} is an empty file; {_COPY_AGAIN}")
    if start[8:9] == b"{":  # safetensors: 8 bytes for the header's length, then the header in JSON
        try:
            return safetensors.torch.load_file(name, device="cpu")
        except (safetensors.SafetensorError, ValueError, KeyError) as error:
            raise DataError(f"{name} is a damaged safetensors file ({error}); {_COPY_AGAIN}") from error
    if start[:4] == b"PK\x03\x04":
        _reject_other_zip(file, name)
    elif _LEGACY_MAGIC not in start:
        raise DataError(_not_a_checkpoint(file, start, name))
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # a damaged pickle can raise any exception
        unsafe = unsafe_name(error)
        if unsafe:
            raise DataError(
                f"{name} contains more than weights: opening it would execute code from the file ({unsafe}). "
                f"Nothing was executed. {_SAVE_WEIGHTS}"
            ) from error
        raise DataError(f"{name} is a truncated or damaged checkpoint; {_COPY_AGAIN}") from error


def _reject_other_zip(file: BinaryIO, name: str) -> None:
    try:
        with zipfile.ZipFile(file) as archive:
            members = [Path(member).name for member in archive.namelist()]
    except Exception as error:  # besides BadZipFile, damage raises UnicodeDecodeError and others
        raise DataError(
            f"{name} is a truncated or damaged checkpoint (an incomplete zip archive); {_COPY_AGAIN}"
        ) from error
    finally:
        file.seek(0)
    if "constants.pkl" in members:
        raise DataError(f"{name} is a TorchScript program, not a checkpoint. {_SAVE_WEIGHTS}")
    if "data.pkl" not in members:
        raise DataError(f"{name} is a zip archive of {first_few(members)}, not a checkpoint. {_SAVE_WEIGHTS}")


def _not_a_checkpoint(file: BinaryIO, start: bytes, name: str) -> str:
    """The message for a file in no supported format. Nothing of a pickle is executed."""
    if start[:1] == b"\x80":
        return f"{name} {_pickle_fault(file)}"
    kind = "a file of unknown format"
    if start.startswith(_IMAGE_STARTS) or start[8:12] == b"WEBP":
        kind = "an image"
    elif start.startswith(b"\x89HDF"):
        kind = "an HDF5 file"
    elif not any(byte < 9 for byte in start):
        kind = "text"
    return f"{name} is not a checkpoint but {kind}; expected a file written by torch.save or safetensors."


def _pickle_fault(file: BinaryIO) -> str:
    """Why a plain pickle is rejected, with the first name that it would import."""
    last_strings, imported = ["", ""], ""
    try:
        for code, argument, _ in pickletools.genops(file):
            if code.name in ("GLOBAL", "STACK_GLOBAL"):
                imported = str(argument).replace(" ", ".") if code.name == "GLOBAL" else ".".join(last_strings)
                break
            if isinstance(argument, str):
                last_strings = [last_strings[1], argument]
    except Exception:
        return f"is not a checkpoint (a truncated or damaged pickle); {_COPY_AGAIN}"
    if imported:
        return (
            f"is a Python pickle, not a torch checkpoint: opening it would execute code from the file ({imported}). "
            f"Nothing was executed. {_SAVE_WEIGHTS}"
        )
    return f"is a Python pickle, not a torch checkpoint. {_SAVE_WEIGHTS}"
