"""When so many images could not be read that a command has failed: one rule for all commands that read images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from simsiam_eval.commands.settings import setting
from simsiam_eval.wording import counted

SHARE = 0.1


class ReadImages(NamedTuple):
    """How many images of a source or feature file could not be read."""

    name: str
    unreadable: int
    total: int


def max_unreadable_setting(may_change: bool = False) -> Any:
    """--max-unreadable of a command that reads images."""
    return setting(
        SHARE,
        at_least=0,
        at_most=1,
        may_change=may_change,
        help="Share of unreadable images, from 0 to 1, up to which the exit status is 0. If more images, or all, are "
        "unreadable, it is 1; outputs are kept.",
    )


def unreadable_faults(sets: Iterable[ReadImages], most: float) -> list[str]:
    """A sentence for each set of which more images than the share `most`, or all, could not be read.

    >>> unreadable_faults([ReadImages("photos", 2, 10), ReadImages("sketches", 1, 10)], 0.1)
    ['2 of 10 images of photos could not be read, which is more than --max-unreadable 0.1: repair or remove them.']
    """
    faults = []
    for name, unreadable, total in dict.fromkeys(sets):
        if total and unreadable == total:
            faults.append(f"None of the {counted(total, 'image')} of {name} could be read: repair or remove them.")
        elif unreadable > most * total:
            faults.append(
                f"{unreadable} of {counted(total, 'image')} of {name} could not be read, which is more than "
                f"--max-unreadable {most:g}: repair or remove them."
            )
    return faults
