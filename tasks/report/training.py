"""The section on a pretraining: its log as curves, and where it collapsed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simsiam_eval.files.jsonl import read_entries
from simsiam_eval.wording import counted
from tasks.report import figures
from tasks.report.inputs import LOG

_TITLES = {"full": "full collapse", "partial": "partial collapse", "": "no collapse any more"}


@dataclass(frozen=True)
class Training:
    """A run of `pretrain`.

    Attributes:
        summary: how many epochs are finished, and how to read the curves.
        events: sentences about collapses, in their order.
        figure: None for a run without a logged epoch.
    """

    folder: Path
    summary: str
    events: list[str]
    figure: figures.Figure | None


def training_of(folder: Path) -> Training:
    """Read the log of a run folder.

    Raises:
        DataError: it cannot be read.
    """
    lines = read_entries(folder / LOG)
    epochs = [line for line in lines if line.get("kind") == "epoch"]
    health = [line for line in lines if line.get("kind") == "health"]
    if not epochs:
        return Training(folder, "No epoch is finished.", [], None)
    steps = epochs[-1]["step"] / (epochs[-1]["epoch"] + 1)  # per epoch

    def by_epoch(rows: list[dict[str, Any]], key: str) -> list[tuple[float, float]]:
        return [(row["step"] / steps, row[key]) for row in rows if row.get(key) is not None]

    panels = {
        "loss": {"loss": by_epoch(epochs, "loss")},
        "output std": {"output std x sqrt(d)": by_epoch(epochs, "output_std")},
        "effective rank": {
            "rank of the outputs": by_epoch(health, "output_rank"),
            "rank of the features": by_epoch(health, "feature_rank"),
        },
        "online kNN %": {"online kNN %": [(x, 100 * y) for x, y in by_epoch(epochs, "knn_top1")]},
    }
    shown = {title: found for title, of in panels.items() if (found := {name: p for name, p in of.items() if p})}
    marks: list[float] = []
    events, before = [], ""
    for row in health:
        now = row.get("collapse", "")
        if now != before:
            marks.append(row["step"] / steps)
            events.append(f"Epoch {row['step'] / steps:.1f} (step {row['step']}): {_TITLES.get(now, now)}.")
        before = now
    summary = f"{counted(len(epochs), 'epoch')} of training. "
    if "output std" in shown:
        summary += (
            "Output std is that of the normalized outputs times the square root of their dimension: near 1 for outputs "
            "spread over the sphere, 0 where all are the same. "
        )
    if not health:
        summary += "No collapse check was run."
    elif not events:
        summary += "No collapse was found."
    return Training(folder, summary.strip(), events, figures.curves(shown, marks, "collapse check: new result"))
