"""Convert labels of tables, lists and shards to class numbers."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

_NO_LABEL = ("", "-1")


class Labels:
    """Labels as text, read in one pass; each distinct text is stored once.

    >>> labels = Labels()
    >>> labels.extend(["tabby", "", "beagle", "tabby"])
    >>> labels.numbered()
    (array([ 1, -1,  0,  1]), ['beagle', 'tabby'])
    """

    def __init__(self) -> None:
        self._indices: dict[str, int] = {}  # text -> index among the distinct ones
        self._rows = array("q")  # that index, for each row

    def extend(self, texts: Iterable[str]) -> None:
        """Add the labels of further rows; "" and "-1" are no label."""
        indices = self._indices
        self._rows.extend(indices.setdefault(text, len(indices)) for text in texts)

    def numbered(self) -> tuple[NDArray[np.int64], list[str] | None]:
        """(N,) labels, -1 for none, and their names.

        Labels that are all whole numbers from 0 stay as they are, without names; others are names, numbered in sorted
        order.
        """
        names = sorted(text for text in self._indices if text not in _NO_LABEL)
        class_names: list[str] | None
        # 18 digits fit an int64.
        if names and all(name.isascii() and name.isdigit() and len(name) <= 18 for name in names):
            number_of, class_names = {name: int(name) for name in names}, None
        else:
            number_of, class_names = {name: number for number, name in enumerate(names)}, names or None
        numbers = np.array([number_of.get(text, -1) for text in self._indices], dtype=np.int64)
        rows = np.frombuffer(self._rows, np.int64) if self._rows else np.empty(0, np.int64)
        return numbers[rows], class_names
