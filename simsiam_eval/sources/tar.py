"""`tar:` plain tar files: WebDataset shards, or archives of image folders; images are read in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from simsiam_eval.images.formats import image_endings
from simsiam_eval.sources.archive import ArchiveSource, archives
from simsiam_eval.sources.file_state import files_key
from simsiam_eval.sources.remembered import Arrays, remembered_arrays
from simsiam_eval.sources.shards import is_pattern, names_of
from simsiam_eval.sources.tar_index import reject_compressed, tar_index
from simsiam_eval.vocabulary import NO_LABEL


def open_tar(
    path: Path,
    spec: str,
    options: Mapping[str, str],
    default_split: str | None = None,
    no_label: Sequence[str] = NO_LABEL,
) -> TarSource:
    """Rows in the order of the shards and of the images in them.

    Args:
        path: a .tar file, a pattern (`train-{0000..0012}.tar`, `*.tar`) or a folder of .tar files.
        options: label: where the labels are (`cls` or `txt`: the text of that member; `none`; else a key of the `.json`
            member; default: `cls` if there is any, else the class folders); image: full extension of the images, for
            samples with several; folder: the folder in the archive that contains the class folders; split: one of the
            splits in the file names or top folders, or `none` for all.
        default_split: train or test, used where there are splits and the options name none.
        no_label: as of `Labels`, which numbers the labels.

    The id is the image's name in the archive (where class folders give the labels: below `folder`, or below the folder
    that all images share), after the shard's name unless `path` is a single file.

    Raises:
        DataError: a shard is missing, compressed, truncated or not a tar file; two members have one name; there are no
            images; labels are missing or cannot be read; splits and classes cannot be distinguished.
    """
    if path.is_dir() and not any(file.suffix.lower() == ".tar" for file in path.iterdir()):
        for file in sorted(path.iterdir()):
            if file.is_file() and not file.name.startswith("."):
                reject_compressed(file)
    shards, split_in_names = archives(path, spec, ".tar", options, default_split)
    for shard in shards:
        reject_compressed(shard)
    splits = (None, None) if split_in_names else (options.get("split"), default_split)
    settings = (options.get("label"), options.get("image"), options.get("folder"), *splits, no_label)
    # The index takes one read of every header: minutes for millions of images.
    key = files_key(shards, "tar", 6, *map(repr, settings), image_endings())
    index = remembered_arrays(key, lambda: tar_index(shards, spec, *settings))
    has_several = is_pattern(str(path)) or path.is_dir()
    return TarSource(spec, shards, index, key, names_of(shards) if has_several else None)


class TarSource(ArchiveSource):
    """Images in tar files; `index` is what `tar_index` returns."""

    def __init__(self, spec: str, shards: list[Path], index: Arrays, key: str, shard_names: list[str] | None) -> None:
        super().__init__(spec, shards, index, key, shard_names)
        self._offset = index["offset"]

    def _read(self, descriptor: int, row: int) -> bytes:
        return self._read_at(descriptor, row, int(self._offset[row]), int(self._size[row]))
