"""`tar:` plain tar files: WebDataset shards, or archives of image folders; images are read in place."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simsiam_eval.errors import DataError
from simsiam_eval.images.decode import OpenedImage, UnreadableImage, open_image
from simsiam_eval.sources.base import ImageSource, as_utf8
from simsiam_eval.sources.file_state import files_key
from simsiam_eval.sources.packed_texts import PackedTexts
from simsiam_eval.sources.per_process import PerProcess
from simsiam_eval.sources.remembered import Arrays, remembered_arrays
from simsiam_eval.sources.shards import by_split, files_of, is_pattern, names_of
from simsiam_eval.sources.splits import choose_split
from simsiam_eval.sources.tar_index import reject_compressed, tar_index

_OPEN_SHARDS = 64  # a process may open 1,024 files, often fewer


def open_tar(path: Path, spec: str, options: Mapping[str, str], default_split: str | None = None) -> TarSource:
    """Rows in the order of the shards and of the images in them.

    Args:
        path: a .tar file, a pattern (`train-{0000..0012}.tar`, `*.tar`) or a folder of .tar files.
        options: label: where the labels are (`cls` or `txt`: the text of that member; `none`; else a key of the `.json`
            member; default: `cls` if there is any, else the class folders); image: full extension of the images, for
            samples with several; folder: the folder in the archive that contains the class folders; split: one of the
            splits in the file names or top folders, or `none` for all.
        default_split: train or test, used where there are splits and the options name none.

    The id is the image's name in the archive (where class folders give the labels: below `folder`, or below the folder
    that all images share), after the shard's name unless `path` is a single file.

    Raises:
        DataError: a shard is missing, compressed, truncated or not a tar file; two members have one name; there are no
            images; labels are missing or cannot be read; splits and classes cannot be distinguished.
    """
    shards, split_in_names = _shards(path, spec, options, default_split)
    for shard in shards:
        reject_compressed(shard)
    splits = (None, None) if split_in_names else (options.get("split"), default_split)
    settings = [*map(options.get, ("label", "image", "folder")), *splits]
    # The index takes one read of every header: minutes for millions of images.
    key = files_key(shards, "tar", 2, *settings)
    index = remembered_arrays(key, lambda: tar_index(shards, spec, *settings))
    has_several = is_pattern(str(path)) or path.is_dir()
    return TarSource(spec, shards, index, key, names_of(shards) if has_several else None)


def _shards(path: Path, spec: str, options: Mapping[str, str], default_split: str | None) -> tuple[list[Path], bool]:
    """The shards, and whether they were chosen by the split in their names."""
    if not path.is_dir():
        return files_of(path, spec), False
    files = sorted(file for file in path.iterdir() if not file.name.startswith(".") and file.is_file())
    shards = [file for file in files if file.suffix.lower() == ".tar"]
    if not shards:
        for file in files:
            reject_compressed(file)
        raise DataError(f"{path} has no .tar files.")
    splits = by_split(path, shards)
    if not splits:
        return shards, False
    split = choose_split(splits, options.get("split"), default_split, spec)
    return (shards, False) if split is None else (splits[split], True)


class TarSource(ImageSource):
    """Images in tar files, at the offsets of an index.

    Args:
        index: what `tar_index` returns.
        key: changes whenever a shard or a setting does.
        shard_names: the name of each shard, for the ids; None: ids without it.
    """

    def __init__(self, spec: str, shards: list[Path], index: Arrays, key: str, shard_names: list[str] | None) -> None:
        class_names = PackedTexts.from_arrays(index["class_bytes"], index["class_ends"])
        super().__init__(spec, index["label"], list(class_names) if len(class_names) else None)
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
            raise UnreadableImage(f"{self._shards[shard]} is shorter than when it was opened")
        return content

    def _stored_sizes(self) -> NDArray[np.int64]:
        return np.asarray(self._size, dtype=np.int64)

    def _files_key(self) -> str:
        return files_key(self._shards, "tar rows", self._key, self._shard_names)


class _OpenFile:
    """A file descriptor that is closed after its last use, which may be in another thread."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)
