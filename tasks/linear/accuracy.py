"""Accuracies of a head on the test set, with intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from simsiam_eval.linear.data import ProbeData
from simsiam_eval.linear.probing import LinearFit
from simsiam_eval.metrics.accuracy import reported_top_k
from simsiam_eval.metrics.intervals import accuracy_interval, bootstrap_intervals, class_mean_metrics


@dataclass(frozen=True)
class Accuracies:
    """Fractions of the test images, with 95 % intervals [low, high].

    Attributes:
        top: `top1`, and `top5` where there are more than five classes.
        intervals, bootstrap_intervals: of the same names, by Wilson and by the bootstrap.
        per_class: `mean_per_class`, the mean of the classes' accuracies, and `mean_per_class_interval`.
    """

    top: dict[str, float]
    intervals: dict[str, list[float]]
    bootstrap_intervals: dict[str, list[float]]
    per_class: dict[str, float | list[float]]

    @classmethod
    def of(cls, fit: LinearFit, data: ProbeData) -> Accuracies:
        """Those of a trained head."""
        tops = reported_top_k(data.classes)
        names = [f"top{top}" for top in tops]
        correct = fit.head.correct(data.test.layers[fit.head.layer], data.test.labels, tops).cpu().numpy()
        labels = data.test.labels.cpu().numpy()
        totals, of_class = np.bincount(labels), np.bincount(labels, correct[:, 0])
        bootstrap = bootstrap_intervals(correct.astype(np.int64), fit.recipe.seed)
        hits = dict(zip(names, correct.sum(axis=0).tolist(), strict=True))
        return cls(
            top={name: hits[name] / len(labels) for name in names},
            intervals={name: accuracy_interval(hits[name], len(labels)) for name in names},
            bootstrap_intervals=dict(zip(names, bootstrap, strict=True)),
            per_class=class_mean_metrics("mean_per_class", of_class[totals > 0], totals[totals > 0]),
        )

    def to_dict(self) -> dict[str, Any]:
        """As they stand in a record."""
        intervals = {f"{name}_interval": interval for name, interval in self.intervals.items()}
        bootstrap = {f"{name}_bootstrap_interval": interval for name, interval in self.bootstrap_intervals.items()}
        return self.top | intervals | bootstrap | self.per_class
