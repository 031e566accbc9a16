"""The scoreboard: what was measured of an encoder, the published numbers beside it, and what is missing."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from simsiam_eval.commands.command_line import command_line
from simsiam_eval.commands.record_file import Record
from simsiam_eval.metrics.intervals import accuracy_interval
from simsiam_eval.neighbors.votes import votes
from simsiam_eval.wording import percent
from tasks.report import figures
from tasks.report.encoders import Evaluated
from tasks.report.figures import Score
from tasks.report.inputs import Results
from tasks.report.published import dataset_of, published_for, title_of

Grid = dict[tuple[int, float], tuple[float, Sequence[float]]]
# Of the heat map.
_KS, _TEMPERATURES = (1, 5, 10, 20, 50, 100, 200), (0.03, 0.05, 0.07, 0.1, 0.2, 0.5)
GRID_K = max(_KS)
GRID_IMAGES = 10_000  # test images that the heat map is of; a search with k 200 takes most of the time for many


@dataclass(frozen=True)
class Row:
    """A line of the table: a measured number, or a published one."""

    measure: str
    value: str
    detail: str
    published: bool = False


@dataclass
class Scoreboard:
    """Attributes:
    rows: of the table.
    scores: those of the rows that are accuracies, for the chart.
    grid: kNN accuracy by k and T; empty without classes.
    grid_images: number of test images that it is of, a sample of many.
    few_shot: (shots, accuracy, low, high).
    notes: how to read the published rows.
    missing: (what is not there, the command that makes it).
    """

    rows: list[Row] = field(default_factory=list)
    scores: list[Score] = field(default_factory=list)
    grid: Grid = field(default_factory=dict)
    grid_images: int = 0
    few_shot: list[tuple[float, float, float, float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    missing: list[tuple[str, str]] = field(default_factory=list)

    @property
    def linear(self) -> Score | None:
        return next((score for score in self.scores if score.name.startswith("linear") and not score.published), None)

    def add(self, measure: str, value: float, interval: Sequence[float] | None, detail: str) -> None:
        """A measured fraction."""
        self.rows.append(Row(measure, f"{percent(value, interval)} %", detail))
        self.scores.append(Score(measure, value, interval))


def scoreboard(evaluated: Evaluated, results: Results, k: int, temperature: float) -> Scoreboard:
    """What is known of an encoder: kNN from its features, the rest from records."""
    board = Scoreboard()
    if evaluated.has_classes:
        board.grid.update(_grid(evaluated, k, temperature))
        board.grid_images = len(evaluated.neighbors.deep_rows)
        correct, tests = int(evaluated.correct_by_neighbors.sum()), len(evaluated.labeled_rows)
        value, interval = correct / tests, accuracy_interval(correct, tests)
        how = "votes of the training images" if evaluated.train else "leave-one-out among the test images"
        board.add(f"kNN top-1, k {k}, T {temperature:g}", value, interval, how)
    _add_linear(board, [record for record in results.of_task("linear-eval") if is_of(record, evaluated)])
    for record in [record for record in results.of_task("retrieval eval") if is_of(record, evaluated)][-1:]:
        for name, title in (("recall_at_1", "retrieval recall@1"), ("map", "retrieval mAP")):
            if record.metrics.get(name) is not None:
                board.add(title, record.metrics[name], record.metrics.get(f"{name}_interval"), _source(record))
    for record in results.of_task("rank"):
        for quality in record.metrics.get("files", []):
            if quality.get("file") == str(evaluated.test.path):
                text = f"{quality['rankme']:.1f} of {quality['rank_limit']}"
                board.rows.append(Row("RankMe (no labels)", text, _source(record)))
    _add_published(board, evaluated)
    _add_missing(board, evaluated)
    return board


def is_of(record: Record, evaluated: Evaluated) -> bool:
    """Whether a record has this encoder's results on these test images."""
    tested = record.provenance.get("test") or record.provenance.get("queries") or record.provenance.get("gallery")
    if not isinstance(tested, Mapping) or tested.get("encoder") != evaluated.attributes["encoder"]:
        return False
    source = tested.get("source") or {}
    return source.get("fingerprint") == evaluated.attributes["source"].get("fingerprint")


def _source(record: Record) -> str:
    protocol = f"{record.protocol}, " if record.protocol else ""
    return f"{protocol}{record.path.name}, {(record.finished or '')[:10]}"


def _grid(evaluated: Evaluated, k: int, temperature: float) -> Grid:
    """kNN top-1 of the sample of labeled test images for several k and T, those of the options among them."""
    found, rows = evaluated.neighbors.deep, evaluated.neighbors.deep_rows
    available = len(evaluated.bank) - (evaluated.train is None)
    ks = sorted({k, *(value for value in _KS if value <= available)})
    labels = np.where(found.numbers < 0, -1, evaluated.labels[found.numbers])
    grid: Grid = {}
    for t in sorted({temperature, *_TEMPERATURES}):
        for neighbors, guesses in votes(found.similarities, labels, ks, t, top=1).items():
            correct = int((guesses[:, 0] == evaluated.labels[rows]).sum())
            grid[neighbors, t] = correct / len(rows), accuracy_interval(correct, len(rows))
    return grid


def _add_linear(board: Scoreboard, records: Sequence[Record]) -> None:
    single = [record for record in records if "rows" not in record.metrics]
    for record in single[-1:]:
        metrics = record.metrics
        trained = metrics.get("trained_on")
        how = f"{_source(record)}; trained on {'center crops' if trained == 'crop' else trained}"
        board.add("linear top-1", metrics["top1"], metrics.get("top1_interval"), how)
    for record in records:
        for row in record.metrics.get("rows", []):
            shots = row["of"].get("shots")
            if shots is not None:
                values = [trial["top1"] for trial in row["trials"]]
                low, high = _spread(values, row["trials"])
                board.few_shot.append((float(shots), row["top1"], low, high))


def _spread(values: Sequence[float], trials: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Mean minus and plus one standard deviation over the trials; the interval of a single one."""
    if len(values) == 1:
        low, high = trials[0]["top1_interval"]
        return low, high
    mean, std = float(np.mean(values)), float(np.std(values, ddof=1))
    return mean - std, mean + std


def _add_published(board: Scoreboard, evaluated: Evaluated) -> None:
    dataset = dataset_of(evaluated.attributes["source"].get("spec"), evaluated.test.class_names)
    rows = published_for(dataset)
    if dataset is None:
        return
    encoder = evaluated.attributes["encoder"]
    arch = f"{encoder.get('arch')}{' with a CIFAR stem' if encoder.get('stem') == 'cifar' else ''}"
    board.notes.append(
        f"Published numbers on {title_of(dataset)} are gray. This encoder is a {arch}; where the architecture, the "
        "number of epochs or the protocol below differs, the numbers are not comparable."
    )
    for row in rows:
        board.rows.append(Row(f"{row.metric} top-1", f"{percent(row.top1)} %", f"{row.who}: {row.protocol}", True))
        board.scores.append(Score(f"{row.metric}: {row.who}", row.top1, published=True))


def _add_missing(board: Scoreboard, evaluated: Evaluated) -> None:
    """The commands that make what is not there; of accuracies only where there are classes to tell apart."""

    def add(what: str, output: str, task: str, **settings: Any) -> None:
        board.missing.append((what, f"{command_line(task, settings)} --json > {output}.json"))

    test, train = str(evaluated.test.path), evaluated.train and str(evaluated.train.path)
    have = {row.measure.split()[0] for row in board.rows if not row.published}
    if "RankMe" not in have:
        add("quality without labels", "rank", "rank", file=[test])
    if not evaluated.has_classes:
        return
    if train is None:
        board.missing.append(("a training set", f"simsiam-eval report --train TRAIN.h5 --test {shlex.quote(test)}"))
    elif "linear" not in have:
        add("linear evaluation", "linear", "linear-eval", train=train, test=test, save_head="head.safetensors")
    if train is not None and not board.few_shot:
        add("few-shot accuracy", "few-shot", "linear-eval", train=train, test=test, shots=[1, 5, 20], trials=3)
    if "retrieval" not in have:
        sets = {"gallery": test} if train is None else {"gallery": train, "queries": test}
        add("retrieval", "retrieval", "retrieval eval", **sets)


def verdict(board: Scoreboard, evaluated: Evaluated) -> str:
    """One sentence about how good the features are."""
    tests = len(evaluated.labeled_rows)
    if not board.scores or not evaluated.has_classes:
        return "The images have no labels of several classes, so that no accuracy can be said."
    classes = len(np.unique(evaluated.test.labels[evaluated.labeled_rows]))
    knn = board.scores[0]
    text = (
        f"Of {tests:,} test images of {classes} classes, the nearest neighbors classify {percent(knn.value)} % correctly"
        f"{_within(knn.interval)}"
    )
    if (linear := board.linear) is not None:
        text += f", and a linear classifier {percent(linear.value)} %{_within(linear.interval)}"
    counts = np.bincount(evaluated.test.labels[evaluated.labeled_rows])
    return f"{text}; always naming the most frequent class gives {percent(counts.max() / tests)} %."


def _within(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f" (95 % interval {percent(interval[0])} to {percent(interval[1])})"


def chart(board: Scoreboard) -> figures.Figure | None:
    """The scores, those that a published one can stand beside first."""
    return figures.scores(board.scores) if board.scores else None
