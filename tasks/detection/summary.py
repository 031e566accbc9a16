"""The numbers of all runs as the record has them, and the table that puts them beside the paper's."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

from simsiam_eval.commands.record import Table
from tasks.detection.backends.base import Backend
from tasks.detection.settings import DetectSettings

# arXiv 2011.10566, table 5, ResNet-50-C4 on detectron2: preset -> (who, (AP50, AP, AP75), the same of masks)
Triple = tuple[float, float, float]
PUBLISHED: dict[str, tuple[tuple[str, Triple, Triple | None], ...]] = {
    "voc07": (
        ("paper: supervised", (74.4, 42.4, 42.7), None),
        ("paper: SimSiam, base recipe", (75.5, 47.0, 50.2), None),
        ("paper: SimSiam, lr .5, wd 1e-5", (77.3, 48.5, 52.5), None),
    ),
    "voc0712": (
        ("paper: supervised", (81.3, 53.5, 58.8), None),
        ("paper: SimSiam, base recipe", (82.0, 56.4, 62.8), None),
        ("paper: SimSiam, lr .5, wd 1e-5", (82.4, 57.0, 63.7), None),
    ),
    "coco-1x": (
        ("paper: supervised", (58.2, 38.2, 41.2), (54.7, 33.3, 35.2)),
        ("paper: SimSiam, base recipe", (57.5, 37.9, 40.9), (54.2, 33.2, 35.2)),
        ("paper: SimSiam, lr .5, wd 1e-5", (59.3, 39.2, 42.1), (56.0, 34.4, 36.7)),
    ),
}
_NUMBERS = ("ap50", "ap", "ap75")


def summarized(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean, standard deviation (None of one run) and values of each number over the runs of one start."""
    names = [name for name in runs[0]["metrics"] if name.startswith(("ap", "mask_ap"))]
    found: dict[str, Any] = {}
    for name in names:
        values = [run["metrics"].get(name) for run in runs]
        if any(value is None or value != value for value in values):
            continue  # a size of which the test set has no objects
        found[name] = {"mean": mean(values), "std": stdev(values) if len(values) > 1 else None, "values": values}
    return found


def table(
    settings: DetectSettings, protocol: str, by_init: dict[str, dict[str, Any]], archs: dict[str, str],
    backend: Backend, notes: list[str],
) -> Table:  # fmt: skip
    """One row for each start, with its backend, arch and heads named, and the paper's rows below."""
    masks = any("mask_ap" in one for one in by_init.values())
    columns = ["start", "backend", "detector", "trials", "AP50", "AP", "AP75"]
    columns += ["mask AP50", "AP", "AP75"] if masks else []
    prefixes = ("", "mask_") if masks else ("",)
    rows = []
    for label, numbers in by_init.items():
        cells = [_cell(numbers.get(prefix + name)) for prefix in prefixes for name in _NUMBERS]
        detector = f"{archs[label]}-{settings.heads}"
        rows.append([label, backend.name, detector, str(len(numbers["ap"]["values"])), *cells])
    published = PUBLISHED.get(settings.preset, ())
    for who, boxes, segmentations in published:
        numbers_shown = [*boxes, *((segmentations or ()) if masks else ())]
        trials = "5" if settings.preset.startswith("voc") else "1"
        rows.append([who, "detectron2", "resnet50-c4", trials, *map(str, numbers_shown)])
    if published:
        notes = [*notes, "The paper's rows: ResNet-50-C4, 200 epochs on ImageNet, detectron2, the whole protocol."]
        if protocol != settings.preset:
            notes = [*notes, f"The other rows are not of the whole protocol ({protocol})."]
    if backend.name != "detectron2":
        notes = [*notes, f"{backend.name} is not the reference protocol: {'; '.join(backend.differences)}."]
    title = f"Detection transfer, {protocol}, {settings.metric} metric, %"
    return Table(title, columns, rows, notes)


def _cell(numbers: dict[str, Any] | None) -> str:
    if numbers is None:
        return "-"
    spread = f" ± {100 * numbers['std']:.1f}" if numbers["std"] is not None else ""
    return f"{100 * numbers['mean']:.1f}{spread}"
