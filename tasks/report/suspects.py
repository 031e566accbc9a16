"""The section on suspects: images whose label is likely wrong, outliers, and near-duplicates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from simsiam_eval.neighbors.duplicates import pairs_above
from tasks.report.encoders import Evaluated

_LISTED = 500  # rows of a list on the page; its CSV has the same
_MAX_COMPARED = 30_000  # images up to which every pair is compared
_MAX_PAIRS = 100_000


@dataclass(frozen=True)
class Suspect:
    """One row: numbers of the images (two for a pair), the score that ranks it, and why."""

    numbers: tuple[int, ...]
    score: float
    reason: str


@dataclass(frozen=True)
class SuspectList:
    """Suspects of one kind, the worst first; `count` of them in all, of which `rows` lists the first."""

    key: str
    title: str
    explanation: str
    count: int
    rows: list[Suspect]


@dataclass(frozen=True)
class Duplicates:
    """Pairs of near-duplicates.

    Attributes:
        first, second: (P,) numbers of images, the most similar pair first.
        similarities: (P,) float32.
        flags: (N,) bool, whether an image is in a pair.
        every_pair: whether all pairs were compared, or only nearest neighbors.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    similarities: NDArray[np.float32]
    flags: NDArray[np.bool_]
    every_pair: bool


def duplicates_of(evaluated: Evaluated, threshold: float, device: torch.device) -> Duplicates:
    """Pairs of images with at least this cosine similarity; among many images only those of nearest neighbors."""
    every_pair = evaluated.count <= _MAX_COMPARED
    if every_pair:
        found = list(pairs_above(evaluated.features(), None, threshold, device))
        first, second, similarities = (
            np.concatenate(parts) if found else np.empty(0, dtype)
            for parts, dtype in zip(
                zip(*found, strict=True) if found else ((),) * 3, (np.int64, np.int64, np.float32), strict=True
            )
        )
    else:
        predictions = evaluated.predictions
        rows, columns = np.nonzero((predictions.similarities >= threshold) & (predictions.neighbors >= 0))
        pairs = np.sort(np.stack([rows, predictions.neighbors[rows, columns]]), axis=0)
        pairs, places = np.unique(pairs, axis=1, return_index=True)
        (first, second), similarities = pairs, predictions.similarities[rows, columns][places]
    flags = np.zeros(evaluated.count, np.bool_)
    flags[first], flags[second] = True, True
    order = np.argsort(-similarities, kind="stable")
    return Duplicates(first[order], second[order], similarities[order], flags, every_pair)


def suspects_of(evaluated: Evaluated, duplicates: Duplicates) -> list[SuspectList]:
    """Likely wrong labels, outliers, leaks from training to test images, and near-duplicates."""
    lists = []
    if evaluated.has_classes:
        lists.append(_wrong_labels(evaluated))
    lists.append(_outliers(evaluated))
    tests = len(evaluated.test)
    leaked = (duplicates.first < tests) & (duplicates.second >= tests)
    names = evaluated.class_names
    for key, title, chosen in (
        ("leaks", "Test images that resemble a training image", leaked),
        ("duplicates", "Near-duplicates", ~leaked),
    ):
        if key == "leaks" and evaluated.train is None:
            continue
        numbers = np.flatnonzero(chosen)
        rows = []
        for place in numbers[:_LISTED].tolist():
            a, b = int(duplicates.first[place]), int(duplicates.second[place])
            labels = evaluated.labels[a], evaluated.labels[b]
            differ = (
                f", labels differ: {names[labels[0]]} and {names[labels[1]]}"
                if min(labels) >= 0 and labels[0] != labels[1]
                else ""
            )
            similarity = float(duplicates.similarities[place])
            rows.append(Suspect((a, b), similarity, f"similarity {similarity:.4f}{differ}"))
        how = "every pair was compared" if duplicates.every_pair else "only nearest neighbors were compared"
        lists.append(SuspectList(key, title, f"Pairs with a high cosine similarity; {how}.", len(numbers), rows))
    return lists


def _wrong_labels(evaluated: Evaluated) -> SuspectList:
    predictions = evaluated.predictions
    wrong = np.flatnonzero(
        (evaluated.labels >= 0) & (predictions.labels >= 0) & (predictions.labels != evaluated.labels)
    )
    order = wrong[np.argsort(-predictions.confidence[wrong], kind="stable")]
    rows = [
        Suspect((number,), float(predictions.confidence[number]), _reason(evaluated, number))
        for number in order[:_LISTED].tolist()
    ]
    return SuspectList(
        "labels", "Labels that may be wrong", "Images whose neighbors agree on another class.", len(order), rows
    )


def _reason(evaluated: Evaluated, number: int) -> str:
    names, predictions = evaluated.class_names, evaluated.predictions
    given, other = names[evaluated.labels[number]], names[predictions.labels[number]]
    return f"labeled {given}; its neighbors are {other} ({100 * predictions.confidence[number]:.0f} % of the votes)"


def _outliers(evaluated: Evaluated) -> SuspectList:
    similarities = evaluated.predictions.similarities
    score = 1 - similarities[:, -1]
    order = np.argsort(-score, kind="stable")
    rows = [
        Suspect(
            (number,),
            float(score[number]),
            f"similarity {similarities[number, -1]:.3f} to the neighbor at place {similarities.shape[1]}",
        )
        for number in order[:_LISTED].tolist()
    ]
    return SuspectList("outliers", "Outliers", "Images that are far from their neighbors.", evaluated.count, rows)
