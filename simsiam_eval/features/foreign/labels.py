"""Class numbers of rows from labels in any form, and class names from a file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsiam_eval.errors import DataError
from simsiam_eval.features.class_names import distinct_names
from simsiam_eval.features.foreign.arrays import ForeignArray, texts_of
from simsiam_eval.files.text import read_text
from simsiam_eval.sources.labels import Labels
from simsiam_eval.vocabulary import NO_LABEL


@dataclass(frozen=True)
class RowLabels:
    """(N,) int64 labels, -1 for none; the class names, None if there are only numbers; notes on how they were read."""

    labels: NDArray[np.int64]
    class_names: list[str] | None
    notes: tuple[str, ...] = ()


def row_labels(
    array: ForeignArray, class_names: Sequence[str] | None, where: str, no_label: Sequence[str] = NO_LABEL
) -> RowLabels:
    """The labels of an array of numbers or text, as `Labels` reads them.

    Args:
        class_names: in the order of their numbers, if they are known.
        where: the file, for messages.
        no_label: as of `Labels`.

    Raises:
        DataError: as `Labels.numbered`.
    """
    labels = Labels(no_label, row="row")
    if array.is_text:
        labels.extend(texts_of(array))
    else:
        for block in array.blocks():
            if block.dtype == object:
                block = np.array([np.nan if value is None else value for value in block], dtype=np.float64)
            labels.extend_numbers(block)
    return RowLabels(*labels.numbered(where, class_names), tuple(labels.notes()))


def folder_labels(ids: Sequence[str], class_names: Sequence[str] | None) -> RowLabels:
    """Labels from the folder in each id: the class of `train/cat/1.jpg` is cat.

    Raises:
        DataError: an id contains no folder, or the class has no name.
    """
    for row, name in enumerate(ids):
        if not PurePosixPath(name).parent.name:
            raise DataError(
                f"Row {row} has the id {name!r}, which contains no folder; --folder-labels needs one per id."
            )
    labels = Labels((), row="row")  # a folder is a class, whatever it is called
    labels.extend(PurePosixPath(name).parent.name for name in ids)
    return RowLabels(*labels.numbered("the ids", class_names))


def labels_by_id(
    ids: Sequence[str], label_ids: Iterable[str | None], labels: RowLabels, where: str
) -> tuple[RowLabels, int]:
    """Labels of a table matched to the rows by id, and how many rows have none there.

    Raises:
        DataError: an id is in the table twice with different labels, or no id is in the table.
    """
    label_of: dict[str, int] = {}
    for name, label in zip(label_ids, labels.labels.tolist(), strict=True):
        if name is not None and label_of.setdefault(name, label) != label:
            raise DataError(f"{where} has two different labels for {name}.")
    found = np.array([label_of.get(name, -2) for name in ids], dtype=np.int64)
    missing = int((found == -2).sum())
    if missing == len(ids):
        raise DataError(
            f"{where} has no label for any id of the features, such as {ids[0]}; its ids are like {next(iter(label_of))}."
        )
    return replace(labels, labels=np.maximum(found, -1)), missing


def read_class_names(path: Path) -> list[str]:
    """Class names from a text file, one per line, or from JSON: a list, or an object of numbers and names.

    Raises:
        DataError: missing, empty, or of another form.
    """
    try:
        text = read_text(path)
        names: Any = json.loads(text) if path.suffix.lower() == ".json" else text.splitlines()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({(error.strerror or str(error)).lower()}).") from error
    except ValueError as error:
        raise DataError(
            f"{path} is not {'JSON' if path.suffix.lower() == '.json' else 'UTF-8 text'} ({error})."
        ) from error
    if isinstance(names, dict) and sorted(names, key=str) == sorted(map(str, range(len(names)))):
        names = [names[str(label)] for label in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        raise DataError(f"{path} is not a list of class names; expected one name per line, or a JSON list.")
    return distinct_names(names)
