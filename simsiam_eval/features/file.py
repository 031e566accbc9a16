"""The feature file (HDF5): its attributes, their validation, and differences between files.

Layout: docs/feature-file.md. Reading: reader.py; writing: writer.py.
"""

from __future__ import annotations

import errno
import json
import os
import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from simsiam_eval.errors import DataError
from simsiam_eval.files.hdf5_storage import require_stored, virtual_sources
from simsiam_eval.images.intensity import Intensity
from simsiam_eval.vocabulary import FEATURE_FILE_FORMAT, PRECISIONS, UNKNOWN_PRECISION

FORMAT, FORMAT_VERSION = FEATURE_FILE_FORMAT, 1
JSON_ATTRIBUTES = ("encoder", "assumptions", "preprocessing", "source", "views", "computation", "versions")
# Bytes of `valid` in a .part file: 0 for a row that is not written, and these.
VALID, UNREADABLE = 1, 2
# What does not say which images and which encoder these are: the fingerprint identifies the images, however they are
# spelled, and the hash of the weights the encoder, whatever options found it in its checkpoint and whatever was assumed.
NOT_COMPARED = frozenset({"spec", "branch", "channel_order", "assumptions"})
_OTHER_FILES = 256  # file descriptors for everything but the parts of virtual files
_parts_of: dict[str, int] = {}  # virtual files opened so far -> number of parts


def part_of(path: Path) -> Path:
    """What the feature file `path` is called while it is written."""
    return path.with_name(path.name + ".part")


def read_attributes(path: Path) -> dict[str, Any]:
    """Root attributes of a feature file, its JSON texts parsed, with `shape` and `dtype` of the features, the number of
    `unreadable` images, and `columns`: dataset -> shape of a row, of `features`, `layers/NAME` and `views`.

    Raises:
        DataError: missing, not HDF5, not a feature file, of a newer version, or not complete.
    """
    with open_hdf5(path) as file:
        return attributes_of(file)


def open_hdf5(path: Path) -> h5py.File:
    """An HDF5 file, open for reading.

    Raises:
        DataError: missing, unreadable, or not HDF5.
    """
    if not path.exists():
        partial = part_of(path)
        hint = f" ({partial.name} is an unfinished extraction; rerun its command)" if partial.exists() else ""
        raise DataError(f"Feature file {path} does not exist{hint}.")
    try:
        os.close(os.open(path, os.O_RDONLY))  # HDF5 reports every error as the same one
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}.") from error
    try:
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        raise DataError(f"{path} is not an HDF5 file, or it is damaged.") from error


def attributes_of(file: h5py.File) -> dict[str, Any]:
    """As `read_attributes`, of an open file."""
    name = file.filename
    attributes = {key: value.item() if isinstance(value, np.generic) else value for key, value in file.attrs.items()}
    if attributes.get("format") != FORMAT:
        raise DataError(f"{name} is an HDF5 file but not a feature file (its attribute format is not {FORMAT}).")
    try:
        if empty := [key for key, value in attributes.items() if isinstance(value, h5py.Empty)]:
            raise ValueError(f"the attribute {empty[0]} is empty")
        version = attributes["format_version"]
        if version > FORMAT_VERSION:
            raise DataError(f"{name} has format version {version}; this program reads up to {FORMAT_VERSION}.")
        if not attributes["complete"]:
            raise DataError(f"{name} is incomplete: delete it and extract it again.")
        for key in JSON_ATTRIBUTES:
            attributes[key] = json.loads(attributes.get(key, "null"))
        features = file["features"]
        columns = {"features": features.shape[1:]}
        columns |= {f"layers/{layer}": dataset.shape[1:] for layer, dataset in file.get("layers", {}).items()}
        if "views" in file:
            columns["views"] = file["views"].shape[1:]
        attributes |= {"shape": features.shape, "dtype": str(features.dtype), "columns": columns}
        attributes["unreadable"] = len(file["errors"])
        if problem := _malformed(attributes):
            raise ValueError(problem)
        attributes["parts"] = _parts(file, features, attributes)
        for dataset in (name for name in (*columns, "labels", "ids", "valid") if name in file):
            if file[dataset].shape is None:
                raise ValueError(f"the dataset {dataset} is empty")
            if not file[dataset].is_virtual:  # of parts, which are checked by themselves
                require_stored(file[dataset], f"{name}: {dataset}")
    except (KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:  # RuntimeError: circular links
        raise DataError(f"{name} is damaged: {error}; extract it again.") from error
    return attributes


def _malformed(attributes: Mapping[str, Any]) -> str | None:
    """What is wrong with the first attribute that is not as docs/feature-file.md describes it."""
    for key in ("encoder", "preprocessing", "source", "views"):
        if not isinstance(attributes[key], dict) and (key, attributes[key]) != ("views", None):
            return f"the attribute {key} is not a JSON object"
    if attributes["assumptions"] is not None and not _are_texts(attributes["assumptions"]):
        return "the attribute assumptions is not a list of sentences"
    precision, source = attributes.get("precision"), attributes["source"]
    known = (*PRECISIONS, UNKNOWN_PRECISION)
    if not isinstance(precision, str) or precision not in known:
        return f"the attribute precision is not one of {', '.join(known)}"
    names = source.get("class_names")
    if names is not None and not _are_texts(names):
        return "the class_names of its source are not a list of names"
    rows = attributes["shape"][0]
    match source.get("rows"):
        case None if "rows" not in source:
            return None
        case [int(first), int(stop)] if 0 <= first < stop <= source.get("rows_of", stop) and stop - first == rows:
            return None
    return f"its source says rows {source['rows']} of {source.get('rows_of', 'more')}, but it contains {rows}"


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def differences(actual: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """Names of the attributes in which a file differs from what is expected; "source.fingerprint" for one within another.

    What is in NOT_COMPARED does not count, nor do black and white of a type of values that only one of the two has.

    >>> differences({"views": 1, "source": {"spec": "a", "fingerprint": "1"}}, {"source": {"spec": "b", "fingerprint": "2"}})
    ['source.fingerprint']
    """
    differing = []
    for key, value in expected.items():
        other = actual.get(key)
        if key in NOT_COMPARED:
            continue
        if isinstance(value, dict) and isinstance(other, dict):
            names = sorted({name for name in {*value, *other} if _differs(name, value.get(name), other.get(name))})
            differing += [f"{key}.{name}" for name in names]
        elif other != value:
            differing.append(key)
    return differing


def _differs(name: str, value: Any, other: Any) -> bool:
    """Whether two values of an entry of an attribute contradict each other."""
    if name in NOT_COMPARED or value == other:
        return False
    if name != "intensity":
        return True
    try:
        return not Intensity.from_json(value).agrees_with(Intensity.from_json(other))
    except (TypeError, ValueError):
        return True


def in_hdf5(path: str) -> str:
    """A file's name as a virtual dataset stores it, where % begins a block's number (H5Pset_virtual).

    >>> in_hdf5("50% of it.h5")
    '50%% of it.h5'
    """
    return path.replace("%", "%%")


def _parts(file: h5py.File, features: h5py.Dataset, attributes: dict[str, Any]) -> list[Path]:
    """The files that a virtual one points at. HDF5 reads zeros where one is missing, so this is checked here."""
    if not features.is_virtual:
        return []
    _allow_open_files(file.filename, len(features.virtual_sources()))
    sources, first = list(virtual_sources(features)), attributes["source"].get("rows", [0])[0]
    for source, part in sources:
        if part.resolve() == Path(file.filename).resolve():
            raise DataError(f"{file.filename} is virtual and a part of itself: delete it and merge again.")
        if not part.exists():
            raise DataError(
                f"{file.filename} is virtual and its part {part} is missing: put it back, or delete the "
                "virtual file and merge again."
            )
        part_attributes = read_attributes(part)
        common = ("encoder", "preprocessing", "views", "precision", "dtype")
        same = not differences(part_attributes, {key: attributes[key] for key in common})
        start, end = (int(corner[0]) for corner in source.vspace.get_select_bounds())
        same = same and part_attributes["source"].get("rows") == [first + start, first + end + 1]
        if not same or part_attributes["source"].get("fingerprint") != attributes["source"].get("fingerprint"):
            raise DataError(
                f"{file.filename} is virtual and its part {part} is not the one it was merged from: delete the virtual "
                "file and merge again."
            )
    return [part for _, part in sources]


def _allow_open_files(name: str, parts: int) -> None:
    """HDF5 keeps all parts of a virtual file open, and reads zeros where it cannot open one more. Several such files may be
    open at the same time.

    Raises:
        DataError: the system allows fewer.
    """
    _parts_of[name] = parts
    needed = sum(_parts_of.values()) + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            raise DataError(
                f"{name} refers to {parts} parts, which must all be open at once ({needed} open files in total), but the "
                f"system allows {hard} (ulimit -n): merge them without --virtual."
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
