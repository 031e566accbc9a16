"""Format counts, percentages and lists for sentences and tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

# Control characters, and those that change the direction of the text.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


class Measurement(str):
    """A number as a table shows it, with its interval or standard deviation, that knows the numbers.

    >>> cell = Measurement("50.0 ± 1.5", 50, std=1.5)
    >>> cell, cell.value, cell.parts
    ('50.0 ± 1.5', 50, {'std': 1.5})
    """

    value: float
    parts: dict[str, float]

    def __new__(cls, text: str, value: float, **parts: float) -> Measurement:
        measurement = super().__new__(cls, text)
        measurement.value, measurement.parts = value, parts
        return measurement

    def __getnewargs_ex__(self) -> tuple[tuple[str, float], dict[str, float]]:  # for copies and pickles
        return (str(self), self.value), self.parts


def counted(number: int, what: str) -> str:
    """
    >>> counted(1, "group"), counted(2, "key"), counted(0, "query"), counted(1200, "image")
    ('1 group', '2 keys', '0 queries', '1,200 images')
    """
    if number == 1:
        return f"1 {what}"
    plural = f"{what[:-1]}ies" if what.endswith("y") and what[-2] not in "aeou" else f"{what}s"
    return f"{number:,} {plural}"


def percent(value: float, interval: Sequence[float] | None = None) -> Measurement:
    """An accuracy as the tables show it.

    >>> percent(0.9125, (0.9, 0.92))
    '91.25 [90.00, 92.00]'
    """
    text = f"{100 * value:.2f}"
    if interval is None:
        return Measurement(text, 100 * value)
    low, high = 100 * interval[0], 100 * interval[1]
    return Measurement(f"{text} [{low:.2f}, {high:.2f}]", 100 * value, low=low, high=high)


def first_few(names: Iterable[str], limit: int = 4) -> str:
    """The first `limit` names, and how many more there are.

    >>> first_few("abcdef"), first_few("ab"), first_few([])
    ('a, b, c, d and 2 more', 'a, b', '')
    """
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def printable(text: str, lines: bool = False) -> str:
    """A text with its control characters written out: names in data must not move a terminal's cursor, nor end a line.

    Args:
        lines: whether tabs and line feeds stay.

    >>> printable("red: \\x1b[31m"), printable("a\\nb"), printable("a\\nb", lines=True)
    ('red: \\\\x1b[31m', 'a\\\\nb', 'a\\nb')
    """
    kept = "\t\n" if lines else ""
    return _CONTROL.sub(
        lambda match: match[0] if match[0] in kept else match[0].encode("unicode_escape").decode("ascii"), text
    )
