"""The section on detection: the table beside the paper's, and the picture of ground truth and detections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from simsiam_eval.commands.record_file import Record
from simsiam_eval.wording import counted
from tasks.detection.summary import PUBLISHED
from tasks.report.images import picture_url

_COLUMNS = ("ap50", "ap", "ap75")


@dataclass(frozen=True)
class DetectionResult:
    """One record of `detect`.

    Attributes:
        rows: initialization, trials, AP50, AP, AP75; those of the paper are marked.
        notes: how the protocol differs.
        picture: data URL of the picture, None if it is gone.
    """

    title: str
    rows: list[tuple[list[str], bool]]
    notes: list[str]
    picture: str | None


def detections_of(records: Sequence[Record]) -> list[DetectionResult]:
    """The records of `detect`, in order."""
    return [_result(record) for record in records]


def _result(record: Record) -> DetectionResult:
    rows: list[tuple[list[str], bool]] = []
    for label, by_name in record.metrics.get("by_init", {}).items():
        cells = []
        for name in _COLUMNS:
            numbers = by_name.get(name)
            spread = "" if numbers is None or numbers.get("std") is None else f" ± {100 * numbers['std']:.1f}"
            cells.append("-" if numbers is None else f"{100 * numbers['mean']:.1f}{spread}")
        rows.append(([label, str(len(by_name.get("ap", {}).get("values", []))), *cells], False))
    for published in PUBLISHED.get(str(record.settings.get("preset")), ()):
        trials = "5" if str(record.settings.get("preset")).startswith("voc") else "1"
        rows.append(([published.name, trials, *(f"{value:.1f}" for value in published.boxes)], True))
    notes = [*record.provenance.get("notes", []), *record.metrics.get("warnings", [])]
    if differences := record.provenance.get("differences"):
        backend = record.provenance.get("backend")
        notes.append(f"{backend} is not the reference protocol; it differs in: {'; '.join(differences)}.")
    picture = record.files.get("picture")
    found = None
    if picture is not None:  # the folder may have been moved
        found = picture_url(Path(picture)) or picture_url(record.path.parent / Path(*Path(picture).parts[-2:]))
    preset, changes = str(record.settings.get("preset")), str(record.protocol).partition(", ")[2]
    if changes:
        notes.insert(0, f"The full protocol {preset} is not followed: {changes}.")
    images = counted(int(record.metrics.get("images", 0)), "test image")
    return DetectionResult(f"Protocol {preset}{' (modified)' if changes else ''}, {images}", rows, notes, found)
