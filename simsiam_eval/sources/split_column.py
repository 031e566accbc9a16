"""The column of a table, or the array beside an array of images, that names the split of each row."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsiam_eval.errors import DataError
from simsiam_eval.files.text import label_text
from simsiam_eval.sources.splits import choose_split, split_of

_SURE = ("split", "splits", "data_split", "partition")  # also with other values, such as 0, 1 and 2
_POSSIBLE = ("set", "data_set", "dataset", "subset", "phase", "usage", "fold")  # if a value spells a split
_MAX_SPLITS = 50


def split_column(columns: Iterable[str], others: Collection[str | None] = ()) -> str | None:
    """The column that may name splits, by its name.

    Args:
        columns: the names of all columns.
        others: the columns that are read as something else.

    >>> split_column(["path", "label", "Data Set"], ["path", "label"]), split_column(["path", "split"], ["path", "split"])
    ('Data Set', None)
    """
    known = {_plain(name): name for name in columns if name not in others}
    return next((known[name] for name in (*_SURE, *_POSSIBLE) if name in known), None)


def are_splits(column: str, values: Collection[str]) -> bool:
    """Whether the distinct values of such a column are splits rather than something else.

    >>> are_splits("set", ["train", "dev"]), are_splits("set", ["a", "b"]), are_splits("partition", ["0", "1"])
    (True, False, True)
    """
    if not any(values) or len(values) > _MAX_SPLITS:
        return False
    return _plain(column) in _SURE or any(map(split_of, values))


def split_in_column(
    column: str, values: Iterable[str], requested: str | None, default: str | None, spec: str
) -> str | None:
    """The value of the rows to read; None: every row.

    Args:
        values: the distinct values; rows with an empty one are in no split.
        requested, default: as those of `choose_split`.

    Raises:
        DataError: as `choose_split`.
    """
    try:
        return choose_split(filter(None, values), requested, default, spec)
    except DataError as error:
        raise DataError(f"{error} The column {column!r} names the splits; #split=none reads every row.") from None


def rows_of_split(
    column: str, values: NDArray[Any], requested: str | None, default: str | None, spec: str
) -> tuple[str | None, NDArray[np.int64] | None]:
    """The chosen split and its rows where an array names the split of each row; None: every row.

    Args:
        values: (N,) texts or numbers.
        requested, default: as those of `choose_split`.

    Raises:
        DataError: as `choose_split`; a text is not UTF-8.
    """
    texts = [
        label_text(value, column).strip() if isinstance(value, bytes) else str(value).strip()
        for value in values.reshape(-1).tolist()
    ]
    if not are_splits(column, set(texts)):
        return choose_split((), requested, default, spec), None
    split = split_in_column(column, set(texts), requested, default, spec)
    return split, None if split is None else np.flatnonzero(np.array(texts) == split)


def _plain(name: str) -> str:
    return name.strip().lower().replace(" ", "_").replace("-", "_")
