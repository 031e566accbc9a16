"""Convert labels of tables, lists, arrays and shards to class numbers: the one rule of all sources."""

from __future__ import annotations

import re
import shlex
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsiam_eval.errors import DataError
from simsiam_eval.vocabulary import NO_LABEL
from simsiam_eval.wording import counted, first_few

# A number as tables and `numpy.savetxt` write it: 3, -1, 3.0, 3.000000e+00. 1e3 and 2e5 are names.
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]\d{2,3})?|[+-]?inf(inity)?", re.ASCII | re.IGNORECASE)
_DIGITS = 18  # that fit an int64; a longer number is a name
_SHOWN_TEXTS = 10


def canonical_name(name: str) -> str:
    """A class name in the Unicode form NFC, in which an accented letter is one character; macOS writes two."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def merged_classes(
    labels: NDArray[np.int64], class_names: Sequence[str] | None
) -> tuple[NDArray[np.int64], list[str] | None]:
    """Labels and class names with the names in the form NFC; classes whose names then are equal become one.

    Two classes of one and the same name stay apart: ImageNet has two called crane.

    >>> merged_classes(np.array([0, 1, 2]), ["caf\\u00e9", "cafe\\u0301", "bar"])
    (array([0, 0, 1]), ['café', 'bar'])
    """
    if class_names is None or all(map(str.isascii, class_names)):
        return labels, None if class_names is None else list(class_names)
    first: dict[str, str] = {}  # name in NFC -> as it was written first
    merged: list[str] = []
    number_of = []
    for name in class_names:
        canonical = canonical_name(name)
        if first.setdefault(canonical, name) == name:
            number_of.append(len(merged))
            merged.append(canonical)
        else:
            number_of.append(merged.index(canonical))
    return np.where(labels < 0, -1, np.array(number_of, dtype=np.int64)[labels]), merged


class Labels:
    """Labels as texts or numbers, read in one pass; each distinct one is stored once.

    Args:
        no_label: texts that mean that an image has no label; the empty text always does.
        row: what a row is, for messages.

    >>> labels = Labels()
    >>> labels.extend(["tabby", "NA", "beagle", None])
    >>> labels.numbered("pets.csv")
    (array([ 1, -1,  0, -1]), ['beagle', 'tabby'])
    >>> labels.notes()
    ['2 of 4 images have no label (NA: 1, empty: 1)']
    """

    def __init__(self, no_label: Sequence[str] = NO_LABEL, row: str = "image") -> None:
        self._is_default, self._row = tuple(no_label) == NO_LABEL, row
        self._no_label = frozenset(map(_canonical, ("", *no_label)))
        self._indices: dict[str, int] = {}  # text -> index among the distinct ones
        self._rows = array("q")  # that index, for each row
        self._are_numbers = False

    def extend(self, texts: Iterable[str | None]) -> None:
        """Add the labels of further rows; None is an empty text."""
        indices = self._indices
        self._rows.extend(indices.setdefault(text or "", len(indices)) for text in texts)

    def extend_numbers(self, values: NDArray[Any], missing: NDArray[np.bool_] | None = None) -> None:
        """Add the labels of further rows, (B,) integers, floats or booleans.

        NaN is no label, whatever texts are; nor is a value that is `missing` (B,).
        """
        self._are_numbers = True
        values = values.reshape(-1)
        present = np.ones(len(values), dtype=bool) if missing is None else ~missing
        distinct, inverse = np.unique(values[present], return_inverse=True)
        is_nan = distinct != distinct
        if is_nan.any():
            self._no_label |= {"NaN"}
        texts = ["NaN" if nan else str(value) for nan, value in zip(is_nan, distinct.tolist(), strict=True)]
        indices = np.array([self._indices.setdefault(text, len(self._indices)) for text in texts], dtype=np.int64)
        rows = np.full(len(values), 0 if present.all() else self._indices.setdefault("", len(self._indices)))
        rows[present] = indices[inverse]
        self._rows.frombytes(rows.astype(np.int64).tobytes())

    def numbered(self, where: str, classes: Sequence[str] | None = None) -> tuple[NDArray[np.int64], list[str] | None]:
        """(N,) labels, -1 for none, and their names.

        Labels that are all whole numbers from 0 (also 1.0) stay as they are, without names; others are names, numbered in
        sorted order.

        Args:
            where: the file or dataset, for messages.
            classes: the class names in the order of their numbers, where they are known: texts are then such names, or
                numbers below their count, as numbers are.

        Raises:
            DataError: all labels are numbers, and one is negative or not whole; a class that `classes` does not have.
        """
        names = {text: self._class(text) for text in self._indices}
        distinct = {name for name in names.values() if name is not None}
        known = None if classes is None else list(map(canonical_name, classes))
        number_of: dict[str, int]
        are_names = not self._are_numbers and distinct <= set(known or ())
        if distinct and not are_names and all(map(_NUMBER.fullmatch, distinct)):
            whole = {name: self._whole(name, where) for name in sorted(distinct)}
            if max(map(len, whole.values())) <= _DIGITS:
                number_of = {name: int(digits) for name, digits in whole.items()}
                if known is not None and (highest := max(number_of.values())) >= len(known):
                    raise DataError(f"{where} has the label {highest}, but there are only {len(known)} class names.")
                return self._of_rows(names, number_of), known
        found = known or sorted(distinct)
        if unknown := sorted(distinct - set(found)):
            raise DataError(
                f"{where} has the class {unknown[0]!r}, which is not among the class names "
                f"({counted(len(unknown), 'such name')})."
            )
        number_of = {name: number for number, name in reversed(list(enumerate(found)))}
        return self._of_rows(names, number_of), found or None

    def notes(self) -> list[str]:
        """What was read as no label, and names that look as if they meant that; [] where no row has a text at all."""
        rows = np.frombuffer(self._rows, np.int64) if self._rows else np.empty(0, np.int64)
        none, alike = Counter[str](), Counter[str]()
        named = self._are_names()
        for text, count in zip(self._indices, np.bincount(rows, minlength=len(self._indices)).tolist(), strict=True):
            name = self._class(text)
            if name is None:
                none[_canonical(text)] += count
            elif self._is_default and named and _looks_like_nothing(name):
                alike[name] += count
        notes = []
        if none and not (set(none) == {""} and none.total() == len(rows)):  # a source without labels needs no note
            listed = first_few([f"{text or 'empty'}: {count:,}" for text, count in none.most_common()], _SHOWN_TEXTS)
            verb = "has" if none.total() == 1 else "have"
            notes.append(f"{none.total():,} of {counted(len(rows), self._row)} {verb} no label ({listed})")
        classes = {name for name in map(self._class, self._indices) if name is not None}
        if set(none) == {"-1"} and len(classes) == 1:
            notes.append(
                f"all other images have the label {classes.pop()}; if -1 is a class too, write 0 in its place, or names"
            )
        if alike:
            option = " ".join(f"--no-label{_option_value(text)}" for text in (*filter(None, none), *alike))
            listed = first_few([f"{text}: {count:,}" for text, count in alike.most_common()], _SHOWN_TEXTS)
            verb = "has" if alike.total() == 1 else "have"
            notes.append(
                f"{alike.total():,} of {counted(len(rows), self._row)} {verb} a label that is read as a class, but "
                f"may mean that there is none ({listed}); if so, use {option}"
            )
        return notes

    def _are_names(self) -> bool:
        """Whether a label is not a number."""
        names = [name for name in map(self._class, self._indices) if name is not None]
        return not all(map(_NUMBER.fullmatch, names))

    def _class(self, text: str) -> str | None:
        """The name of a label as written; None for no label."""
        name = _canonical(text)
        return None if name in self._no_label or _plain_whole(name) in self._no_label else name

    def _whole(self, name: str, where: str) -> str:
        """The digits of a number. Raises DataError: it is not whole or negative."""
        digits = _plain_whole(name)
        if digits is None:
            raise DataError(f"{where} has the label {name}; expected whole numbers from 0, or class names.")
        if digits.startswith("-"):
            minus_one = ", -1 for no label," if "-1" in self._no_label else ""
            raise DataError(
                f"{where} has the label {digits}; expected whole numbers from 0{minus_one} or class names (if it means "
                f"that there is no label, name it with --no-label{_option_value(digits)})."
            )
        return digits

    def _of_rows(self, names: dict[str, str | None], number_of: dict[str, int]) -> NDArray[np.int64]:
        numbers = [-1 if name is None else number_of[name] for name in names.values()]
        rows = np.frombuffer(self._rows, np.int64) if self._rows else np.empty(0, np.int64)
        return np.array(numbers, dtype=np.int64)[rows]


def _canonical(text: str) -> str:
    return canonical_name(text.strip())


_SIMILAR = frozenset(
    {
        *(text.casefold() for text in NO_LABEL),
        "n.a.",
        "nil",
        "missing",
        "undefined",
        "unlabeled",
        "unlabelled",
        "#value!",
    }
)


def _looks_like_nothing(name: str) -> bool:
    """Whether a class name may mean that there is no label: `none`, `?`, `--`, or a negative number among names.

    >>> [_looks_like_nothing(name) for name in ("none", "?", "-2", "cat", "3")]
    [True, True, True, False, False]
    """
    digits = _plain_whole(name)
    negative = digits is not None and digits.startswith("-")
    return name.casefold() in _SIMILAR or negative or not any(map(str.isalnum, name))


def _option_value(text: str) -> str:
    """A text after the name of an option: quoted where a shell needs it, joined by = where it begins with a hyphen.

    >>> _option_value("-2"), _option_value("?"), _option_value("none")
    ('=-2', " '?'", ' none')
    """
    return f"={shlex.quote(text)}" if text.startswith("-") else f" {shlex.quote(text)}"


def _plain_whole(text: str) -> str | None:
    """The digits of a whole number, with its sign if it is negative; None for anything else.

    >>> _plain_whole("3.0"), _plain_whole("-1.00"), _plain_whole("+7"), _plain_whole("2.000e+00"), _plain_whole("1.5")
    ('3', '-1', '7', '2', None)
    """
    if not _NUMBER.fullmatch(text):
        return None
    if re.fullmatch(r"[+-]?\d+(\.0*)?", text, re.ASCII):
        digits = text.partition(".")[0].lstrip("+")
        sign = "-" if digits.startswith("-") and digits.strip("-0") else ""
        return sign + (digits.lstrip("-").lstrip("0") or "0")
    value = float(text)
    return str(int(value)) if value.is_integer() else None
