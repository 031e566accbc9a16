"""Format counts, percentages and lists for sentences and tables."""

from collections.abc import Iterable, Sequence


def counted(number: int, what: str) -> str:
    """
    >>> counted(1, "group"), counted(2, "group"), counted(0, "query")
    ('1 group', '2 groups', '0 queries')
    """
    if number == 1:
        return f"1 {what}"
    return f"{number} {what.removesuffix('y')}ies" if what.endswith("y") else f"{number} {what}s"


def percent(value: float, interval: Sequence[float] | None = None) -> str:
    """An accuracy as the tables show it.

    >>> percent(0.9125, (0.9, 0.92))
    '91.25 [90.00, 92.00]'
    """
    text = f"{100 * value:.2f}"
    return text if interval is None else f"{text} [{100 * interval[0]:.2f}, {100 * interval[1]:.2f}]"


def first_few(names: Iterable[str], limit: int = 4) -> str:
    """The first `limit` names, and how many more there are.

    >>> first_few("abcdef"), first_few("ab"), first_few([])
    ('a, b, c, d and 2 more', 'a, b', '')
    """
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
