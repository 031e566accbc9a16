"""Class numbers of rows from labels in any form, and class names from a file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsiam_eval.errors import DataError
from simsiam_eval.features.class_names import distinct_names
from simsiam_eval.features.foreign.arrays import ForeignArray, texts_of
from simsiam_eval.sources.labels import Labels
from simsiam_eval.wording import counted

NO_LABEL = frozenset({"", "-1", "nan", "NaN", "NA", "N/A", "<NA>", "None", "null"})  # what pandas and others write
_WHOLE = re.compile(r"\d{1,18}(\.0+)?")


@dataclass(frozen=True)
class RowLabels:
    """(N,) int64 labels, -1 for none, and the names of the classes, None if they have only numbers."""

    labels: NDArray[np.int64]
    class_names: list[str] | None


def row_labels(array: ForeignArray, class_names: Sequence[str] | None, where: str) -> RowLabels:
    """The labels of an array of numbers or text.

    Text is numbered in the order of `class_names`, else in sorted order; text that is all whole numbers is read as numbers.

    Raises:
        DataError: a number below -1 or not whole, or a class without a name.
    """
    if array.is_text:
        numbered = _of_texts(lambda: texts_of(array), class_names, where)
    else:
        numbered = RowLabels(_of_numbers(array, where), None)
    return _named(numbered, class_names, where)


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
    numbered = _of_texts(lambda: (PurePosixPath(name).parent.name for name in ids), class_names, "the ids")
    return _named(numbered, class_names, "the ids")


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
    return RowLabels(np.maximum(found, -1), labels.class_names), missing


def read_class_names(path: Path) -> list[str]:
    """Class names from a text file, one per line, or from JSON: a list, or an object of numbers and names.

    Raises:
        DataError: missing, empty, or of another form.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
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


def _of_numbers(array: ForeignArray, where: str) -> NDArray[np.int64]:
    labels = np.empty(array.shape[0], dtype=np.int64)
    at = 0
    for block in array.blocks():
        if block.dtype == object:
            block = np.array([np.nan if value is None else value for value in block], dtype=np.float64)
        block = block.reshape(len(block))
        if block.dtype.kind == "f":
            wrong = ~np.isnan(block) & (block != np.rint(block))
            if wrong.any():
                row = int(wrong.argmax())
                raise DataError(
                    f"{where} has the label {block[row]} in row {at + row}; expected whole numbers, or names."
                )
            block = np.where(np.isnan(block), -1, block)
        labels[at : at + len(block)] = block
        at += len(block)
    return labels


def _of_texts(texts: Any, class_names: Sequence[str] | None, where: str) -> RowLabels:
    """
    Args:
        texts: returns an iterator of the text of each row, None for none.
    """
    distinct = {text for text in texts() if text is not None and text not in NO_LABEL}
    names = set(class_names or ())
    if distinct and all(_WHOLE.fullmatch(text) for text in distinct) and not distinct <= names:
        clean = {text: text.partition(".")[0] for text in distinct}
    else:
        clean = {text: text for text in distinct}
    labels = Labels()
    labels.extend(clean.get(text, "") if text is not None else "" for text in texts())
    numbers, found = labels.numbered()
    if class_names is None or (found is None and not distinct <= names):
        return RowLabels(numbers, found)
    if unknown := sorted(distinct - names):
        raise DataError(
            f"{where} has the class {unknown[0]!r}, which --class-names does not contain "
            f"({counted(len(unknown), 'such name')})."
        )
    number_of = {name: number for number, name in enumerate(class_names)}
    found = found or [str(number) for number in range(int(numbers.max()) + 1)]
    table = np.array([number_of.get(name, -1) for name in found], dtype=np.int64)
    return RowLabels(np.where(numbers < 0, -1, table[numbers]), list(class_names))


def _named(numbered: RowLabels, class_names: Sequence[str] | None, where: str) -> RowLabels:
    lowest, highest = (int(numbered.labels.min()), int(numbered.labels.max())) if len(numbered.labels) else (-1, -1)
    if lowest < -1:
        raise DataError(f"{where} has the label {lowest}; expected numbers from 0, or -1 for no label.")
    if class_names is not None and numbered.class_names is None:
        if highest >= len(class_names):
            raise DataError(f"{where} has the label {highest}, but --class-names has only {len(class_names)} names.")
        return RowLabels(numbered.labels, list(class_names))
    return numbered
