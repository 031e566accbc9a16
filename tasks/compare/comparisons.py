"""Comparisons of encoders on the same images: accuracy by method, paired differences, similarity of the features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from simsiam_eval.features.table import Features
from simsiam_eval.metrics.accuracy import accuracy_cell
from simsiam_eval.metrics.intervals import accuracy_metrics, mcnemar, paired_interval
from simsiam_eval.metrics.similarity import cka, neighbor_overlap
from simsiam_eval.neighbors.exact import search
from simsiam_eval.neighbors.leakage import Leakage, measure_leakage
from simsiam_eval.wording import Measurement, percent

_EXAMPLES = 10  # images named in the record as gained or lost; --out lists all


@dataclass(frozen=True)
class Method:
    """Accuracy of the files of one name: with an interval, or the mean and standard deviation of several seeds.

    Attributes:
        seeds: number of files.
        metrics: empty where no image has a label.
    """

    name: str
    seeds: int
    metrics: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """As in a record."""
        return {"name": self.name, "seeds": self.seeds, **self.metrics}

    def cells(self) -> list[str]:
        """Row of the table."""
        if "top1_std" not in self.metrics:
            return [self.name, accuracy_cell(self.metrics, "top1")]
        mean, std = percent(self.metrics["top1"]), percent(self.metrics["top1_std"])
        return [self.name, Measurement(f"{mean} +- {std} ({self.seeds} seeds)", mean.value, std=std.value)]


@dataclass(frozen=True)
class Difference:
    """Accuracy of the second method minus that of the first, on the same images.

    Attributes:
        interval: paired 95 % interval.
        changes: of two single files; None with several seeds.
    """

    first: str
    second: str
    difference: float
    interval: list[float]
    changes: Changes | None

    def to_dict(self) -> dict[str, Any]:
        """As in a record."""
        values = {
            "first": self.first,
            "second": self.second,
            "difference": self.difference,
            "difference_interval": self.interval,
        }
        return values | (asdict(self.changes) if self.changes else {})

    def sentence(self) -> str:
        """For the notes below the table."""
        text = f"{self.second} minus {self.first}: {percent(self.difference, self.interval)} points"
        if self.changes is not None:
            test = self.changes.mcnemar
            text += (
                f"; {self.changes.only_second_right} images gained, {self.changes.only_first_right} lost; McNemar exact "
                f"p = {test['exact']:.3g}, mid-p = {test['mid_p']:.3g}"
            )
        return text + "."


@dataclass(frozen=True)
class Changes:
    """Images that only one of two classifiers gets right: their numbers, McNemar's test, and the first ids."""

    only_first_right: int
    only_second_right: int
    mcnemar: dict[str, float]
    gained: list[str]
    lost: list[str]


@dataclass(frozen=True)
class FeatureSimilarity:
    """Similarity of the features of two files.

    Attributes:
        first, second: files.
        names: their methods.
        cka: linear CKA, NaN where one of the two is constant.
        neighbor_overlap: mean share of common neighbors among `overlap_k`.
    """

    first: str
    second: str
    names: tuple[str, str]
    cka: float
    neighbor_overlap: float
    overlap_k: int

    def to_dict(self) -> dict[str, Any]:
        """As in a record."""
        return asdict(self) | {"names": list(self.names)}

    def sentence(self, by_file: bool) -> str:
        """For the notes below the table; `by_file` names files, which tell seeds of one method apart."""
        first, second = (self.first, self.second) if by_file else self.names
        shown = f"{self.cka:.4f}" if self.cka == self.cka else "undefined (one of the two is constant)"
        return (
            f"{first} and {second}: linear CKA {shown}; {percent(self.neighbor_overlap)} % of {self.overlap_k} neighbors "
            "in common."
        )


def methods_of(names: Sequence[str], correct: NDArray[np.bool_] | None) -> list[Method]:
    """Accuracy of each name; `correct` (F,L) by file and image."""
    methods = []
    for name in dict.fromkeys(names):
        metrics: dict[str, Any] = {}
        if correct is not None:
            of_method = correct[_files_of(name, names)]
            accuracies = of_method.mean(axis=1)
            if len(of_method) == 1:
                metrics = {**accuracy_metrics("top1", int(of_method[0].sum()), of_method.shape[1])}
            else:
                metrics = {
                    "top1": float(accuracies.mean()),
                    "top1_std": float(np.std(accuracies, ddof=1)),
                    "top1_each": accuracies.tolist(),
                }
        methods.append(Method(name, names.count(name), metrics))
    return methods


def differences_of(names: Sequence[str], correct: NDArray[np.bool_], ids: NDArray[np.str_]) -> list[Difference]:
    """Every two methods: `correct` (F,L) by file and image, `ids` (L,)."""
    differences = []
    for first, second in combinations(dict.fromkeys(names), 2):
        of_first, of_second = correct[_files_of(first, names)], correct[_files_of(second, names)]
        by_image = of_second.mean(axis=0) - of_first.mean(axis=0)
        changes = None
        if len(of_first) == len(of_second) == 1:
            gained, lost = np.flatnonzero(by_image > 0), np.flatnonzero(by_image < 0)
            changes = Changes(
                only_first_right=len(lost),
                only_second_right=len(gained),
                mcnemar=mcnemar(len(lost), len(gained)),
                gained=ids[gained[:_EXAMPLES]].tolist(),
                lost=ids[lost[:_EXAMPLES]].tolist(),
            )
        differences.append(Difference(first, second, float(by_image.mean()), paired_interval(by_image), changes))
    return differences


def similarities_of(
    tests: Sequence[Features], names: Sequence[str], overlap_k: int, device: torch.device
) -> list[FeatureSimilarity]:
    """Every two files."""
    neighbors = [search(test.features, None, overlap_k, device=device)[1] for test in tests]
    return [
        FeatureSimilarity(
            first=str(tests[a].path),
            second=str(tests[b].path),
            names=(names[a], names[b]),
            cka=cka(tests[a].features, tests[b].features, device),
            neighbor_overlap=neighbor_overlap(neighbors[a], neighbors[b]),
            overlap_k=neighbors[a].shape[1],
        )
        for a, b in combinations(range(len(tests)), 2)
    ]


def worst_leakage(
    files: Sequence[Path], nearest: NDArray[np.float32], correct: NDArray[np.bool_], threshold: float
) -> tuple[Path, Leakage] | None:
    """The file in whose features most test images leak; (F,L) by file and image."""
    leaks = [
        (file, leakage)
        for file, of_nearest, of_correct in zip(files, nearest, correct, strict=True)
        if (leakage := measure_leakage(of_nearest, of_correct, threshold)) is not None
    ]
    return max(leaks, key=lambda leak: leak[1].images, default=None)


def _files_of(name: str, names: Sequence[str]) -> list[int]:
    return [number for number, other in enumerate(names) if other == name]
