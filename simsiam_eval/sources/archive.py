"""Images in archive files that are read in place: what tar and zip share."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simsiam_eval.errors import DataError
from simsiam_eval.images.decode import open_image
from simsiam_eval.images.opened import OpenedImage, UnreadableImage
from simsiam_eval.sources.base import ImageSource, as_utf8
from simsiam_eval.sources.file_state import files_key
from simsiam_eval.sources.packed_texts import PackedTexts
from simsiam_eval.sources.per_process import PerProcess
from simsiam_eval.sources.remembered import Arrays
from simsiam_eval.sources.shards import by_split, files_of, say_unnamed
from simsiam_eval.sources.splits import choose_split

_OPEN_FILES = 64  # a process may open 1,024 files, often fewer


def archives(
    path: Path, spec: str, ending: str, options: Mapping[str, str], default_split: str | None
) -> tuple[list[Path], bool]:
    """The archives that a path names, and whether they were chosen by the split in their names.

    Args:
        path: an archive, a pattern, a folder of archives, or one of folders of archives.
        ending: that of the archives in a folder, such as ".tar".

    Raises:
        DataError: a file is missing, or a split that must be chosen or does not exist.
    """
    if not path.is_dir():
        return files_of(path, spec), False
    here = [file for file in path.iterdir() if file.suffix.lower() == ending]
    files = sorted(
        file
        for file in here or path.glob("*/*")
        if file.suffix.lower() == ending and file.is_file() and file.name[0] != "." and file.parent.name[0] != "."
    )
    if not files:
        raise DataError(f"{path} has no {ending} files.")
    splits = by_split(path, files)
    if not splits:
        return files, False
    split = choose_split(splits, options.get("split"), default_split, spec)
    if split is None:
        return files, False
    say_unnamed(splits, split, spec)
    return splits[split], True


class ArchiveSource(ImageSource):
    """Images in archives, at the places of an index.

    Args:
        index: the arrays shard, size and label, (N,) int64, and the packed texts name, class and note; a subclass needs
            more.
        key: changes whenever an archive or a setting does.
        names: the name of each archive, for the ids; None: ids without it.
    """

    def __init__(self, spec: str, files: list[Path], index: Arrays, key: str, names: list[str] | None) -> None:
        class_names = PackedTexts.from_arrays(index["class_bytes"], index["class_ends"])
        super().__init__(spec, index["label"], list(class_names) if len(class_names) else None)
        self._names = PackedTexts.from_arrays(index["name_bytes"], index["name_ends"])
        self._files, self._key, self._file_names = files, key, names
        self._file, self._size = index["shard"], index["size"]
        self.notes += PackedTexts.from_arrays(index["note_bytes"], index["note_ends"])
        self._opened = PerProcess(self._open, _OPEN_FILES)

    @abstractmethod
    def _read(self, descriptor: int, row: int) -> bytes:
        """The image of a row from its archive. Raises UnreadableImage, OSError."""

    def id(self, row: int) -> str:
        name = as_utf8(self._names[row])
        return f"{as_utf8(self._file_names[self._file[row]])}/{name}" if self._file_names else name

    def image(self, row: int) -> OpenedImage:
        return open_image(self._content(row))

    def _open(self, number: int) -> _OpenFile:
        return _OpenFile(self._files[number])

    def _content(self, row: int) -> bytes:
        number = int(self._file[row])
        try:
            file = self._opened(number)
            return self._read(file.descriptor, row)
        except OSError as error:
            raise UnreadableImage(f"{self._files[number]}: {(error.strerror or str(error)).lower()}") from error

    def _read_at(self, descriptor: int, row: int, offset: int, size: int) -> bytes:
        content = os.pread(descriptor, size, offset)
        if len(content) != size:
            raise UnreadableImage(f"{self._files[self._file[row]]} is shorter than when it was opened")
        return content

    def _stored_sizes(self) -> NDArray[np.int64]:
        return np.asarray(self._size, dtype=np.int64)

    def _files_key(self) -> str:
        return files_key(self._files, "archive rows", self._key, self._file_names)


class _OpenFile:
    """A file descriptor that is closed after its last use, which may be in another thread."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)
