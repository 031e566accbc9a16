"""Metrics and tables of `linear-eval`, for one head or for one row per setup."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsiam_eval.commands.record import Table
from simsiam_eval.linear.data import ProbeData
from simsiam_eval.linear.probing import LinearFit, judge
from simsiam_eval.linear.selection import Probe
from simsiam_eval.metrics.confusion import MAX_CLASSES, Confusion
from simsiam_eval.metrics.intervals import accuracy_metrics, bootstrap_intervals
from simsiam_eval.wording import Measurement, percent
from tasks.linear.accuracy import Accuracies
from tasks.linear.trials import Setup, Subset, Trial

_MAX_CONFUSION = 100  # classes up to which the record holds the confusion matrix; --out writes it for more
NOTHING_HELD_OUT = (
    "With only one training image per class, nothing can be held out to choose a recipe: the middle recipe was used "
    "(see `chosen` in the record)."
)


@dataclass(frozen=True)
class CropComparison:
    """The same recipe trained on center crops.

    Attributes:
        correct, images: its number of correct test images, of all.
        difference: how much higher the accuracy of the reported head is, with its paired 95 % bootstrap `interval`.
    """

    correct: int
    images: int
    difference: float
    interval: list[float]

    def to_dict(self) -> dict[str, Any]:
        """As it stands in a record."""
        accuracy = accuracy_metrics("crop_top1", self.correct, self.images)
        return accuracy | {"difference_to_crop": self.difference, "difference_to_crop_interval": self.interval}


@dataclass(frozen=True)
class HeadReport:
    """The result of one head.

    Attributes:
        feed: what it was trained on: `crop`, `views` or `end-to-end`.
        train_top1: accuracy on its own `train_images` training images.
        crop: None where `feed` is `crop`.
    """

    fit: LinearFit
    feed: str
    accuracies: Accuracies
    train_top1: float
    train_images: int
    confusion: Confusion
    crop: CropComparison | None

    def to_dict(self) -> dict[str, Any]:
        """The record's metrics."""
        fit, confusion, names = self.fit, self.confusion, self.confusion.class_names
        metrics = self.accuracies.to_dict() | {
            "train_top1": self.train_top1,
            "train_images": self.train_images,
            "images": confusion.images,
            "classes": len(names),
            "trained_on": self.feed,
            "chosen": fit.recipe.varied(),
            "heads": [candidate.to_dict() for candidate in fit.candidates],
        }
        if len(names) <= MAX_CLASSES:
            metrics["per_class"] = dict(zip(names, confusion.accuracies.tolist(), strict=True))
        else:
            metrics |= {"worst_classes": confusion.worst_classes(), "worst_pairs": confusion.worst_pairs()}
        if fit.test_top1:
            metrics |= {"top1_best_epoch": max(fit.test_top1), "best_epoch": int(np.argmax(fit.test_top1))}
            metrics |= {"train_loss": fit.train_loss[-1]}
        metrics |= {} if self.crop is None else self.crop.to_dict()
        if len(names) <= _MAX_CONFUSION:
            metrics["confusion"] = confusion.matrix().tolist()
        return metrics | {"test_top1_by_epoch": fit.test_top1, "train_loss_by_epoch": fit.train_loss}

    def table(self, title: str) -> Table:
        """One row, with notes on how the head was chosen."""
        metrics, notes, best = self.to_dict(), [], "-"
        if self.fit.test_top1:
            top1 = percent(metrics["top1_best_epoch"])
            best = Measurement(f"{top1} ({metrics['best_epoch']})", top1.value, epoch=metrics["best_epoch"])
            notes.append("The last epoch is reported. The best epoch on the test set is shown only for comparison.")
        if self.fit.candidates:
            notes.append(choice_note(self.fit))
        if self.crop is not None:
            low, high = self.crop.interval
            top1 = percent(self.crop.correct / self.crop.images)
            notes.append(
                f"The same head trained on center crops: top-1 {top1} %; difference "
                f"{100 * self.crop.difference:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]."
            )
        cells = [
            percent(metrics[name], metrics[f"{name}_interval"]) if name in metrics else "-"
            for name in ("top1", "top5", "mean_per_class")
        ]
        return Table(
            f"{title}, {self.train_images} training and {metrics['images']} test images",
            ("top-1 % [95 %]", "top-5 % [95 %]", "mean per class % [95 %]", "train top-1 %", "best epoch on test %"),
            [[*cells, percent(self.train_top1), best]],
            notes,
        )


def head_report(fit: LinearFit, probe: Probe, data: ProbeData, feed: str, crop: LinearFit | None) -> HeadReport:
    """Evaluate a head on the test set.

    Args:
        crop: the same recipe trained on center crops, for the difference.
    """
    labels, predictions = data.test.labels.cpu().numpy(), _predictions(fit, data)
    rows, features, targets = probe.rows_on(data.device), data.train.layers[fit.head.layer], data.train.labels
    if rows is not None:
        features, targets = features[rows], targets[rows]
    return HeadReport(
        fit=fit,
        feed=feed,
        accuracies=Accuracies.of(fit, data),
        train_top1=judge(fit.head, features, targets)[0],
        train_images=len(targets),
        confusion=Confusion(labels, predictions, data.class_names),
        crop=None if crop is None else _comparison(predictions, _predictions(crop, data), labels, fit.recipe.seed),
    )


def choice_note(fit: LinearFit) -> str:
    """Which candidate was chosen, and whether it lies at the edge of the values tried."""
    chosen, tried = fit.recipe.varied(), [candidate.recipe.varied() for candidate in fit.candidates]
    best = next(candidate for candidate in fit.candidates if candidate.recipe == fit.recipe)
    values = ", ".join(
        f"{name.replace('_', ' ')} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in chosen.items()
        if len({recipe[name] for recipe in tried}) > 1
    )
    assert best.top1 is not None
    note = f"Best of {len(tried)} heads on held-out training images ({percent(best.top1)} %): {values}."
    for name in ("lr", "c"):
        rates = sorted({float(recipe[name]) for recipe in tried if name in recipe})
        if len(rates) > 2 and chosen.get(name) in (rates[0], rates[-1]):
            edge, more = ("smallest", "smaller") if chosen[name] == rates[0] else ("largest", "larger")
            note += f" This is the {edge} {name} tried; try {more} values."
    return note


@dataclass(frozen=True)
class RowReport:
    """The trials of one setup."""

    setup: Setup
    fits: tuple[LinearFit, ...]
    accuracies: tuple[Accuracies, ...]

    def values(self, name: str) -> list[float]:
        """`top1` or `top5` of each trial; empty where there are too few classes."""
        return [accuracies.top[name] for accuracies in self.accuracies if name in accuracies.top]

    def summary(self) -> dict[str, Any]:
        """Mean and sample standard deviation over the trials; the latter is None for a single one."""
        summary: dict[str, Any] = {}
        for name in self.accuracies[0].top:
            values = self.values(name)
            summary[name] = float(np.mean(values))
            summary[f"{name}_std"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
        return summary

    def to_dict(self) -> dict[str, Any]:
        """As it stands in a record, with every trial."""
        trials = [
            {"seed": fit.recipe.seed, "chosen": fit.recipe.varied()}
            | {"heads": [candidate.to_dict() for candidate in fit.candidates]}
            | accuracies.to_dict()
            for fit, accuracies in zip(self.fits, self.accuracies, strict=True)
        ]
        return {"of": self.setup.to_dict(), "trials": trials} | self.summary()

    def cells(self) -> list[str]:
        """Its row of the table."""
        return [
            self.setup.layer,
            str(self.setup.subset),
            str(self.setup.images),
            self._cell("top1"),
            self._cell("top5"),
        ]

    def _cell(self, name: str) -> str:
        values = self.values(name)
        if not values:
            return "-"
        if len(values) == 1:
            return percent(values[0], self.accuracies[0].intervals[name])
        mean, std = percent(float(np.mean(values))), 100 * float(np.std(values, ddof=1))
        return Measurement(f"{mean} ({std:.2f})", mean.value, std=std)


@dataclass(frozen=True)
class RowsReport:
    """The results of several setups or seeds."""

    rows: list[RowReport]
    feed: str
    images: int
    classes: int

    def to_dict(self) -> dict[str, Any]:
        """The record's metrics; `top1` and `top1_std` (and `top5`) are those of the first row."""
        sizes = {"images": self.images, "classes": self.classes, "trained_on": self.feed}
        return self.rows[0].summary() | sizes | {"rows": [row.to_dict() for row in self.rows]}

    def table(self, title: str) -> Table:
        """A row per setup, and how many trials it is the mean of."""
        trials = max(len(row.fits) for row in self.rows)
        sampled = any(row.setup.subset != Subset() for row in self.rows)
        images = ", each with its own training images" if sampled else ""
        spread = "(std)" if trials > 1 else "[95 %]"
        return Table(
            f"{title}, {self.images} test images",
            ("layer", "per class", "training images", f"top-1 % {spread}", f"top-5 % {spread}"),
            [row.cells() for row in self.rows],
            [f"Mean and standard deviation over {trials} seeds{images}."] if trials > 1 else [],
        )


def rows_report(trials: Sequence[Trial], fits: Sequence[LinearFit], data: ProbeData, feed: str) -> RowsReport:
    """Evaluate the heads of all trials on the test set."""
    of_setup: dict[Setup, list[LinearFit]] = {}
    for trial, fit in zip(trials, fits, strict=True):
        of_setup.setdefault(trial.setup, []).append(fit)
    rows = [
        RowReport(setup, tuple(group), tuple(Accuracies.of(fit, data) for fit in group))
        for setup, group in of_setup.items()
    ]
    return RowsReport(rows, feed, len(data.test), data.classes)


def _predictions(fit: LinearFit, data: ProbeData) -> NDArray[np.int64]:
    return fit.head.guesses(data.test.layers[fit.head.layer]).cpu().numpy()


def _comparison(
    predictions: NDArray[np.int64], of_crop: NDArray[np.int64], labels: NDArray[np.int64], seed: int
) -> CropComparison:
    correct = of_crop == labels
    gain = (predictions == labels).astype(np.int64) - correct
    interval = bootstrap_intervals(gain[:, None], seed)[0]
    return CropComparison(int(correct.sum()), len(labels), float(gain.mean()), interval)
