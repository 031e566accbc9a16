"""What is unusual in a dataset, counted by kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from simsiam_eval.wording import first_few

_NAMED = 20  # images of an issue that are named in the record


@dataclass
class Issue:
    """How often it was found, in how many images, and the ids of the first of them."""

    count: int = 0
    images: int = 0
    first: list[str] = field(default_factory=list)


class Issues(dict[str, Issue]):
    """What is unusual and how it is handled -> an Issue.

    >>> issues = Issues()
    >>> issues.add("crowd region, dropped", ["a.jpg", "b.jpg"], [1, 1])
    >>> issues.sentences()
    ['2 x crowd region, dropped (b.jpg)']
    """

    def add(self, issue: str, ids: Sequence[str], rows: ArrayLike) -> None:
        """Count cases: the ids of all images, and the image's row of each case."""
        rows = np.asarray(rows, np.int64)
        if len(rows):
            found = self.setdefault(issue, Issue())
            images = np.unique(rows)
            found.count += len(rows)
            found.images += len(images)
            found.first += [str(ids[row]) for row in images[: _NAMED - len(found.first)].tolist()]

    def update_counts(self, others: Issues) -> None:
        """Add the cases of another dataset."""
        for issue, other in others.items():
            found = self.setdefault(issue, Issue())
            found.count, found.images = found.count + other.count, found.images + other.images
            found.first = (found.first + other.first)[:_NAMED]

    def sentences(self) -> list[str]:
        """One for each kind, with the first images."""
        return [
            f"{found.count} x {issue} ({first_few(found.first + [''] * (found.images - len(found.first)))})"
            for issue, found in self.items()
        ]

    def to_dict(self) -> dict[str, dict[str, object]]:
        """For the record."""
        return {issue: {"count": found.count, "images": found.first} for issue, found in self.items()}
