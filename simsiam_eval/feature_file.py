"""The feature file (HDF5) and how it is read. Layout: docs/feature-file.md; writing: feature_writer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from simsiam_eval.errors import DataError

FORMAT, FORMAT_VERSION = "simsiam-eval-features", 1
JSON_ATTRIBUTES = ("encoder", "preprocessing", "source", "views", "versions")
# Bytes of `valid` in a .part file: 0 for a row that is not written, and these.
VALID, UNREADABLE = 1, 2


@dataclass(frozen=True)
class Features:
    """A feature file in memory, without the rows whose image could not be read.

    Attributes:
        features: (N,D) float32.
        labels: (N,) int64, -1 for none.
        ids: (N,) str.
        attributes: the root attributes, with encoder, preprocessing, source and versions as dicts.
        unreadable: how many rows were left out.
        path: where it was read.
    """

    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    ids: NDArray[np.str_]
    attributes: dict[str, Any]
    unreadable: int
    path: Path

    @property
    def class_names(self) -> list[str] | None:
        """Name of each label, or None where labels are numbers of their own."""
        names: list[str] | None = self.attributes["source"].get("class_names")
        return names


def read_attributes(path: Path) -> dict[str, Any]:
    """Root attributes of a feature file, its JSON texts parsed, with `shape` and `dtype` of the features, the number of
    `unreadable` images, and `columns`: data set -> shape of a row, of `features`, `layers/NAME` and `views`.

    Raises:
        DataError: missing, not HDF5, not a feature file, of a newer version, or not complete.
    """
    with _open(path) as file:
        return _attributes(file)


def read_features(path: Path) -> Features:
    """Read a whole feature file.

    Raises:
        DataError: as read_attributes; also features that are not finite, data sets that do not fit together, no
            readable row.
    """
    with _open(path) as file:
        attributes = _attributes(file)
        try:
            features, labels, valid = file["features"][:], file["labels"][:], file["valid"][:].astype(bool)
            ids = file["ids"].asstr()[:].astype(str)
        except (KeyError, OSError) as error:
            raise DataError(f"{path} is damaged: {error}; extract it again.") from error
    if features.ndim != 2 or not len(features) == len(labels) == len(ids) == len(valid):
        raise DataError(f"{path} is damaged: features {features.shape}, labels {labels.shape} and ids do not fit.")
    if not valid.any():
        raise DataError(f"{path} holds no row whose image could be read.")
    features = features[valid].astype(np.float32)
    if not np.isfinite(features).all():
        row = int(np.flatnonzero(valid)[~np.isfinite(features).all(axis=1)][0])
        raise DataError(f"{path} holds a feature that is not finite (row {row}); extract it again in float32.")
    return Features(features, labels[valid].astype(np.int64), ids[valid], attributes, int((~valid).sum()), path)


def _open(path: Path) -> h5py.File:
    if not path.exists():
        partial = part_of(path)
        hint = f" ({partial.name} is an unfinished extraction: run its command again)" if partial.exists() else ""
        raise DataError(f"There is no feature file {path}{hint}.")
    try:
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        raise DataError(f"{path} is not an HDF5 file, or it is damaged.") from error


def _attributes(file: h5py.File) -> dict[str, Any]:
    name = file.filename
    found = {key: value.item() if isinstance(value, np.generic) else value for key, value in file.attrs.items()}
    if found.get("format") != FORMAT:
        raise DataError(f"{name} is HDF5 but not a feature file (no attribute format = {FORMAT}).")
    if found["format_version"] > FORMAT_VERSION:
        raise DataError(f"{name} has format version {found['format_version']}; this program reads {FORMAT_VERSION}.")
    if not found["complete"]:
        raise DataError(f"{name} is not complete: run its extraction again to finish it.")
    for key in JSON_ATTRIBUTES:
        found[key] = json.loads(found.get(key, "null"))
    features = file["features"]
    found["shape"], found["dtype"], found["unreadable"] = features.shape, str(features.dtype), len(file["errors"])
    found["columns"] = {"features": features.shape[1:]}
    found["columns"] |= {f"layers/{name}": layer.shape[1:] for name, layer in file.get("layers", {}).items()}
    if "views" in file:
        found["columns"]["views"] = file["views"].shape[1:]
    return found


def part_of(path: Path) -> Path:
    """What the feature file `path` is called while it is written."""
    return path.with_name(path.name + ".part")
