"""An index on disk with what its rows are: NAME, in FAISS's own format, and NAME.h5, ids, labels, attributes and recall."""

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
_LOOK = 1 << 20  # bytes at either end by which an index file is known again


@dataclass(frozen=True)
class Measured:
    """How an index was searched when it was held against exact search.

    Attributes:
        parameters: FAISS's search parameters.
        recall, k: the share of the k exact neighbors that it found.
    """

    parameters: str
    recall: float
    k: int


def write_index_file(path: Path, index: NeighborIndex, images: ImageTable, measured: Measured) -> None:
    """Write both files; the second is written last and names the first by its content.

    Raises:
        DataError: they cannot be written.
    """
    index.save(path)
    with atomic_write(rows_file(path)) as out, h5py.File(out, "w") as file:
        file.attrs.update(
            {"format": _FORMAT, "factory": index.factory, "metric": index.metric, "index": _mark(path)}
            | {name: json.dumps(images.attributes[name]) for name in _JSON}
            | {"precision": images.attributes["precision"], "parameters": measured.parameters}
            | {"recall": measured.recall, "recall_k": measured.k}
        )
        file["labels"] = images.labels
        file.create_dataset("ids", data=images.ids.tolist(), dtype=h5py.string_dtype())


def read_index_file(path: Path) -> tuple[NeighborIndex, ImageTable, Measured]:
    """The index, mapped into memory, the images of its rows, and its recall.

    Raises:
        DataError: one of the two files is missing, damaged or of another build.
    """
    beside = rows_file(path)
    if not path.exists() or not beside.exists():
        raise DataError(f"There is no index {path} with {beside.name} beside it: make both with `retrieval build`.")
    try:
        with h5py.File(beside, "r", locking=False) as file:
            if file.attrs.get("format") != _FORMAT:
                raise DataError(f"{beside} does not describe the rows of an index.")
            attributes: dict[str, Any] = {name: json.loads(file.attrs[name]) for name in _JSON}
            attributes["precision"] = file.attrs["precision"]
            factory, metric, mark = (file.attrs[name] for name in ("factory", "metric", "index"))
            measured = Measured(file.attrs["parameters"], float(file.attrs["recall"]), int(file.attrs["recall_k"]))
            ids, labels, _ = read_images(file)
    except (OSError, KeyError) as error:
        raise DataError(f"{beside} is damaged ({error}): build the index again.") from error
    if mark != _mark(path):
        raise DataError(f"{path} and {beside} are not of one build: build the index again.")
    index = load_index(path, factory, metric)
    images = ImageTable(
        ids=ids, labels=labels, rows=np.arange(len(ids)), width=index.index.d, attributes=attributes, path=path
    )
    return index, images, measured


def rows_file(path: Path) -> Path:
    """Where the rows of an index are described."""
    return path.with_name(path.name + ".h5")


def _mark(path: Path) -> str:
    size = os.path.getsize(path)
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        digest.update(file.read(_LOOK))
        file.seek(max(0, size - _LOOK))
        digest.update(file.read(_LOOK))
    return digest.hexdigest()
