"""`idx:` the format of MNIST, Fashion-MNIST, KMNIST and EMNIST: train-images-idx3-ubyte, also compressed (.gz)."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsiam_eval.errors import DataError
from simsiam_eval.sources.array_names import ArrayPair, array_pairs
from simsiam_eval.sources.pixel_rows import ArrayRows, array_labels
from simsiam_eval.sources.splits import choose_split
from simsiam_eval.vocabulary import NO_LABEL

_FORMAT = re.compile(r"[-.]idx\d-(ubyte|int)(\.gz)?$", re.IGNORECASE)
_TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


def open_idx(
    path: Path,
    spec: str,
    options: Mapping[str, str],
    default_split: str | None = None,
    no_label: Sequence[str] = NO_LABEL,
) -> ArrayRows:
    """Rows in the order of the file; id = the name of the file and the row number; values and axes as they are stored.

    Args:
        path: a folder with the files (also in its raw/ or MNIST/raw/), or a file of images beside its labels.
        options: name: which of several data sets in the folder (`letters` of EMNIST's); split: train or test.
        default_split: train or test, used where the options name none.
        no_label: as of `Labels`, which numbers the labels.

    Raises:
        DataError: files are missing, damaged, or of several data sets.
    """
    folder = path if path.is_dir() else path.parent
    files = idx_files(folder)
    pairs = {key: pair for key, pair in array_pairs(files).items() if not path.is_file() or files[pair.images] == path}
    if not pairs:
        raise DataError(f"{path} has no images in the IDX format, such as train-images-idx3-ubyte or its .gz.")
    name = options.get("name", "").lower()
    sets = sorted({words for _, words in pairs})
    chosen = [words for words in sets if name in (words, *words.split("-"))] if name else sets
    if len(chosen) != 1:
        raise DataError(
            f"{path} has {'no' if not chosen else 'several'} data sets {name or ''}".rstrip()
            + (f" ({', '.join(sets)}); choose one with #name=NAME, for example #name={sets[-1].rpartition('-')[2]}.")
        )
    splits = {split: pair for (split, words), pair in pairs.items() if words == chosen[0]}
    split = choose_split(set(splits) - {""}, options.get("split"), default_split, spec)
    if split is None and "" not in splits:
        raise DataError(f"{spec}: the splits of IDX files cannot be joined; choose one of {', '.join(sorted(splits))}.")
    return _open_pair(splits[split or ""], files, spec, no_label)


def _open_pair(pair: ArrayPair, files: Mapping[str, Path], spec: str, no_label: Sequence[str]) -> ArrayRows:
    file = files[pair.images]
    pixels = _read(file)
    if not len(pixels):
        raise DataError(f"{file} has no images.")
    label_file = files[pair.labels] if pair.labels else None
    labels = array_labels(_read(label_file) if label_file else None, len(pixels), str(label_file), no_label)
    name = _FORMAT.sub("", file.name)
    source = ArrayRows(spec, pixels, *labels.numbered(str(label_file)), name, str(file))
    source.notes += labels.notes()
    if name.lower().startswith("emnist"):
        source.notes.append("the images of EMNIST are stored transposed, and are read so, as in torchvision")
    return source


def idx_files(folder: Path) -> dict[str, Path]:
    """The files in the IDX format in a folder, its raw/, or the only NAME/raw/ in it, by name without the format; of a
    file and its .gz, the first.

    Raises:
        DataError: several NAME/raw/.
    """
    places = [place for place in (folder, folder / "raw") if _of(place)]
    if not places:
        places = [place for place in sorted(folder.glob("*/raw")) if _of(place)]
        if len(places) > 1:
            listed = ", ".join(place.parent.name for place in places)
            raise DataError(f"{folder} has several data sets ({listed}); add one to the path.")
    # t10k: the ten thousand test images of MNIST
    return (
        {re.sub("t10k", "test", _FORMAT.sub("", file.name)): file for file in reversed(_of(places[0]))}
        if places
        else {}
    )


def is_idx(name: str) -> bool:
    """Whether a file name is that of a file in the IDX format."""
    return _FORMAT.search(name) is not None


def _of(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if is_idx(file.name)) if folder.is_dir() else []


def _read(file: Path) -> NDArray[Any]:
    """The array in a file."""
    try:
        content = gzip.decompress(file.read_bytes()) if file.suffix.lower() == ".gz" else file.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{file} is damaged: {error}.") from error
    dimensions = content[3] if len(content) > 3 else 0
    start = 4 + 4 * dimensions
    if content[:2] != b"\0\0" or content[2] not in _TYPES or not dimensions or len(content) < start:
        raise DataError(f"{file} is not in the IDX format: its header is damaged.")
    shape = np.frombuffer(content, ">u4", dimensions, 4).astype(np.int64)
    dtype = np.dtype(_TYPES[content[2]])
    if len(content) != start + int(shape.prod()) * dtype.itemsize:
        raise DataError(f"{file} is truncated or damaged: its header says {'x'.join(map(str, shape))} values.")
    return np.frombuffer(content, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="), copy=False)
