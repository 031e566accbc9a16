"""Files of a published dataset: in a folder, in its published sub-folder, or in its archive."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Container, Sequence
from pathlib import Path

from simsiam_eval.errors import DataError

Read = Callable[[str], bytes | None]


def file_reader(path: Path, sub_folders: Sequence[str], wanted: Container[str]) -> Read:
    """A function from a file name to its bytes; None: no such file.

    Args:
        path: a folder with the files or with one of `sub_folders`, or a tar archive, which may be compressed.
        wanted: the names that will be asked for; an archive is read once, and only these are kept.

    Raises:
        DataError: the archive is damaged.
    """
    if path.is_dir():

        def from_folder(name: str) -> bytes | None:
            file = find_file(path, sub_folders, name)
            return file.read_bytes() if file else None

        return from_folder
    try:
        with tarfile.open(path) as archive:
            files = {
                Path(member.name).name: archive.extractfile(member).read()  # type: ignore[union-attr]
                for member in archive
                if member.isfile() and Path(member.name).name in wanted
            }
            archive.fileobj.seek(archive.offset)  # type: ignore[union-attr]
            if archive.fileobj.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:  # type: ignore[union-attr]
                # truncated between two files, which tarfile does not notice
                raise tarfile.ReadError("its end is missing")
    except (tarfile.TarError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0].rstrip(":")
        raise DataError(f"{path} is not a tar archive, or it is damaged: {reason}.") from error
    return files.get


def find_file(path: Path, sub_folders: Sequence[str], name: str) -> Path | None:
    """The file of this name in a folder or in the first of its sub-folders that has it."""
    return next((file for folder in ("", *sub_folders) if (file := path / folder / name).is_file()), None)
