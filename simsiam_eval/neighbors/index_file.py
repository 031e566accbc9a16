"""An index on disk: NAME in FAISS's own format; NAME.h5 with its recall and the ids, labels and attributes of its rows."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from simsiam_eval.errors import DataError
from simsiam_eval.features.reader import read_images
from simsiam_eval.features.table import ImageTable
from simsiam_eval.files.atomic import atomic_write
from simsiam_eval.neighbors.approximate import NeighborIndex, load_index

_FORMAT = "simsiam-eval-index-rows"
_JSON = ("encoder", "preprocessing", "source")
_HASHED = 1 << 20  # bytes at either end of an index file that identify it


@dataclass(frozen=True)
class MeasuredRecall:
    """Recall of an index and the search parameters that it was measured with.

    Attributes:
        parameters: FAISS's search parameters.
        recall: share of the k exact neighbors found.
        k: number of neighbors.
    """

    parameters: str
    recall: float
    k: int


def write_index_file(path: Path, index: NeighborIndex, images: ImageTable, measured: MeasuredRecall) -> None:
    """Write both files; the second is written last and identifies the first by a hash.

    Raises:
        DataError: they cannot be written.
    """
    index.save(path)
    with atomic_write(rows_file(path)) as out, h5py.File(out, "w") as file:
        file.attrs.update(
            {"format": _FORMAT, "factory": index.factory, "metric": index.metric, "index": _fingerprint(path)}
            | {name: json.dumps(images.attributes[name]) for name in _JSON}
            | {"assumptions": json.dumps(images.attributes.get("assumptions"))}
            | {"precision": images.attributes["precision"], "parameters": measured.parameters}
            | {"recall": measured.recall, "recall_k": measured.k}
        )
        file["labels"] = images.labels
        file.create_dataset("ids", data=images.ids.tolist(), dtype=h5py.string_dtype())


def read_index_file(path: Path) -> tuple[NeighborIndex, ImageTable, MeasuredRecall]:
    """The memory-mapped index, the images of its rows, and its recall.

    Raises:
        DataError: one of the two files is missing, damaged or from another build.
    """
    sidecar = rows_file(path)
    if not path.exists() or not sidecar.exists():
        raise DataError(f"{path} and {sidecar.name} are both needed; create them with `retrieval build`.")
    try:
        with h5py.File(sidecar, "r", locking=False) as file:
            if file.attrs.get("format") != _FORMAT:
                raise DataError(f"{sidecar} does not describe the rows of an index.")
            attributes: dict[str, Any] = {name: json.loads(file.attrs[name]) for name in _JSON}
            attributes["assumptions"] = json.loads(file.attrs.get("assumptions", "null"))
            attributes["precision"] = file.attrs["precision"]
            factory, metric, fingerprint = (file.attrs[name] for name in ("factory", "metric", "index"))
            measured = MeasuredRecall(
                file.attrs["parameters"], float(file.attrs["recall"]), int(file.attrs["recall_k"])
            )
            ids, labels, _ = read_images(file)
    except (OSError, KeyError) as error:
        raise DataError(f"{sidecar} is damaged ({error}). Build the index again.") from error
    if fingerprint != _fingerprint(path):
        raise DataError(f"{path} and {sidecar} are from different builds. Build the index again.")
    index = load_index(path, factory, metric)
    width: int = index.index.d
    images = ImageTable(ids=ids, labels=labels, rows=np.arange(len(ids)), width=width, attributes=attributes, path=path)
    return index, images, measured


def rows_file(path: Path) -> Path:
    """Path of the file that describes the rows of an index."""
    return path.with_name(path.name + ".h5")


def _fingerprint(path: Path) -> str:
    size = os.path.getsize(path)
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        digest.update(file.read(_HASHED))
        file.seek(max(0, size - _HASHED))
        digest.update(file.read(_HASHED))
    return digest.hexdigest()
