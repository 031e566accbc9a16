"""What is in a checkpoint file, read without running code from it; and what a file is that is no checkpoint."""

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

from simsiam_eval.encoders.families import some
from simsiam_eval.errors import DataError

_SAVE_WEIGHTS = "save the weights alone with torch.save(model.state_dict(), FILE) and give that"
# How torch.save's format before 1.6 begins: its magic number, pickled.
_LEGACY_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"
_IMAGE_STARTS = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*")


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a torch checkpoint (zip or legacy format) or a safetensors file, its tensors on the CPU.

    Nothing in the file is executed: `weights_only=True`, with argparse.Namespace allowed beside torch's own list, since
    MoCo's and DINO's checkpoints hold one. Raises DataError for a file that is no checkpoint, is damaged, or would need
    code to be executed.
    """
    name = os.fspath(path)
    try:
        with open(path, "rb") as file:
            checkpoint = _read(file, name)
    except FileNotFoundError as error:
        raise DataError(f"{name} does not exist: give the path of a checkpoint file") from error
    except IsADirectoryError as error:
        raise DataError(
            f"{name} is a folder, not a checkpoint: give a file in it, such as checkpoint_0099.pth.tar"
        ) from error
    except OSError as error:
        raise DataError(
            f"{name} cannot be read ({(error.strerror or str(error)).lower()}): give a readable file"
        ) from error
    if not isinstance(checkpoint, Mapping):
        raise DataError(f"{name} holds a {type(checkpoint).__name__}, not a state dict: {_SAVE_WEIGHTS}")
    return dict(checkpoint)


def unsafe_name(error: Exception) -> str | None:
    """The Python name that torch.load refused to import, from its message; None for another error."""
    found = re.search(r"(?:GLOBAL|unrecognized function) (\S*\w)", str(error))
    return found.group(1) if found else None


def _read(file: BinaryIO, name: str) -> object:
    """The content of an open file of any readable format; DataError, or OSError, for any other."""
    start = file.read(64)
    file.seek(0)
    if not start:
        raise DataError(f"{name} is an empty file: copy or write the checkpoint again")
    if start[8:9] == b"{":  # safetensors: the header's length in 8 bytes, the header in JSON
        try:
            return safetensors.torch.load_file(name, device="cpu")
        except (safetensors.SafetensorError, ValueError, KeyError) as error:
            raise DataError(f"{name} is a damaged safetensors file ({error}): copy or write it again") from error
    if start[:4] == b"PK\x03\x04":
        _refuse_foreign_zip(file, name)
    elif _LEGACY_MAGIC not in start:
        raise DataError(_what_else(file, start, name))
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # a damaged pickle may raise anything
        unsafe = unsafe_name(error)
        if unsafe:
            raise DataError(
                f"{name} holds more than weights: to open it would execute code from the file ({unsafe}), and "
                f"nothing was executed; {_SAVE_WEIGHTS}"
            ) from error
        raise DataError(f"{name} is a truncated or damaged checkpoint: copy or write it again") from error


def _refuse_foreign_zip(file: BinaryIO, name: str) -> None:
    try:
        with zipfile.ZipFile(file) as archive:
            members = [Path(member).name for member in archive.namelist()]
    except Exception as error:  # damage raises UnicodeDecodeError and others beside BadZipFile
        raise DataError(
            f"{name} is a truncated or damaged checkpoint (a zip archive without its end): copy or write it again"
        ) from error
    finally:
        file.seek(0)
    if "constants.pkl" in members:
        raise DataError(f"{name} is a TorchScript program, not a checkpoint: {_SAVE_WEIGHTS}")
    if "data.pkl" not in members:
        raise DataError(f"{name} is a zip archive of {some(members)}, not a checkpoint: {_SAVE_WEIGHTS}")


def _what_else(file: BinaryIO, start: bytes, name: str) -> str:
    """The sentence about a file that is in none of the formats that are read. Nothing of a pickle is executed."""
    if start[:1] == b"\x80":
        strings, asked = ["", ""], ""
        try:
            for code, argument, _ in pickletools.genops(file):
                if code.name in ("GLOBAL", "STACK_GLOBAL"):
                    asked = str(argument).replace(" ", ".") if code.name == "GLOBAL" else ".".join(strings)
                    break
                if isinstance(argument, str):
                    strings = [strings[1], argument]
        except Exception:
            return f"{name} is not a checkpoint (a truncated or damaged pickle): copy or write it again"
        danger = f" that would execute code when opened ({asked}), and nothing was executed" if asked else ""
        return f"{name} is a Python pickle{danger}, not a torch checkpoint: {_SAVE_WEIGHTS}"
    what = "of an unknown format"
    if start.startswith(_IMAGE_STARTS) or start[8:12] == b"WEBP":
        what = "an image"
    elif start.startswith(b"\x89HDF"):
        what = "an HDF5 file"
    elif not any(byte < 9 for byte in start):
        what = "text"
    return f"{name} is not a checkpoint (it is {what}): give a file that torch.save or safetensors wrote"
