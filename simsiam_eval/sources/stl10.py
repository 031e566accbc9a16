"""`stl10:` STL-10 in its binary version: a folder or the published archive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsiam_eval.errors import DataError, UsageError
from simsiam_eval.files.text import label_text
from simsiam_eval.sources.pixel_rows import ArrayRows, array_labels
from simsiam_eval.sources.published import file_reader, find_file
from simsiam_eval.sources.splits import choose_split
from simsiam_eval.vocabulary import NO_LABEL

_FOLDERS = ("stl10_binary",)
_SPLITS = {
    "train": ("train_X.bin", "train_y.bin"),
    "test": ("test_X.bin", "test_y.bin"),
    "unlabeled": ("unlabeled_X.bin",),
}
_SHAPE = (3, 96, 96)
_NAMES, _FOLDS = "class_names.txt", "fold_indices.txt"
MARKERS = ("train_X.bin", "test_X.bin", "unlabeled_X.bin", *_FOLDERS)


def open_stl10(
    path: Path,
    spec: str,
    options: Mapping[str, str],
    default_split: str | None = None,
    no_label: Sequence[str] = NO_LABEL,
) -> ArrayRows:
    """Rows in the order of the file; ids such as train/00000042.

    Args:
        options: split: train, test or unlabeled; fold: 0 to 9, one of the ten predefined folds
            of 1,000 training images.
        default_split: train or test, used where the options name none.
        no_label: as of `Labels`.

    Raises:
        UsageError: an impossible fold.
        DataError: files are missing, damaged or truncated.
    """
    found = _available(path)
    split = choose_split(found, options.get("split"), default_split, spec)
    if split is None:
        raise UsageError(f"{spec}: the splits of STL-10 cannot be joined; choose one of {', '.join(found)}.")
    names = (*_SPLITS[split], _NAMES, _FOLDS)
    read = file_reader(path, _FOLDERS, names)
    images = _mapped(path, names[0])
    pixels = _values(read(names[0]) if images is None else images, names[0], path)
    if not len(pixels) or len(pixels) % int(np.prod(_SHAPE)):
        raise DataError(f"{names[0]} of {path} is truncated: {len(pixels)} bytes.")
    pixels = pixels.reshape(-1, *_SHAPE).transpose(0, 1, 3, 2)  # stored column by column
    where = f"{_SPLITS[split][-1]} of {path}"
    values, classes = None, None
    if split != "unlabeled":
        values = _values(read(_SPLITS[split][1]), _SPLITS[split][1], path)
        classes = label_text(read(_NAMES) or b"", f"{_NAMES} of {path}").split() or None
    if (
        values is not None
        and len(values)
        and not 1 <= values.min() <= values.max() <= (len(classes) if classes else 255)
    ):
        raise DataError(f"{where} is damaged: its labels are {values.min()} to {values.max()}; expected 1 to 10.")
    labels, class_names = array_labels(values, len(pixels), where, no_label, first=1).numbered(where, classes)
    rows = _fold(options.get("fold"), read(_FOLDS), split, spec, len(pixels))
    if rows is not None:
        pixels, labels = pixels[rows], labels[rows]
    return ArrayRows(spec, pixels, labels, class_names, split, f"{names[0]} of {path}")


def _available(path: Path) -> list[str]:
    if not path.is_dir():
        return list(_SPLITS)
    found = [split for split, files in _SPLITS.items() if find_file(path, _FOLDERS, files[0])]
    if not found:
        raise DataError(f"{path} has no train_X.bin, test_X.bin or unlabeled_X.bin; expected STL-10's binary files.")
    return found


def _mapped(path: Path, name: str) -> NDArray[np.uint8] | None:
    """A file in a folder without reading it: the unlabeled images take 2.8 GB."""
    file = find_file(path, _FOLDERS, name) if path.is_dir() else None
    return np.memmap(file, np.uint8, "r") if file is not None and file.stat().st_size else None


def _values(content: Any, name: str, path: Path) -> NDArray[np.uint8]:
    if content is None:
        raise DataError(f"{path} has no {name}.")
    return np.frombuffer(content, np.uint8) if isinstance(content, bytes) else content


def _fold(number: str | None, content: bytes | None, split: str, spec: str, images: int) -> NDArray[np.int64] | None:
    if number is None:
        return None
    if split != "train" or not number.isdecimal():
        raise UsageError(f"{spec}: #fold=NUMBER, from 0, is one of the predefined folds of the training set.")
    folds = [np.array(line.split(), dtype=np.int64) for line in (content or b"").decode().splitlines() if line.strip()]
    if int(number) >= len(folds) or folds[int(number)].max(initial=-1) >= images:
        raise DataError(f"{spec}: {_FOLDS} has {len(folds)} folds of {images} images; there is no fold {number}.")
    return folds[int(number)]
