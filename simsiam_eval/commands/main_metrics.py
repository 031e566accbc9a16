"""The main metrics of each task: what a table, or a page, shows of its record."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from simsiam_eval.commands.record_file import Record
from simsiam_eval.wording import Measurement, percent


@dataclass(frozen=True)
class MainMetric:
    """A metric of a task.

    Attributes:
        name: its key in `metrics`; its interval, if there is one, is `NAME_interval`.
        label: heading.
        fraction: whether it is in [0, 1] and shown in percent.
        better: "higher" or "lower"; None where neither is.
    """

    name: str
    label: str
    fraction: bool = True
    better: str | None = "higher"

    @property
    def unit(self) -> str:
        return "%" if self.fraction else ""


@dataclass(frozen=True)
class Measured:
    """The value of a main metric in a record.

    Attributes:
        of: which encoder, initialization or file of the record it is of; None where there is only one.
        value: as in the record: a fraction where the metric is one.
        interval: 95 % interval (low, high); None if the record has none.
        std: standard deviation over seeds or trials; None if the record has none.
    """

    metric: MainMetric
    of: str | None
    value: float
    interval: tuple[float, float] | None = None
    std: float | None = None

    def cell(self) -> Measurement:
        """The value as tables show it, in percent where it is a fraction.

        >>> Measured(MainMetric("top1", "top-1"), None, 0.5, (0.4, 0.6)).cell()
        '50.00 [40.00, 60.00]'
        """
        if not self.metric.fraction:
            return Measurement(f"{self.value:.4g}" if self.value % 1 else f"{self.value:.0f}", self.value)
        if self.std is not None and self.interval is None:
            return Measurement(f"{percent(self.value)} +- {percent(self.std)}", 100 * self.value, std=100 * self.std)
        return percent(self.value, self.interval)

    def to_dict(self) -> dict[str, Any]:
        """For a record."""
        interval = None if self.interval is None else list(self.interval)
        return {"value": self.value, "interval": interval, "std": self.std}


_TOP1, _TOP5 = MainMetric("top1", "top-1"), MainMetric("top5", "top-5")
_RECALL = MainMetric("recall", "recall of the index")
_ROWS = MainMetric("rows", "rows", fraction=False, better=None)
# Task -> its main metrics; the first is the one that a table with room for one shows.
MAIN_METRICS: Mapping[str, tuple[MainMetric, ...]] = {
    "demo": (MainMetric("linear_top1", "linear top-1"), MainMetric("knn_top1", "kNN top-1")),
    "pretrain": (
        MainMetric("knn_top1", "online kNN top-1"),
        MainMetric("loss", "loss", fraction=False, better="lower"),
        MainMetric("output_std", "output std x sqrt(d)", fraction=False),
    ),
    "convert": (MainMetric("min_cosine", "min cosine", fraction=False),),
    "extract": (_ROWS,),
    "import": (_ROWS,),
    "merge": (_ROWS,),
    "export": (_ROWS,),
    "linear-eval": (_TOP1, _TOP5, MainMetric("mean_per_class", "mean per class")),
    "predict": (_TOP1,),
    "knn": (_TOP1, _TOP5),
    "retrieval eval": (
        MainMetric("map", "mAP"),
        *(MainMetric(f"recall_at_{k}", f"recall@{k}") for k in (1, 5, 10)),
        MainMetric("r_precision", "R-precision"),
    ),
    "retrieval build": (_RECALL,),
    "retrieval search": (_RECALL,),
    "duplicates": (
        MainMetric("groups", "groups", fraction=False, better=None),
        MainMetric("images", "images in groups", fraction=False, better=None),
        MainMetric("leaked", "leaked images", fraction=False, better="lower"),
    ),
    "suspects": (
        MainMetric("wrong_labels", "likely wrong labels", fraction=False, better="lower"),
        MainMetric("duplicate_groups", "groups of near-duplicates", fraction=False, better=None),
    ),
    "atlas": (
        MainMetric("images", "images", fraction=False, better=None),
        MainMetric("wrong_labels", "likely wrong labels", fraction=False, better="lower"),
    ),
    "compare": (_TOP1,),
    "rank": (
        MainMetric("rankme", "RankMe", fraction=False),
        MainMetric("uniformity", "uniformity", fraction=False, better="lower"),
        MainMetric("alignment", "alignment", fraction=False, better="lower"),
    ),
    "detect": (MainMetric("ap50", "AP50"), MainMetric("ap", "AP"), MainMetric("ap75", "AP75")),
}


def measured(record: Record) -> list[Measured]:
    """The main metrics of a record that have values there, those of one encoder or file after the other."""
    metrics = MAIN_METRICS.get(record.task, ())
    return [
        value
        for of, values in _parts(record)
        for metric in metrics
        if (value := _measured(metric, of, values)) is not None
    ]


def _parts(record: Record) -> Iterator[tuple[str | None, Mapping[str, Any]]]:
    """What a record measures, each with its metrics: the methods of `compare`, the files of `rank`, ..."""
    metrics = record.metrics
    if record.task in ("compare", "rank"):
        for entry in _mappings(metrics.get("methods" if record.task == "compare" else "files")):
            yield str(entry.get("name") or entry.get("file")), entry
    elif record.task in ("detect", "demo"):
        by_name = metrics.get("by_init") if record.task == "detect" else metrics
        for name, entry in by_name.items() if isinstance(by_name, dict) else ():
            if isinstance(entry, dict):
                yield str(name), entry
    else:
        yield None, metrics


def _mappings(values: Any) -> list[Mapping[str, Any]]:
    return [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []


def _measured(metric: MainMetric, of: str | None, values: Mapping[str, Any]) -> Measured | None:
    value: Any = values.get(metric.name)
    interval, std = values.get(f"{metric.name}_interval"), values.get(f"{metric.name}_std")
    if isinstance(value, dict):  # detect: mean, std and values over its runs
        value, std = value.get("mean"), value.get("std")
    if not _is_number(value):
        return None
    ends = tuple(interval) if isinstance(interval, list) and all(map(_is_number, interval)) else ()
    return Measured(
        metric, of, float(value), (ends[0], ends[1]) if len(ends) == 2 else None, std if _is_number(std) else None
    )


def _is_number(value: Any) -> bool:
    """Whether a value of a record is a finite number: JSON of others may hold NaN, Infinity or a thousand digits."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False
