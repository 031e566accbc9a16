"""Labels as they are written in tables, lists and shards -> the numbers of an image source."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

_NONE = ("", "-1")


class Labels:
    """Labels as texts, read in one pass; each distinct one is kept once.

    >>> labels = Labels()
    >>> labels.extend(["tabby", "", "beagle", "tabby"])
    >>> labels.numbered()
    (array([ 1, -1,  0,  1]), ['beagle', 'tabby'])
    """

    def __init__(self) -> None:
        self._places: dict[str, int] = {}
        self._rows = array("q")

    def extend(self, values: Iterable[str]) -> None:
        """Add the labels of further rows; "" and "-1" are no label."""
        places = self._places
        self._rows.extend(places.setdefault(value, len(places)) for value in values)

    def numbered(self) -> tuple[NDArray[np.int64], list[str] | None]:
        """(N,) labels and their names. Labels that are all whole numbers from 0 stay as they are, without names; others
        are names, numbered in sorted order."""
        names = sorted(name for name in self._places if name not in _NONE)
        # 18 digits fit an int64
        if names and all(name.isascii() and name.isdigit() and len(name) <= 18 for name in names):
            number, given = {name: int(name) for name in names}, None
        else:
            number, given = {name: place for place, name in enumerate(names)}, names or None
        meaning = np.array([number.get(name, -1) for name in self._places], dtype=np.int64)
        rows = np.frombuffer(self._rows, np.int64) if self._rows else np.empty(0, np.int64)
        return meaning[rows], given
