"""Statistics over the runs of each initialization, and the table that compares them with the paper."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import mean, stdev
from typing import Any

from simsiam_eval.commands.record import Table
from simsiam_eval.wording import Measurement
from tasks.detection.backends.base import Backend
from tasks.detection.run import RunResult

_PERCENTAGES = ("ap50", "ap", "ap75")


@dataclass(frozen=True)
class PublishedRow:
    """AP50, AP and AP75 in percent, of the boxes and, on COCO, of the masks."""

    name: str
    boxes: tuple[float, float, float]
    masks: tuple[float, float, float] | None = None


# arXiv 2011.10566, table 5, ResNet-50-C4 by detectron2.
PUBLISHED: dict[str, tuple[PublishedRow, ...]] = {
    "voc07": (
        PublishedRow("paper: supervised", (74.4, 42.4, 42.7)),
        PublishedRow("paper: SimSiam, base recipe", (75.5, 47.0, 50.2)),
        PublishedRow("paper: SimSiam, lr .5, wd 1e-5", (77.3, 48.5, 52.5)),
    ),
    "voc0712": (
        PublishedRow("paper: supervised", (81.3, 53.5, 58.8)),
        PublishedRow("paper: SimSiam, base recipe", (82.0, 56.4, 62.8)),
        PublishedRow("paper: SimSiam, lr .5, wd 1e-5", (82.4, 57.0, 63.7)),
    ),
    "coco-1x": (
        PublishedRow("paper: supervised", (58.2, 38.2, 41.2), (54.7, 33.3, 35.2)),
        PublishedRow("paper: SimSiam, base recipe", (57.5, 37.9, 40.9), (54.2, 33.2, 35.2)),
        PublishedRow("paper: SimSiam, lr .5, wd 1e-5", (59.3, 39.2, 42.1), (56.0, 34.4, 36.7)),
    ),
}


@dataclass(frozen=True)
class Statistics:
    """A metric over several runs; `std` is None for a single run."""

    mean: float
    std: float | None
    values: list[float]

    def to_dict(self) -> dict[str, Any]:
        """For the record."""
        return asdict(self)

    def percent(self) -> str:
        """
        >>> Statistics(0.5, 0.015, [0.485, 0.515]).percent()
        '50.0 ± 1.5'
        """
        spread = "" if self.std is None else f" ± {100 * self.std:.1f}"
        parts = {} if self.std is None else {"std": 100 * self.std}
        return Measurement(f"{100 * self.mean:.1f}{spread}", 100 * self.mean, **parts)


def summarize(runs: Sequence[RunResult]) -> dict[str, Statistics]:
    """Each average precision over the runs of one initialization; left out where the test set has no such objects."""
    statistics = {}
    for name in runs[0].evaluation.average_precision:
        values = [run.evaluation.average_precision[name] for run in runs]
        if not any(math.isnan(value) for value in values):
            statistics[name] = Statistics(mean(values), stdev(values) if len(values) > 1 else None, values)
    return statistics


@dataclass(frozen=True)
class TableRow:
    """One initialization: its label, the detector (resnet50-c4) and its statistics."""

    label: str
    detector: str
    statistics: Mapping[str, Statistics]


def results_table(
    rows: Sequence[TableRow], backend: Backend, preset: str, protocol: str, metric: str, notes: Sequence[str]
) -> Table:
    """One row for each initialization, with the paper's rows below.

    Args:
        rows: the initializations, in order.
        backend: that trained them.
        preset: whose published rows are shown.
        protocol: the preset with its changes, for the title.
        metric: for the title.
        notes: shown below the table, before those about the protocol.
    """
    masks = any("mask_ap" in row.statistics for row in rows)
    columns = ["init", "backend", "detector", "trials", "AP50", "AP", "AP75"]
    columns += ["mask AP50", "mask AP", "mask AP75"] if masks else []
    names = [prefix + name for prefix in (("", "mask_") if masks else ("",)) for name in _PERCENTAGES]
    cells = [
        [
            row.label,
            backend.name,
            row.detector,
            str(len(row.statistics["ap"].values)),
            *(row.statistics[name].percent() if name in row.statistics else "-" for name in names),
        ]
        for row in rows
    ]
    published = PUBLISHED.get(preset, ())
    trials = "5" if preset.startswith("voc") else "1"
    for paper in published:
        percentages = [*paper.boxes, *((paper.masks or ()) if masks else ())]
        cells.append([paper.name, "detectron2", "resnet50-c4", trials, *map(str, percentages)])
    return Table(
        f"Detection transfer, {protocol}, {metric} metric, %",
        columns,
        cells,
        [*notes, *_protocol_notes(backend, bool(published), preset, protocol)],
    )


def _protocol_notes(backend: Backend, published: bool, preset: str, protocol: str) -> list[str]:
    notes = []
    if published:
        notes.append(
            "The paper's rows: ResNet-50-C4, pretrained for 200 epochs on ImageNet, fine-tuned by detectron2 with the full "
            "protocol."
        )
        if protocol != preset:
            notes.append(f"The other rows do not follow the full protocol ({protocol}).")
    if backend.name != "detectron2":
        notes.append(f"{backend.name} is not the reference protocol; it differs in: {'; '.join(backend.differences)}.")
    return notes
