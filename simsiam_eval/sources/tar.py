"""`tar:` plain tar files: WebDataset shards, or archives of image folders; images are read where they lie."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simsiam_eval.errors import DataError
from simsiam_eval.images.decode import OpenedImage, UnreadableImage, open_image
from simsiam_eval.sources.base import ImageSource, as_utf8, hashes_of
from simsiam_eval.sources.packed_texts import PackedTexts
from simsiam_eval.sources.per_process import PerProcess
from simsiam_eval.sources.remembered import Arrays, files_key, remembered_arrays
from simsiam_eval.sources.shards import by_split, files_of, is_pattern, names_of
from simsiam_eval.sources.splits import choose_split
from simsiam_eval.sources.tar_index import refuse_compressed, tar_index

_OPEN_SHARDS = 64  # a process may have 1,024 open files, often less


def open_tar(path: Path, spec: str, options: Mapping[str, str], default_split: str | None = None) -> TarSource:
    """Rows in the order of the shards and of the images in them.

    Args:
        path: a .tar file, a pattern (`train-{0000..0012}.tar`, `*.tar`) or a folder of .tar files.
        options: label: where labels are (`cls` or `txt`: the text of that member; `none`; else a key of the `.json`
            member; default: `cls` where there is any, else the class folders); image: full extension of the images
            where a sample has several; folder: the folder in the archive that holds the class folders; split: which of
            the splits that file names or top folders tell.
        role: train or test, taken where there are splits and the options name none.

    The id is the image's name in the archive (below `folder`, or below what all images share, where class folders give
    the labels), with the shard's name before it unless `path` is a single file.

    Raises:
        DataError: a shard is missing, compressed, truncated or no tar file; two members of one name; no images; labels
            that are not there or cannot be read.
    """
    shards, split_in_names = _shards(path, spec, options, default_split)
    for shard in shards:
        refuse_compressed(shard)
    splits = (None, None) if split_in_names else (options.get("split"), default_split)
    settings = [*map(options.get, ("label", "image", "folder")), *splits]
    # The index takes one read of every header: minutes for millions of images.
    key = files_key(shards, "tar", 2, *settings)
    index = remembered_arrays(key, lambda: tar_index(shards, spec, *settings))
    prefixed = is_pattern(str(path)) or path.is_dir()
    return TarSource(spec, shards, index, key, names_of(shards) if prefixed else None)


def _shards(path: Path, spec: str, options: Mapping[str, str], default_split: str | None) -> tuple[list[Path], bool]:
    """The shards, and whether they were chosen by the split in their names."""
    if not path.is_dir():
        return files_of(path, spec), False
    files = sorted(file for file in path.iterdir() if not file.name.startswith(".") and file.is_file())
    shards = [file for file in files if file.suffix.lower() == ".tar"]
    if not shards:
        for file in files:
            refuse_compressed(file)
        raise DataError(f"{path} has no .tar files.")
    splits = by_split(path, shards)
    if not splits:
        return shards, False
    split = choose_split(splits, options.get("split"), default_split, spec)
    return (shards, False) if split is None else (splits[split], True)


class TarSource(ImageSource):
    """Images in tar files, of which an index says where each begins."""

    def __init__(self, spec: str, shards: list[Path], index: Arrays, key: str, shard_names: list[str] | None) -> None:
        names = PackedTexts.from_arrays(index["class_bytes"], index["class_ends"])
        super().__init__(spec, index["label"], list(names) if len(names) else None)
        self._names = PackedTexts.from_arrays(index["name_bytes"], index["name_ends"])
        self._shards, self._key, self._shard_names = shards, key, shard_names
        self._shard, self._offset, self._size = index["shard"], index["offset"], index["size"]
        self._files = PerProcess(self._open, _OPEN_SHARDS)

    def id(self, row: int) -> str:
        name = as_utf8(self._names[row])
        return f"{as_utf8(self._shard_names[self._shard[row]])}/{name}" if self._shard_names else name

    def image(self, row: int) -> OpenedImage:
        return open_image(self._content(row))

    def _open(self, shard: int) -> _OpenFile:
        return _OpenFile(self._shards[shard])

    def _content(self, row: int) -> bytes:
        shard, size = int(self._shard[row]), int(self._size[row])
        try:
            file = self._files(shard)
            content = os.pread(file.descriptor, size, int(self._offset[row]))
        except OSError as error:
            raise UnreadableImage(f"{self._shards[shard]}: {(error.strerror or str(error)).lower()}") from error
        if len(content) != size:
            raise UnreadableImage(f"{self._shards[shard]} has become shorter since it was opened")
        return content

    def _stored_sizes(self) -> NDArray[np.int64]:
        return np.asarray(self._size, dtype=np.int64)

    def _files_key(self) -> str:
        return files_key(self._shards, "tar rows", self._key, self._shard_names)

    def _content_hashes(self) -> Iterator[bytes]:
        return hashes_of(self._content, len(self))


class _OpenFile:
    """A file descriptor that is closed with its last user, which another thread may be."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)
