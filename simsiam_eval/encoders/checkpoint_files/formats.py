"""Read one file in any of the supported formats."""

import bz2
import gzip
import lzma
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, BinaryIO

import safetensors

from simsiam_eval.encoders.checkpoint_files.npz_file import read_npz
from simsiam_eval.encoders.checkpoint_files.other_files import COPY_AGAIN, SAVE_WEIGHTS, not_a_checkpoint
from simsiam_eval.encoders.checkpoint_files.script_code import add_attributes
from simsiam_eval.encoders.checkpoint_files.torch_file import (
    LEGACY_MAGIC,
    Source,
    pickle_name,
    read_legacy,
    read_pickle,
    read_torch,
)
from simsiam_eval.errors import DataError
from simsiam_eval.vocabulary import CHECKPOINT_ENDINGS
from simsiam_eval.wording import first_few

_COMPRESSED: dict[bytes, tuple[str, Callable[[BinaryIO], Any]]] = {
    b"\x1f\x8b": ("gzip", gzip.open),
    b"BZh": ("bzip2", bz2.open),
    b"\xfd7zXZ\0": ("xz", lzma.open),
}
_PACKED_ENDINGS = (*CHECKPOINT_ENDINGS, ".gz")
# How pickles of protocols 0 and 1 start that hold a dict, an ordered one, or a list.
_TEXT_PICKLES = (b"(d", b"}", b"ccollections\n", b"(l", b"]q")
_LARGEST_UNPACKED = 2**36
_CHUNK = 2**20


@dataclass(frozen=True)
class FileContent:
    """What a file contains, the name of its format, and the metadata of a safetensors file."""

    content: Any
    format: str
    metadata: Mapping[str, str] = field(default_factory=dict)


def read_file(path: str, name: str, packed: int = 0) -> FileContent:
    """The content of a file.

    Args:
        path: of the file.
        name: as messages call it.
        packed: how many archives the file was in.

    Raises:
        DataError: the file is not a checkpoint, or is damaged.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        start = file.read(64)
        file.seek(0)
        if not start:
            raise DataError(f"{name} is an empty file; {COPY_AGAIN}")
        if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 2**40:  # the length of a header in JSON
            return _read_safetensors(path, name)
        for magic, (kind, opened) in _COMPRESSED.items():
            if start.startswith(magic) and packed < 2:
                return _read_compressed(kind, opened(file), name, packed)
        if start.startswith(b"PK\x03\x04"):
            return _read_zip(Source.of_file(file, path), name, packed)
        return _read_pickled(file, path, start, name)


def _read_pickled(file: BinaryIO, path: str, start: bytes, name: str) -> FileContent:
    source = Source.of_file(file, path)
    is_legacy = LEGACY_MAGIC in start
    try:
        if is_legacy:
            return FileContent(read_legacy(source), "torch (before 1.6)")
        if start[:1] == b"\x80" or start.startswith(_TEXT_PICKLES):
            return FileContent(read_pickle(source), "pickle")
    except OSError:
        raise
    except Exception as error:  # damaged bytes can raise any exception
        if is_legacy:
            raise DataError(f"{name} is a truncated or damaged checkpoint; {COPY_AGAIN}") from error
        if start[:1] == b"\x80":
            raise DataError(f"{name} is not a checkpoint (a truncated or damaged pickle); {COPY_AGAIN}") from error
    raise DataError(not_a_checkpoint(file, name))


def _read_safetensors(path: str, name: str) -> FileContent:
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # it is not a dict
            return FileContent(tensors, "safetensors", dict(file.metadata() or {}))
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise DataError(f"{name} is a damaged safetensors file ({error}); {COPY_AGAIN}") from error


def _read_zip(source: Source, name: str, packed: int) -> FileContent:
    try:
        archive = zipfile.ZipFile(source.file)
        members = [member for member in archive.namelist() if not member.endswith("/")]
    except Exception as error:  # besides BadZipFile, damage raises UnicodeDecodeError and others
        raise DataError(
            f"{name} is a truncated or damaged checkpoint (an incomplete zip archive); {COPY_AGAIN}"
        ) from error
    _reject_programs(members, name)
    try:
        pickle = pickle_name(archive)
        if pickle is not None:
            content = read_torch(source, archive)
            if pickle.replace("data.pkl", "constants.pkl") not in members:
                return FileContent(content, "torch")
            add_attributes(content, archive)
            return FileContent(content, "TorchScript")
        if members and all(member.endswith(".npy") for member in members):
            return FileContent(read_npz(source, archive), "npz")
        inside = [
            member
            for member in members
            if member.lower().endswith(_PACKED_ENDINGS) and not member.startswith("__MACOSX/")
        ]
        if len(inside) == 1 and packed < 2:
            return _read_compressed("zip", archive.open(inside[0]), name, packed)
    except (OSError, DataError):
        raise
    except Exception as error:  # damaged bytes can raise any exception
        raise DataError(f"{name} is a truncated or damaged checkpoint; {COPY_AGAIN}") from error
    if inside:
        raise DataError(
            f"{name} is a zip archive of {len(inside)} checkpoints ({first_few(inside)}); unpack it and give one of them."
        )
    raise DataError(f"{name} is a zip archive of {first_few(members)}, not a checkpoint. {SAVE_WEIGHTS}")


def _reject_programs(members: list[str], name: str) -> None:
    if any(member.endswith(".data/extern_modules") for member in members):
        raise DataError(
            f"{name} is a torch.package, whose weights can only be read by running its code. "
            f"Load it with torch.package.PackageImporter where you trust it. {SAVE_WEIGHTS}"
        )
    if any(Path(member).name in ("archive_format", "serialized_exported_program.json") for member in members):
        raise DataError(
            f"{name} is a program of torch.export, not a checkpoint; load it with torch.export.load, write "
            "program.state_dict with torch.save, and give that file."
        )


def _read_compressed(kind: str, stream: IO[bytes], name: str, packed: int) -> FileContent:
    """The checkpoint in a stream, by way of a temporary file that is deleted at once: what is mapped from it remains."""
    with tempfile.NamedTemporaryFile(prefix="simsiam-eval-") as unpacked:
        limit = min(_LARGEST_UNPACKED, shutil.disk_usage(tempfile.gettempdir()).free // 2)
        length = 0
        try:
            while chunk := stream.read(_CHUNK):
                length += len(chunk)
                if length > limit:
                    raise DataError(
                        f"{name} unpacks to more than {limit / 2**30:.1f} GB, too large for {tempfile.gettempdir()}; "
                        "unpack it and give the file in it."
                    )
                unpacked.write(chunk)
        except DataError:
            raise
        except Exception as error:  # damaged bytes can raise any exception
            raise DataError(f"{name} is a truncated or damaged {kind} archive; {COPY_AGAIN}") from error
        unpacked.flush()
        inner = read_file(unpacked.name, name, packed + 1)
    return FileContent(inner.content, f"{kind} of {inner.format}", inner.metadata)
