"""`duplicates`: near-duplicates within a feature file, or between a training and a test set, as groups of images."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from simsiam_eval.commands.record import Result, Table, provenance
from simsiam_eval.commands.settings import DeviceSettings, setting
from simsiam_eval.errors import DataError
from simsiam_eval.vocabulary import SHEET_ENDINGS
from simsiam_eval.wording import counted, percent

if TYPE_CHECKING:
    import torch

    from simsiam_eval.features.table import Features

_TABLE_GROUPS, _SHEET_GROUPS, _SHEET_IMAGES = 10, 30, 10
_FRAMES = ("#1f4fb4", "#d95f02")  # around images of the first and of the second file


@dataclass(frozen=True, kw_only=True)
class DuplicatesSettings(DeviceSettings):
    """Find near-duplicate images within one set, or between a training and a test set."""

    GROUPS: ClassVar[dict[str, str]] = {"data": "file other", "output": "out table images other_images"}
    EXAMPLES: ClassVar[tuple[str, ...]] = ("train.h5", "train.h5 test.h5 --out pairs.html")

    file: Path = setting(positional=True, help="Feature file (.h5); given two files, the training set.")
    other: Path | None = setting(
        None,
        positional=True,
        help="Feature file of the test set, by the same encoder; only pairs across the two files are reported.",
    )
    threshold: float = setting(
        0.95,
        above=0,
        at_most=1,
        help="Minimum cosine similarity of near-duplicates; check it on the contact sheet (--out).",
    )
    out: Path | None = setting(
        None, output=True, endings=SHEET_ENDINGS, help="Contact sheet of the groups (.png or .html)."
    )
    table: Path | None = setting(None, output=True, help="CSV with columns group, file, id, label, similarity.")
    images: str | None = setting(
        None, help="Image source of FILE for the contact sheet; default: the source of its features."
    )
    other_images: str | None = setting(
        None, help="Image source of OTHER for the contact sheet; default: the source of its features."
    )

    def check(self) -> None:
        if self.other is None:
            self.reject_given(("other_images",), "requires a second file, OTHER")
        if self.out is None:
            self.reject_given(("images", "other_images"), "requires --out")


def duplicates(settings: DuplicatesSettings) -> Result:
    """Run `duplicates`, exactly: every pair is compared.

    Raises:
        DataError: a feature file cannot be used, or the two are of different encoders or of the same images.
    """
    from simsiam_eval.features.compatibility import described_features, reject_mixture, same_rows
    from simsiam_eval.features.reader import open_features
    from simsiam_eval.runtime.device import resolve_device

    started = time.perf_counter()
    sets = [open_features(path) for path in (settings.file, settings.other) if path is not None]
    if len(sets) > 1:
        reject_mixture(*sets)
        if same_rows(*sets):
            raise DataError(
                f"{settings.file} and {settings.other} contain the same images; to search within them, give one file."
            )
    near_duplicates = _find(sets, settings.threshold, resolve_device(settings.device))
    files = {}
    if settings.out is not None:
        _write_sheet(settings.out, sets, (settings.images, settings.other_images), near_duplicates)
        files["sheet"] = str(settings.out)
    if settings.table is not None:
        _write_table(settings.table, near_duplicates)
        files["table"] = str(settings.table)
    return Result(
        task="duplicates",
        settings=settings.to_dict(),
        metrics=near_duplicates.to_dict(),
        provenance=provenance(started, sets=[described_features(features) for features in sets]),
        files=files,
        table=_table(near_duplicates, [features.name for features in sets]),
    )


@dataclass(frozen=True)
class Member:
    """An image of a group: the number of its file, 0 or 1, and the highest similarity of its pairs."""

    file: int
    id: str
    label: int
    similarity: float


@dataclass(frozen=True)
class Duplicates:
    """Groups of near-duplicates.

    Attributes:
        threshold: minimum cosine similarity of a pair.
        compared: number of images of each file.
        pairs: number of pairs.
        groups: images connected by pairs; the group with the most similar pair first.
    """

    threshold: float
    compared: tuple[int, ...]
    pairs: int
    groups: tuple[tuple[Member, ...], ...]

    @property
    def groups_with_several_labels(self) -> int:
        """Groups whose labeled images do not all have the same label."""
        return sum(len({member.label for member in group if member.label >= 0}) > 1 for group in self.groups)

    @property
    def leaked(self) -> int:
        """Images of the second file with a near-duplicate in the first."""
        return sum(member.file for group in self.groups for member in group)

    def to_dict(self) -> dict[str, Any]:
        """As in a record."""
        values: dict[str, Any] = {
            "threshold": self.threshold,
            "pairs": self.pairs,
            "groups": len(self.groups),
            "groups_with_several_labels": self.groups_with_several_labels,
            "images": sum(map(len, self.groups)),
            "compared": list(self.compared),
        }
        if len(self.compared) > 1:
            values |= {"leaked": self.leaked, "leaked_share": self.leaked / self.compared[1]}
        return values | {"group_members": [[asdict(member) for member in group] for group in self.groups]}


def _find(sets: list[Features], threshold: float, device: torch.device) -> Duplicates:
    """Compare all pairs of rows within one set, or across two."""
    from simsiam_eval.neighbors.duplicates import Groups, pairs_above

    compared = tuple(len(features.ids) for features in sets)
    joined = Groups(sum(compared))
    across = len(sets) > 1
    for first, second, similarities in pairs_above(
        sets[0].features, sets[1].features if across else None, threshold, device
    ):
        joined.join(first, second + (compared[0] if across else 0), similarities)
    groups = tuple(
        tuple(_member(sets, row, float(joined.similarity[row])) for row in rows.tolist()) for rows in joined.members()
    )
    return Duplicates(threshold, compared, joined.pairs, groups)


def _member(sets: list[Features], row: int, similarity: float) -> Member:
    """The image of a row of all sets together."""
    file = int(row >= len(sets[0].ids))
    row -= file * len(sets[0].ids)
    return Member(file, str(sets[file].ids[row]), int(sets[file].labels[row]), similarity)


def _write_table(path: Path, near_duplicates: Duplicates) -> None:
    from simsiam_eval.files.atomic import write_csv

    lines = (
        (number, member.file, member.id, member.label, f"{member.similarity:.6f}")
        for number, group in enumerate(near_duplicates.groups)
        for member in group
    )
    write_csv(path, ("group", "file", "id", "label", "similarity"), lines)


def _write_sheet(path: Path, sets: list[Features], specs: tuple[str | None, ...], near_duplicates: Duplicates) -> None:
    """A line per group, the most similar first; images of the first file have blue frames, those of the second orange.

    Args:
        specs: image source of each set; None: the source of its features.
    """
    from simsiam_eval.features.class_names import class_name
    from simsiam_eval.plots.contact_sheet import Cell, write_sheet
    from simsiam_eval.plots.source_images import SourceImages

    images = [
        SourceImages(spec) if spec else SourceImages.from_features(features)
        for spec, features in zip(specs, sets, strict=False)
    ]
    lines = []
    for group in near_duplicates.groups[:_SHEET_GROUPS]:
        line = []
        for member in group[:_SHEET_IMAGES]:
            names = sets[member.file].class_names
            name = class_name(member.label, names) if names is not None else ""
            caption = (f"{member.similarity:.4f}", *filter(None, [name]), member.id)
            line.append(Cell(images[member.file].image(member.id), caption, _FRAMES[member.file]))
        if len(group) > _SHEET_IMAGES:
            line.append(Cell(None, (f"and {len(group) - _SHEET_IMAGES} more",)))
        lines.append(line)
    title = f"{counted(len(near_duplicates.groups), 'group')} of near-duplicates at {near_duplicates.threshold:g}"
    write_sheet(
        path, title + (f", the first {_SHEET_GROUPS}" if len(near_duplicates.groups) > _SHEET_GROUPS else ""), lines
    )


def _table(near_duplicates: Duplicates, paths: list[str]) -> Table:
    rows = [
        [
            f"{max(member.similarity for member in group):.4f}",
            str(len(group)),
            "  ".join(member.id for member in group[:6]),
        ]
        for group in near_duplicates.groups[:_TABLE_GROUPS]
    ]
    notes = []
    if len(near_duplicates.groups) > _TABLE_GROUPS:
        notes.append(f"and {counted(len(near_duplicates.groups) - _TABLE_GROUPS, 'group')} more")
    if near_duplicates.groups_with_several_labels:
        notes.append(f"With more than one label: {counted(near_duplicates.groups_with_several_labels, 'group')}.")
    if len(paths) > 1:
        images = near_duplicates.compared[1]
        notes.append(
            f"{near_duplicates.leaked} of {counted(images, 'image')} ({percent(near_duplicates.leaked / images)} %) in "
            f"{paths[1]} have a near-duplicate in {paths[0]}."
        )
    across = " across the two files" if len(paths) > 1 else ""
    return Table(
        f"{counted(len(near_duplicates.groups), 'group')} of near-duplicates{across}, cosine similarity at least "
        f"{near_duplicates.threshold:g}",
        ("highest similarity", "images", "ids"),
        rows,
        notes,
    )
