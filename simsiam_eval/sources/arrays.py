"""`arrays:` NumPy arrays of pixels and labels, in an .npz file, an .npy file, or a folder of them."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsiam_eval.errors import DataError
from simsiam_eval.sources.array_names import ArrayPair, array_pairs, chosen_pair
from simsiam_eval.sources.pixel_rows import ArrayRows, array_labels
from simsiam_eval.sources.split_column import rows_of_split, split_column
from simsiam_eval.sources.splits import choose_split
from simsiam_eval.vocabulary import NO_LABEL
from simsiam_eval.wording import first_few

ENDINGS = (".npz", ".npy")
_MAX_SHOWN = 20
_IGNORE = " (ignore it with #label=none)"

Arrays = dict[str, Callable[[], NDArray[Any]]]  # name -> reads the array


def open_arrays(
    path: Path,
    spec: str,
    options: Mapping[str, str],
    default_split: str | None = None,
    no_label: Sequence[str] = NO_LABEL,
) -> ArrayRows:
    """Rows in the order of the array; id = its name and the row number.

    The arrays of an .npz file have names (`x_train`, `train_images`); that of an .npy file is named as the file, and those
    of several files in a folder by file and array (`train/x`).

    Args:
        options: images: the array of the images, (N,H,W), (N,H,W,C) or (N,C,H,W) of numbers; label: the array of their
            labels, (N,) numbers or texts, or `none`; split: the split in the names of the arrays, or in an array
            `split` with the split of each row. Common names are found without options.
        default_split: train or test, used where there are splits and the options name none.
        no_label: as of `Labels`, which numbers the labels.

    Raises:
        DataError: a file is damaged or contains Python objects; no array is named as images, or several are; another type
            or shape.
    """
    arrays = _arrays(path)
    # Splits in the names of the arrays come first.
    column = None if any(split for split, _ in array_pairs(arrays)) else split_column(arrays, (options.get("label"),))
    if column is None:
        pair = _pair(arrays, spec, options, default_split, path)
    else:
        pair = _pair(arrays, spec, {name: value for name, value in options.items() if name != "split"}, None, path)
    pixels = _read(arrays, pair.images, "images", path)
    values = None if pair.labels is None else _read(arrays, pair.labels, "label", path)
    if not len(pixels.shape) or not len(pixels):
        raise DataError(f"{pair.images} of {path} has no rows.")
    where = f"{pair.labels} of {path}"
    rows = None
    if column is not None:
        named = _read(arrays, column, "split", path)
        if named.shape[:1] == (len(pixels),) and named.size == len(pixels) and named.dtype.kind in "USiu":
            _, rows = rows_of_split(column, named, options.get("split"), default_split, spec)
        else:
            choose_split((), options.get("split"), default_split, spec)
    array_labels(values, len(pixels), where, no_label, hint=_IGNORE)  # of another shape
    labels = array_labels(
        values if values is None or rows is None else values[rows],
        len(pixels) if rows is None else len(rows),
        where,
        no_label,
        hint=_IGNORE,
    )
    source = ArrayRows(spec, pixels, *labels.numbered(where), pair.images, f"{pair.images} of {path}", rows)
    source.notes += labels.notes()
    return source


def array_files(path: Path) -> list[Path]:
    """The array files in a folder."""
    return sorted(file for file in path.iterdir() if file.suffix.lower() in ENDINGS and file.name[0] != ".")


def _arrays(path: Path) -> Arrays:
    if not path.is_dir():
        return _arrays_of(path)
    arrays: Arrays = {}
    for file in array_files(path):
        of_file = _arrays_of(file)
        several = len(of_file) > 1
        arrays |= {f"{file.stem}/{name}" if several else file.stem: read for name, read in of_file.items()}
    if not arrays:
        raise DataError(f"{path} has no {' or '.join(ENDINGS)} files.")
    return arrays


def _arrays_of(file: Path) -> Arrays:
    if file.suffix.lower() == ".npy":
        return {file.stem: partial(np.load, file, mmap_mode="r", allow_pickle=False)}
    try:
        with zipfile.ZipFile(file) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    except zipfile.BadZipFile as error:
        raise DataError(f"{file} is truncated or not an .npz file ({error}).") from error

    def read(name: str) -> NDArray[Any]:
        with np.load(file, allow_pickle=False) as archive:
            return archive[name]

    return {name: partial(read, name) for name in names}


def _read(arrays: Arrays, name: str, option: str, path: Path) -> NDArray[Any]:
    if name not in arrays:
        listed = first_few(list(arrays), _MAX_SHOWN)
        raise DataError(f"{path} has no array {name!r}; expected one of {listed} (choose with #{option}=NAME).")
    try:
        return arrays[name]()
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        why = (
            "contains Python objects, which are not loaded"
            if "allow_pickle" in str(error) or "Python objects" in str(error)
            else f"is damaged: {str(error).rstrip('.')}"
        )
        raise DataError(f"{name} of {path} {why}.") from error


def _pair(arrays: Arrays, spec: str, options: Mapping[str, str], default_split: str | None, path: Path) -> ArrayPair:
    """The arrays of images and labels: those that the options name, else those of the chosen split."""
    if "images" in options:
        named = array_pairs(arrays).values()
        known = next((pair for pair in named if pair.images == options["images"]), None)
        pair = known or ArrayPair(options["images"], None)
    elif chosen := chosen_pair(arrays, options, default_split, spec):
        pair = chosen
    elif len(arrays) == 1:
        pair = ArrayPair(next(iter(arrays)), None)
    else:
        listed = first_few(list(arrays), _MAX_SHOWN)
        raise DataError(
            f"No array of {path} is named as images ({listed}); name the images and labels with #images=NAME,label=NAME."
        )
    if label := options.get("label"):
        pair = pair._replace(labels=None if label == "none" else label)
    return pair
