"""`duplicates`: near-duplicates inside a feature file, or leakage from one into another, as groups that can be looked at."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from simsiam_eval.commands.record import Result, Table, provenance
from simsiam_eval.commands.settings import DeviceSettings, setting
from simsiam_eval.errors import DataError
from simsiam_eval.vocabulary import SHEET_ENDINGS
from simsiam_eval.wording import counted

if TYPE_CHECKING:
    from simsiam_eval.features.table import Features

_SHOWN, _SHEET_GROUPS, _SHEET_IMAGES = 10, 30, 10
_FRAMES = ("#1f4fb4", "#d95f02")  # of the first and of the second file


@dataclass(frozen=True, kw_only=True)
class DuplicatesSettings(DeviceSettings):
    """Find images that are nearly the same: inside one set, or between a training and a test set."""

    GROUPS: ClassVar[dict[str, str]] = {"data": "file other", "output": "out table images other_images"}
    EXAMPLES: ClassVar[tuple[str, ...]] = ("train.h5", "train.h5 test.h5 --out pairs.html")

    file: Path = setting(positional=True, help="Feature file (.h5); with a second one: the training set.")
    other: Path | None = setting(
        None, positional=True, help="Feature file of the test set, by the same encoder: only pairs across count."
    )
    threshold: float = setting(
        0.95,
        above=0,
        at_most=1,
        help="Cosine similarity from which two images are near-duplicates; look at the picture.",
    )
    out: Path | None = setting(
        None, output=True, endings=SHEET_ENDINGS, help="Contact sheet of the groups to write (.png or .html)."
    )
    table: Path | None = setting(None, output=True, help="CSV to write: group, file, id, label, similarity.")
    images: str | None = setting(None, help="Image source of FILE for the sheet; default: the one of its features.")
    other_images: str | None = setting(
        None, help="Image source of OTHER for the sheet; default: the one of its features."
    )

    def check(self) -> None:
        if self.other is None:
            self.reject_given(("other_images",), "is of a second file: give OTHER")
        if self.out is None:
            self.reject_given(("images", "other_images"), "is of the sheet: give --out")


def duplicates(settings: DuplicatesSettings) -> Result:
    """Run `duplicates`, exactly: every pair is compared.

    Raises:
        DataError: a feature file cannot be used, or the two are not of one encoder, or of the same images.
    """
    from simsiam_eval.features.compatibility import described_features, refuse_mixture, same_rows
    from simsiam_eval.features.reader import open_features
    from simsiam_eval.files.atomic import write_csv
    from simsiam_eval.neighbors.duplicates import Groups, pairs_above
    from simsiam_eval.runtime.device import resolve_device

    started = time.perf_counter()
    settings.try_outputs()
    first = open_features(settings.file)
    sets = [first] if settings.other is None else [first, open_features(settings.other)]
    if len(sets) > 1:
        refuse_mixture(*sets)
        if same_rows(*sets):
            raise DataError(f"{settings.file} and {settings.other} hold the same images: give one of them.")
    groups = Groups(sum(len(one.ids) for one in sets))
    shift = 0 if settings.other is None else len(first.ids)
    asked = None if settings.other is None else sets[1].features
    for one, two, similarities in pairs_above(
        first.features, asked, settings.threshold, resolve_device(settings.device)
    ):
        groups.join(one, two + shift, similarities)
    found = [
        [_member(sets, int(row), float(groups.similarity[row])) for row in rows.tolist()] for rows in groups.members()
    ]
    metrics = _metrics(settings, sets, found, groups.pairs)
    files = {}
    if settings.out is not None:
        _write_sheet(settings, sets, found)
        files["sheet"] = str(settings.out)
    if settings.table is not None:
        lines = (
            (number, one["file"], one["id"], one["label"], f"{one['similarity']:.6f}")
            for number, group in enumerate(found)
            for one in group
        )
        write_csv(settings.table, ("group", "file", "id", "label", "similarity"), lines)
        files["table"] = str(settings.table)
    return Result(
        task="duplicates",
        settings=settings.to_dict(),
        metrics=metrics | {"group_members": found},
        provenance=provenance(started, sets=[described_features(one) for one in sets]),
        files=files,
        table=_table(settings, metrics, found),
    )


def _member(sets: list[Features], row: int, similarity: float) -> dict[str, Any]:
    """One image of a group; `similarity` is the highest of its pairs."""
    place = int(row >= len(sets[0].ids))
    features = sets[place]
    row -= place * len(sets[0].ids)
    return {
        "file": place,
        "id": str(features.ids[row]),
        "label": int(features.labels[row]),
        "similarity": similarity,
    }


def _metrics(
    settings: DuplicatesSettings, sets: list[Features], found: list[list[dict[str, Any]]], pairs: int
) -> dict[str, Any]:
    disagree = sum(len({one["label"] for one in group if one["label"] >= 0}) > 1 for group in found)
    metrics = {
        "threshold": settings.threshold,
        "pairs": pairs,
        "groups": len(found),
        "groups_with_several_labels": disagree,
        "images": sum(map(len, found)),
        "compared": [len(one.ids) for one in sets],
    }
    if settings.other is not None:
        leaked = sum(one["file"] for group in found for one in group)
        metrics |= {"leaked": leaked, "leaked_share": leaked / len(sets[1].ids)}
    return metrics


def _write_sheet(settings: DuplicatesSettings, sets: list[Features], found: list[list[dict[str, Any]]]) -> None:
    """A line per group, the most similar first; blue frames for FILE, orange ones for OTHER."""
    from simsiam_eval.features.class_names import class_name
    from simsiam_eval.plots.contact_sheet import Cell, write_sheet
    from simsiam_eval.plots.source_images import SourceImages

    specs = (settings.images, settings.other_images)
    images = [SourceImages(spec) if spec else SourceImages.of(one) for spec, one in zip(specs, sets, strict=False)]
    lines = []
    for group in found[:_SHEET_GROUPS]:
        line = []
        for one in group[:_SHEET_IMAGES]:
            names = sets[one["file"]].class_names
            name = class_name(one["label"], names) if names is not None else ""
            caption = (f"{one['similarity']:.4f}", *filter(None, [name]), one["id"])
            line.append(Cell(images[one["file"]].image(one["id"]), caption, _FRAMES[one["file"]]))
        if len(group) > _SHEET_IMAGES:
            line.append(Cell(None, (f"and {len(group) - _SHEET_IMAGES} more",)))
        lines.append(line)
    assert settings.out is not None
    title = f"{counted(len(found), 'group')} of near-duplicates at {settings.threshold:g}"
    write_sheet(settings.out, title + (f", the first {_SHEET_GROUPS}" if len(found) > _SHEET_GROUPS else ""), lines)


def _table(settings: DuplicatesSettings, metrics: dict[str, Any], found: list[list[dict[str, Any]]]) -> Table:
    rows = [
        [f"{max(one['similarity'] for one in group):.4f}", str(len(group)), "  ".join(one["id"] for one in group[:6])]
        for group in found[:_SHOWN]
    ]
    notes = [f"and {counted(len(found) - _SHOWN, 'group')} more"] if len(found) > _SHOWN else []
    if metrics["groups_with_several_labels"]:
        notes.append(f"Of several labels: {counted(metrics['groups_with_several_labels'], 'group')}.")
    if settings.other is not None:
        notes.append(
            f"{metrics['leaked']} of the {counted(metrics['compared'][1], 'image')} of {settings.other} leaked: with a "
            f"near-duplicate in {settings.file} ({100 * metrics['leaked_share']:.2f} %)."
        )
    across = "" if settings.other is None else " across the two"
    return Table(
        f"{counted(metrics['groups'], 'group')} of near-duplicates{across}, cosine at least {settings.threshold:g}",
        ("highest", "images", "ids"),
        rows,
        notes,
    )
