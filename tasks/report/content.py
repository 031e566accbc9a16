"""The content of the page, section by section."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from simsiam_eval.commands.command_line import command_line
from simsiam_eval.encoders.checkpoint import inspect_checkpoint
from simsiam_eval.encoders.choice import EncoderChoice
from simsiam_eval.features.class_names import class_name
from simsiam_eval.features.compatibility import own_note
from simsiam_eval.metrics.confusion import Confusion
from simsiam_eval.metrics.intervals import accuracy_interval
from simsiam_eval.neighbors.coordinates import umap_is_installed
from simsiam_eval.runtime.machine import versions
from simsiam_eval.runtime.progress import say
from simsiam_eval.wording import printable
from tasks.report import figures
from tasks.report.detections import DetectionResult, detections_of
from tasks.report.encoders import Evaluated
from tasks.report.images import PageImages, clusters_of, map_of, shown_images, thumbnails_of
from tasks.report.inputs import Results
from tasks.report.pairs import Comparison, compare_encoders, pair_data
from tasks.report.scoreboard import Scoreboard, chart, scoreboard, verdict
from tasks.report.settings import ReportSettings
from tasks.report.suspects import SuspectList, duplicates_of, suspects_of
from tasks.report.training import Training, training_of
from tasks.runs import COLUMNS, runs_of


@dataclass(frozen=True)
class ClassRow:
    """A class of the test images: accuracy in percent with its interval, None without images."""

    name: str
    images: int
    accuracy: float | None
    low: float
    high: float


@dataclass
class Content:
    """What the template shows; a section without content is left out.

    Attributes:
        figures: name -> plotly figure.
        data: of the images, for the page's script; None without features.
        records: cells of every record, as `runs` shows them.
        confused: numbers of the classes of the confusion matrix.
        tests: number of labeled test images.
        commands: (what, command line) to repeat.
        hashes: (what, hash) of the encoder and the images.
    """

    title: str
    verdict: str
    facts: list[tuple[str, str]] = field(default_factory=list)
    board: Scoreboard | None = None
    predicted_by: str = ""
    map_note: str = ""
    figures: dict[str, figures.Figure] = field(default_factory=dict)
    data: dict[str, Any] | None = None
    thumbnails: int = 0
    classes: list[ClassRow] = field(default_factory=list)
    tests: int = 0
    confused: list[int] = field(default_factory=list)
    confusion_note: str = ""
    suspects: list[SuspectList] = field(default_factory=list)
    trainings: list[Training] = field(default_factory=list)
    comparison: Comparison | None = None
    detections: list[DetectionResult] = field(default_factory=list)
    record_columns: Sequence[str] = COLUMNS
    records: list[list[str]] = field(default_factory=list)
    commands: list[tuple[str, str]] = field(default_factory=list)
    hashes: list[tuple[str, str]] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)


def page_content(
    encoders: Sequence[Evaluated], results: Results, settings: ReportSettings, device: torch.device
) -> Content:
    """All sections, of the first encoder, with the others beside it."""
    content = Content("Report", "No feature file was given, so there is no map and no accuracy.", versions=versions())
    if encoders:
        _add_encoder(content, encoders, results, settings, device)
    for number, folder in enumerate(results.trainings):
        content.trainings.append(training := training_of(folder))
        if training.figure is not None:
            content.figures[f"training{number}"] = training.figure
    content.detections = detections_of(results.of_task("detect"))
    content.records = [run.cells() for record in results.records for run in runs_of(record)]
    if own := command_line("report", settings.to_dict()):
        computes = ", with everything that it computes" if settings.checkpoint is not None else ""
        content.commands.append((f"this page{computes}", printable(own)))
    for record in sorted(results.records, key=lambda record: record.finished or ""):
        if line := command_line(record.task, record.settings):
            made = f", {(record.finished or '')[:10]}" if record.finished else ""
            content.commands.append((f"{record.path}{made}", printable(line)))
    return content


def _add_encoder(
    content: Content,
    encoders: Sequence[Evaluated],
    results: Results,
    settings: ReportSettings,
    device: torch.device,
) -> None:
    main = encoders[0]
    content.title = main.name
    board = scoreboard(main, results, settings.k, settings.temperature)
    content.board, content.verdict = board, verdict(board, main)
    content.facts = _facts(main, settings.given_encoder())
    content.hashes = _hashes(main)
    content.predicted_by = _predicted_by(main, settings)
    content.tests = len(main.labeled_rows)
    if (scores := chart(board)) is not None:
        content.figures["scores"] = scores
    if board.grid:
        content.figures["knn"] = figures.knn_heat_map(board.grid)
    if board.few_shot:
        content.figures["fewshot"] = figures.few_shot(board.few_shot, "training images per class")
    if main.has_classes:
        _add_confusion(content, main)
    duplicates = duplicates_of(main, settings.duplicate_threshold, device)
    content.suspects = suspects_of(main, duplicates, settings.k, settings.temperature, device)
    say(_map_message(settings.map))
    coordinates = map_of(main, settings.map, settings.seed, device)
    first = [number for suspects in content.suspects for row in suspects.rows[:9] for number in row.numbers]
    places, sprites = thumbnails_of(main, shown_images(main, first, settings.thumbnails))
    content.thumbnails = sprites.count
    clusters = clusters_of(main, settings.seed)
    content.map_note = f"{coordinates.sentence()} {clusters.sentence()}{_sample_note(sprites.count, main.count)}"
    images = PageImages(main, coordinates, clusters, duplicates.flags, places, sprites)
    content.data = images.to_dict()
    content.comparison = compare_encoders(encoders, device)
    if content.comparison is not None and (other := content.comparison.other) is not None:
        say("map of the second encoder")
        of_other = map_of(other, settings.map, settings.seed, device)
        content.data["pair"] = pair_data(main, other, coordinates, of_other, content.comparison.second)


def _map_message(method: str) -> str:
    if method == "pca" or not umap_is_installed():
        return "map by PCA"
    return "map by UMAP; importing umap-learn and compiling it can take half a minute (--map pca does not need it)"


def _sample_note(thumbnails: int, images: int) -> str:
    if not thumbnails:
        return " The images cannot be shown: their source is not there."
    return "" if thumbnails == images else f" {thumbnails:,} of the {images:,} images have a thumbnail."


def _predicted_by(main: Evaluated, settings: ReportSettings) -> str:
    neighbors = f"the votes of the {settings.k} nearest neighbors (T {settings.temperature:g})"
    if main.head is not None:
        return (
            f"Predictions for test images are those of {main.head}; for training images, {neighbors} without the image "
            "itself."
        )
    among = "training" if main.train else "test"
    return f"Predictions are by {neighbors} among the {among} images, without the image itself."


def _facts(main: Evaluated, checkpoint: EncoderChoice | None) -> list[tuple[str, str]]:
    attributes, encoder = main.attributes, main.attributes["encoder"]
    facts = []
    if checkpoint is not None:
        epoch = inspect_checkpoint(checkpoint).epoch
        facts.append(("Checkpoint", f"{checkpoint.checkpoint}{'' if epoch is None else f', epoch {epoch}'}"))
    facts.append(("Features", f"{main.test.width} ({encoder.get('layer', 'pool')}, {attributes.get('precision')})"))
    facts.append(("Test images", f"{len(main.test):,} of {attributes['source'].get('spec')}"))
    if main.train is not None:
        facts.append(("Training images", f"{len(main.train):,} of {main.train.attributes['source'].get('spec')}"))
    unreadable = main.test.unreadable + (main.train.unreadable if main.train else 0)
    if unreadable:
        facts.append(("Unreadable images", f"{unreadable:,}, left out"))
    if unlabeled := len(main.test) - len(main.labeled_rows):
        facts.append(("Test images without a label", f"{unlabeled:,}, on the map only"))
    facts += [("In both sets", note) for note in own_note(main.own)]
    facts += [("Assumed", str(text)) for text in attributes.get("assumptions") or ()]
    return [(name, printable(value)) for name, value in facts]


def _hashes(main: Evaluated) -> list[tuple[str, str]]:
    """Of the weights, and the fingerprints of the image sources; what a feature file does not say is left out."""
    tables = [("test images", main.test), *([("training images", main.train)] if main.train else [])]
    found = [("weights (sha256)", main.attributes["encoder"].get("weights_sha256"))]
    found += [(f"fingerprint of the {what}", table.attributes["source"].get("fingerprint")) for what, table in tables]
    return [(what, printable(str(value))) for what, value in found if value]


def _add_confusion(content: Content, main: Evaluated) -> None:
    confusion = main.confusion()
    names = main.class_names
    shown = np.flatnonzero(confusion.totals) if len(names) else np.arange(0)
    if len(shown) > figures.MAX_CONFUSED:
        shown = confusion.classes_of_worst_pairs(figures.MAX_CONFUSED)
        content.confusion_note = f"The {len(shown)} of {len(names):,} classes with the most frequent confusions."
    content.confused = shown.tolist()
    content.figures["confusion"] = figures.confusion(confusion.matrix(shown), [names[label] for label in shown])
    content.classes = _class_rows(confusion, names)


def _class_rows(confusion: Confusion, names: Sequence[str]) -> list[ClassRow]:
    rows = []
    for label in np.flatnonzero(confusion.totals).tolist():
        total = int(confusion.totals[label])
        accuracy = float(confusion.accuracies[label])
        low, high = accuracy_interval(round(accuracy * total), total)
        rows.append(ClassRow(printable(class_name(label, names)), total, 100 * accuracy, 100 * low, 100 * high))
    return sorted(rows, key=lambda row: row.accuracy or 0)
