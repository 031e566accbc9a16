"""Top-k accuracies in records and tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from simsiam_eval.wording import percent


def reported_top_k(classes: int) -> tuple[int, ...]:
    """1, and 5 where there are more than five classes: with fewer, any five guesses contain the right one.

    >>> reported_top_k(5), reported_top_k(6)
    ((1,), (1, 5))
    """
    return (1, 5) if classes > 5 else (1,)


def accuracy_cell(metrics: Mapping[str, Any], name: str) -> str:
    """Cell of a table: the accuracy `name` in percent with its interval, "-" where it is not reported.

    >>> accuracy_cell({"top1": 0.5, "top1_interval": [0.4, 0.6]}, "top1"), accuracy_cell({}, "top5")
    ('50.00 [40.00, 60.00]', '-')
    """
    return percent(metrics[name], metrics[f"{name}_interval"]) if name in metrics else "-"
