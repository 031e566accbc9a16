"""Class names: the name of a label, and matching the classes of two sets by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from simsiam_eval.errors import DataError
from simsiam_eval.features.table import ImageTable, Table
from simsiam_eval.sources.labels import canonical_name
from simsiam_eval.wording import first_few


def class_name(label: int, names: Sequence[str] | None) -> str:
    """The name of a label: its number if the classes have no names, and "" for no label (-1).

    >>> class_name(1, ["cat", "dog"]), class_name(1, None), class_name(-1, ["cat", "dog"])
    ('dog', '1', '')
    """
    if label < 0:
        return ""
    return names[label] if names is not None and label < len(names) else str(label)


def distinct_names(names: Sequence[str]) -> list[str]:
    """Class names in the Unicode form NFC; a name of several classes gets the class number (ImageNet has two cranes).

    >>> distinct_names(["crane", "owl", "crane"])
    ['crane (0)', 'owl', 'crane (2)']
    """
    names = list(map(canonical_name, names))
    counts = Counter(names)
    return [name if counts[name] == 1 else f"{name} ({number})" for number, name in enumerate(names)]


def in_numbering_of(train: ImageTable, test: Table, missing_is_error: bool = True) -> Table:
    """`test` with the labels and class names of `train`: classes are matched by name, not by number, because two folders
    number their classes alike only if they have the same sub-folders.

    Raises:
        DataError: a class that `train` does not have; if `missing_is_error` is off, its label becomes one that no row of
            `train` has, and its name is appended to the class names.
    """
    train_names, test_names = train.class_names, test.class_names
    labels, attributes = test.labels, test.attributes
    if (train_names is None) != (test_names is None):
        named, unnamed = (train, test) if test_names is None else (test, train)
        raise DataError(
            f"{named.name} has class names but {unnamed.name} has only class numbers, so classes cannot be matched."
        )
    if train_names is not None and test_names is not None and train_names != test_names:
        number = {name: label for label, name in enumerate(train_names)}
        for table, names in ((train, train_names), (test, test_names)):
            if len(set(names)) < len(names):
                raise DataError(
                    f"{table.name} has two classes with the same name, and the other set numbers its classes differently."
                )
        unknown = sorted({test_names[label] for label in np.unique(labels[labels >= 0])} - set(train_names))
        if unknown and missing_is_error:
            raise DataError(f"{test.name} has images of a class that {train.name} does not have: {first_few(unknown)}.")
        number |= {name: len(number) + position for position, name in enumerate(unknown)}
        numbers = np.array([number.get(name, -1) for name in test_names], dtype=np.int64)
        labels = np.where(labels < 0, -1, numbers[labels])
        attributes = attributes | {"source": attributes["source"] | {"class_names": list(number)}}
    missing = np.setdiff1d(labels, train.labels)
    if len(missing) and missing_is_error:
        absent = first_few([class_name(int(label), train_names) for label in missing])
        raise DataError(f"{train.name} has no image of a class of {test.name}: {absent}.")
    return replace(test, labels=labels, attributes=attributes)
