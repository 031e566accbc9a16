"""Columns of a table that are named alike and numbered, such as embedding_0 to embedding_511: one matrix."""

from __future__ import annotations

import re
from collections.abc import Sequence


def numbered_groups(names: Sequence[str]) -> dict[str, list[str]]:
    """Groups of at least two columns, named by what stands before the number and `*`, each in the order of the numbers.

    >>> numbered_groups(["id", "emb_0", "emb_1", "emb_10", "emb_2", "y1"])
    {'emb_*': ['emb_0', 'emb_1', 'emb_2', 'emb_10']}
    """
    groups: dict[str, list[tuple[int, str]]] = {}
    for name in names:
        if match := re.fullmatch(r"(.*?)(\d{1,9})", name):
            groups.setdefault(match[1] + "*", []).append((int(match[2]), name))
    return {group: [name for _, name in sorted(members)] for group, members in groups.items() if len(members) > 1}


def gap(members: Sequence[str]) -> str | None:
    """What is missing from the numbers of a group; None if they are consecutive.

    >>> gap(["emb_0", "emb_1", "emb_3"])
    'emb_0 to emb_3 are 3 columns instead of 4'
    """
    numbers = [int(re.findall(r"\d+$", member)[0]) for member in members]
    expected = numbers[-1] - numbers[0] + 1
    if expected == len(members):
        return None
    return f"{members[0]} to {members[-1]} are {len(members)} columns instead of {expected}"
