"""The fields of a list of JSON objects, read as columns whose types are checked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from simsiam_eval.errors import DataError
from tasks.detection.data.outlines import MAX_COORDINATE

_SHOWN = 60  # characters of a value in a message


class Entries:
    """One list of a COCO file.

    Args:
        file, part, one: the file, the list's key, and what an entry is called in messages.
        content: of the whole file.

    Raises:
        DataError: it is no list of objects; the methods raise it for a value that is not what they return.
    """

    def __init__(self, file: Path, part: str, one: str, content: Any) -> None:
        self.file, self._part, self._one = file, part, one
        values = content.get(part) if isinstance(content, dict) else None
        if not isinstance(values, list):
            raise DataError(f"{file} is not a COCO annotation file: it has no list {part!r}.")
        self.values = values
        wrong = next((index for index, value in enumerate(values) if not isinstance(value, dict)), None)
        if wrong is not None:
            raise DataError(f"{file} is not a COCO annotation file: {part}[{wrong}] is not an object.")

    def __len__(self) -> int:
        return len(self.values)

    def name(self, index: int) -> str:
        """What an entry is called in messages."""
        number = self.values[index].get("id")
        known = isinstance(number, int | str)
        return f"{self._one} {number} of {self.file}" if known else f"{self._part}[{index}] of {self.file}"

    def reject(self, index: int, key: str, expected: str) -> NoReturn:
        """Raise DataError for the value of an entry."""
        entry = self.values[index]
        found = f"has {key} {_as_json(entry[key])}" if entry.get(key) is not None else f"has no {key!r}"
        raise DataError(f"{self.name(index)} {found}; expected {expected}.")

    def column(self, key: str, convert: Callable[[Any], Any], expected: str, missing: Any = None) -> list[Any]:
        """The values of a key, converted; `missing` where there is none, None if each entry must have one."""
        column = []
        for index, entry in enumerate(self.values):
            value = entry.get(key)
            value = missing if value is None else convert(value)
            if value is None:
                self.reject(index, key, expected)
            column.append(value)
        return column

    def whole_numbers(self, key: str) -> list[int]:
        """Whole numbers, which may be written as floats."""
        return self.column(key, _whole, "a whole number")

    def texts(self, key: str, errors: str = "strict") -> list[str]:
        """Strings that are not empty; `errors`: as of str.encode, which surrogates they may have."""

        def text(value: Any) -> str | None:
            if not isinstance(value, str) or not value.strip():
                return None
            try:
                value.encode("utf-8", errors)
            except UnicodeEncodeError:
                return None
            return value

        return self.column(key, text, "a string of valid Unicode that is not empty")

    def sides(self, key: str) -> list[int]:
        """Widths or heights; 0 where they are missing or not positive."""
        return self.column(key, _side, "a whole number of pixels", missing=0)

    def flags(self, key: str) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """(N,) bool, false where missing; and (N,) bool, which are missing."""
        values = np.array(self.column(key, _flag, "0 or 1", missing=-1), np.int8)
        return values == 1, values == -1

    def numbers(self, key: str) -> NDArray[np.float64]:
        """(N,) float64, NaN where missing."""
        return np.array(self.column(key, _number, "a number", missing=np.nan), np.float64)

    def boxes(self, key: str) -> NDArray[np.float64]:
        """(N,4) float64."""
        boxes = self.column(key, _box, "four numbers: x, y, width, height")
        return np.array(boxes, np.float64).reshape(-1, 4)


def _as_json(value: Any) -> str:
    """A value as the file spells it, cut to a readable length."""
    text = json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def _whole(value: Any) -> int | None:
    if type(value) is int:
        return value
    return int(value) if type(value) is float and value.is_integer() else None


def _side(value: Any) -> int | None:
    side = _whole(value)
    return None if side is None or side >= 2**31 else max(side, 0)


def _flag(value: Any) -> int | None:
    return int(value) if isinstance(value, int | float) and value in (0, 1) else None


def _number(value: Any) -> float | None:
    # Compared, not converted: a JSON integer can be too large for a float. NaN fails the comparison too.
    return value if type(value) in (int, float) and abs(value) < MAX_COORDINATE else None


def _box(value: Any) -> list[float] | None:
    usable = isinstance(value, list) and len(value) == 4 and all(_number(item) is not None for item in value)
    return value if usable else None
