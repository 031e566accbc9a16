"""The kind of image source that a plain path is."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable
from pathlib import Path

from simsiam_eval.errors import DataError
from simsiam_eval.files.unicode_names import other_form_hint
from simsiam_eval.images.formats import ARRAYS, HEIF, has_image_ending, is_image_file
from simsiam_eval.sources import imagefolder, stl10, svhn
from simsiam_eval.sources.array_names import array_pairs
from simsiam_eval.sources.arrays import array_files
from simsiam_eval.sources.columnar_file import ColumnarFile
from simsiam_eval.sources.idx import idx_files, is_idx
from simsiam_eval.sources.parquet_columns import image_columns
from simsiam_eval.sources.shards import is_pattern
from simsiam_eval.sources.table_rows import FORMATS
from simsiam_eval.sources.unread import is_folder, is_ignored, is_ignored_folder
from simsiam_eval.wording import first_few

# Files and folders of published data sets.
_MARKERS = {
    "cifar10": ("data_batch_1", "data_batch_1.bin", "cifar-10-batches-py", "cifar-10-batches-bin"),
    "cifar100": ("train.bin", "fine_label_names.txt", "cifar-100-python", "cifar-100-binary"),
    "stl10": stl10.MARKERS,
    "svhn": tuple(f"{split}{svhn.SUFFIX}" for split in ("train", "test", "extra")),
}
_ARCHIVES = {"cifar-10-": "cifar10", "cifar-100-": "cifar100", "stl10_binary": "stl10"}
_ENDINGS = {
    ".txt": "list", ".h5": "hdf5", ".hdf5": "hdf5", ".zip": "zip", ".npz": "arrays", ".arrow": "parquet", ".tar": "tar",
    ".tgz": "tar", ".tbz2": "tar", ".txz": "tar",
}  # fmt: skip
_LOOKED_AT = 100_000  # entries of a folder
_FEW = 100  # in which other folders are looked into
_OF_FOLDERS = {".tar": "tar", ".zip": "zip", ".parquet": "parquet", ".arrow": "parquet"}


def kind_of(path: Path, kinds: Iterable[str]) -> str:
    """The kind of a plain path, among `kinds`.

    Raises:
        DataError: it does not exist, or does not match exactly one kind.
    """
    expected = (
        f"a folder, an image, a {'/'.join(FORMATS)} manifest, a .txt list, a .tar, .zip, .h5, .npz or .parquet file, or one "
        f"of {', '.join(f'{kind}:' for kind in kinds if kind != 'digits')}, digits"
    )
    name = path.name.lower()
    if not path.exists():
        if is_pattern(str(path)) and name.endswith((".tar", ".zip", ".parquet")):
            return name.rpartition(".")[2]
        raise DataError(f"{path} does not exist{other_form_hint(path)}; expected {expected}.")
    kind = _of_folder(path) if path.is_dir() else _of_file(path)
    if kind is None and path.suffix.lower() in HEIF:
        raise DataError(f"{path} requires pillow-heif: pip install pillow-heif.")
    if kind is None:
        raise DataError(f"{path} is not a supported image source; expected {expected}.")
    return kind


def _of_file(path: Path) -> str | None:
    name, ending = path.name.lower(), path.suffix.lower()
    if ending == ".parquet":
        return "parquet" if image_columns(ColumnarFile(path).schema) else "manifest"
    if ending in FORMATS:
        return "manifest"
    if kind := next((kind for start, kind in _ARCHIVES.items() if name.startswith(start)), None):
        return kind
    if name.endswith(svhn.SUFFIX):
        return "svhn"
    if is_idx(name):
        return "idx"
    if ending in _ENDINGS or ".tar." in name:
        return _ENDINGS.get(ending, "tar")
    return "image" if has_image_ending(name) or name.endswith(ARRAYS) or is_image_file(path) else None


def _of_folder(path: Path) -> str:
    with os.scandir(path) as entries:
        visible = [entry for entry in itertools.islice(entries, _LOOKED_AT) if not is_ignored(entry.name)]
    folders = {entry.name for entry in visible if is_folder(entry) and not is_ignored_folder(entry.name)}
    few = len(visible) < _FEW
    published = [kind for kind, names in _MARKERS.items() if any((path / name).exists() for name in names)]
    if few and idx_files(path):
        published.append("idx")
    if len(published) > 1:
        listed = first_few([f"{kind}:{path}" for kind in published])
        raise DataError(f"{path} has several data sets; choose one of {listed}.")
    if published:
        return published[0]
    if imagefolder.is_imagefolder(path, folders if few else ()):
        return "imagefolder"
    if (path / "dataset_dict.json").is_file():
        return "parquet"
    if few and folders and (kind := _of_splits(path, folders)):
        return kind
    # Beside images or class folders, other files are not the source.
    if folders - {"data"} or any(has_image_ending(entry.name) for entry in visible if not is_folder(entry)):
        return "folder"
    endings = {os.path.splitext(entry.name)[1].lower() for entry in visible}
    if "data" in folders:
        endings |= {file.suffix.lower() for file in (path / "data").glob("*.parquet")}
    files = array_files(path) if few else []
    if ".npz" in endings or any(pair.labels for pair in array_pairs(file.stem for file in files).values()):
        return "arrays"
    return next((kind for ending, kind in _OF_FOLDERS.items() if ending in endings), "folder")


def _of_splits(path: Path, folders: Iterable[str], depth: int = 2) -> str | None:
    """The kind of the files in folders, or in folders of them, that have no images; None if they hold others."""
    endings, inner = set(), set()
    for folder in folders:
        with os.scandir(path / folder) as entries:
            for entry in itertools.islice(entries, _FEW):
                if is_ignored(entry.name):
                    continue
                if has_image_ending(entry.name) and not is_folder(entry):
                    return None
                if not is_folder(entry):
                    endings.add(os.path.splitext(entry.name)[1].lower())
                elif not is_ignored_folder(entry.name):
                    inner.add(f"{folder}/{entry.name}")
    if inner:
        return _of_splits(path, inner, depth - 1) if depth > 1 and not endings & set(_OF_FOLDERS) else None
    return next((kind for ending, kind in _OF_FOLDERS.items() if ending in endings), None)
