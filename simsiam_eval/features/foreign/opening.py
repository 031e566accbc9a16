"""Open a file or folder of another program by its kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from simsiam_eval.errors import DataError
from simsiam_eval.features.foreign.arrays import ForeignArray, joined_arrays
from simsiam_eval.features.foreign.csv_files import csv_arrays
from simsiam_eval.features.foreign.hdf5 import hdf5_arrays
from simsiam_eval.features.foreign.matlab import matlab_arrays
from simsiam_eval.features.foreign.numbered import numbered_groups
from simsiam_eval.features.foreign.numpy_files import npy_arrays, npz_arrays
from simsiam_eval.features.foreign.parquet import parquet_arrays
from simsiam_eval.features.foreign.records import json_arrays
from simsiam_eval.features.foreign.text_lines import json_list, line_array
from simsiam_eval.features.foreign.torch_files import torch_arrays

# Extension -> reader of a file of that kind.
READERS: dict[str, Callable[[Path], list[ForeignArray]]] = {
    ".npy": npy_arrays,
    ".npz": npz_arrays,
    ".pt": torch_arrays,
    ".pth": torch_arrays,
    ".pkl": torch_arrays,
    ".safetensors": torch_arrays,
    ".h5": hdf5_arrays,
    ".hdf5": hdf5_arrays,
    ".parquet": parquet_arrays,
    ".csv": csv_arrays,
    ".tsv": csv_arrays,
    ".txt": csv_arrays,
    ".json": json_arrays,
    ".jsonl": json_arrays,
    ".mat": matlab_arrays,
}
# Lists in a folder that are read line by line.
_LINES = ("file_names.txt", "filenames.txt", "ids.txt", "paths.txt", "labels.txt")


def open_arrays(path: Path, lines: bool = False) -> tuple[list[ForeignArray], list[Path]]:
    """The arrays of a file, or of a folder as clip-retrieval, thingsvision, FiftyOne or `export --to npy` write it.

    Args:
        lines: whether a .txt or .json file is a list of values, one per row, instead of a table.

    Returns:
        The arrays, and the files that were read.

    Raises:
        DataError: missing, empty, of an unknown kind, or damaged.
    """
    try:
        if path.is_dir():
            return _folder(path)
        if not path.exists():
            raise DataError(f"{path} does not exist; expected a file or folder of features.")
        if path.suffix.lower() not in READERS:
            raise DataError(f"{path} is not of a supported kind; expected a folder or one of {', '.join(READERS)}.")
        if not path.stat().st_size:
            raise DataError(f"{path} is an empty file.")
        if lines and path.suffix.lower() == ".txt":
            return [line_array(path)], [path]
        if lines and path.suffix.lower() == ".json" and (values := json_list(path)) is not None:
            return [values], [path]
        return READERS[path.suffix.lower()](path), [path]
    except OSError as error:
        raise DataError(f"{path} cannot be read ({(error.strerror or str(error)).lower()}).") from error


def _folder(folder: Path) -> tuple[list[ForeignArray], list[Path]]:
    if (folder / "img_emb").is_dir():
        return _clip_retrieval(folder)
    if (folder / "samples.json").is_file():  # FiftyOne
        return open_arrays(folder / "samples.json")
    lists = [folder / name for name in _LINES if (folder / name).is_file()]
    arrays, files = [line_array(file) for file in lists], list(lists)
    npy = {file.stem: file for file in sorted(folder.glob("*.npy"))}
    groups = numbered_groups(list(npy))
    for group, stems in groups.items():
        parts = [npy.pop(stem) for stem in stems]
        arrays.append(_joined(group, parts, [npy_arrays(part)[0] for part in parts]))
        files += parts
    for stem, file in npy.items():
        arrays.append(replace(npy_arrays(file)[0], name=stem))
        files.append(file)
    others = [
        file for file in sorted(folder.glob("features.*")) if file.suffix.lower() in READERS and file.stem not in npy
    ]
    if len(others) > 1:
        names = " and ".join(file.name for file in others)
        raise DataError(
            f"{folder} contains {names}: import one of these files instead of the folder, and give its --ids."
        )
    for file in others:
        inside, _ = open_arrays(file)
        arrays += [replace(array, name="features") if len(inside) == 1 else array for array in inside]
        files.append(file)
    if not any(array.is_matrix for array in arrays):
        raise DataError(
            f"{folder} is not a folder of features; expected features.npy, img_emb/ (clip-retrieval) or samples.json "
            "(FiftyOne), or a file instead of a folder."
        )
    return arrays, files


def _clip_retrieval(folder: Path) -> tuple[list[ForeignArray], list[Path]]:
    """img_emb/img_emb_K.npy with the columns of metadata/metadata_K.parquet, and text_emb/ if there is one."""
    arrays, files = [], []
    numbers = None
    for name, ending in (("img_emb", ".npy"), ("text_emb", ".npy"), ("metadata", ".parquet")):
        parts = _numbered_files(folder / name, f"{name}_", ending)
        if not parts and name != "img_emb":
            continue
        if numbers is not None and list(parts) != numbers:
            raise DataError(
                f"{folder / name} has parts {_listed(list(parts))} and img_emb has {_listed(numbers)}; expected a part of "
                "each for every number."
            )
        numbers = list(parts)
        paths = list(parts.values())
        opened = [READERS[ending](part) for part in paths]
        files += paths
        if ending == ".npy":
            arrays.append(_joined(name, paths, [part[0] for part in opened]))
            continue
        for array in opened[0]:
            columns = [column for part in opened for column in part if column.name == array.name]
            if len(columns) == len(opened):
                arrays.append(_joined(array.name, paths, columns))
    return arrays, files


def _numbered_files(folder: Path, prefix: str, ending: str) -> dict[int, Path]:
    found = {}
    for file in folder.glob(f"{prefix}*{ending}"):
        number = file.name[len(prefix) : -len(ending)]
        if number.isdigit():
            found[int(number)] = file
    if not found and prefix == "img_emb_":
        raise DataError(
            f"{folder} contains no {prefix}0{ending}; expected the output folder of clip-retrieval inference."
        )
    return dict(sorted(found.items()))


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")


def _joined(name: str, files: list[Path], parts: list[ForeignArray]) -> ForeignArray:
    return replace(joined_arrays(parts, list(map(str, files))), name=name)
