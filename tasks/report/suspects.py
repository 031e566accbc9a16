"""The section on suspects: images whose label is likely wrong, outliers, and near-duplicates."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from simsiam_eval.neighbors.duplicates import ROUNDING, pairs_above
from simsiam_eval.neighbors.suspects import NeighborSuspects, neighbor_suspects
from tasks.report.encoders import Evaluated

_LISTED = 500  # rows of a list on the page; its CSV has the same
_MAX_COMPARED = 30_000  # images up to which every pair is compared


@dataclass(frozen=True)
class Suspect:
    """One row: numbers of the images (two for a pair), the score that ranks it, and why."""

    numbers: tuple[int, ...]
    score: float
    reason: str


@dataclass(frozen=True)
class SuspectList:
    """Suspects of one kind, the worst first.

    Attributes:
        count: how many there are; None for a ranking of all images.
        rows: the first of them.
        more: whether there are more than these.
    """

    key: str
    title: str
    explanation: str
    count: int | None
    rows: list[Suspect]
    more: bool


@dataclass(frozen=True)
class Duplicates:
    """Pairs of near-duplicates.

    Attributes:
        first, second: (P,) numbers of images, the most similar pair first.
        similarities: (P,) float32.
        flags: (N,) bool, whether an image is in a pair.
        threshold: their smallest cosine similarity.
        every_pair: whether all pairs were compared, or only nearest neighbors.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    similarities: NDArray[np.float32]
    flags: NDArray[np.bool_]
    threshold: float
    every_pair: bool


def duplicates_of(evaluated: Evaluated, threshold: float, device: torch.device) -> Duplicates:
    """Pairs of images with at least this cosine similarity; among many images only those of nearest neighbors."""
    every_pair = evaluated.count <= _MAX_COMPARED
    if every_pair:
        found = list(pairs_above(evaluated.features(), None, threshold, device))
        first, second = (np.concatenate([np.empty(0, np.int64), *(pairs[side] for pairs in found)]) for side in (0, 1))
        similarities = np.concatenate([np.empty(0, np.float32), *(pairs[2] for pairs in found)])
    else:
        near = evaluated.neighbors.of_all
        rows, columns = np.nonzero((near.similarities >= threshold - ROUNDING) & (near.numbers >= 0))
        pairs = np.sort(np.stack([rows, near.numbers[rows, columns]]), axis=0)
        (first, second), places = np.unique(pairs, axis=1, return_index=True)
        similarities = near.similarities[rows, columns][places]
    flags = np.zeros(evaluated.count, np.bool_)
    flags[first], flags[second] = True, True
    order = np.argsort(-similarities, kind="stable")
    return Duplicates(first[order], second[order], similarities[order], flags, threshold, every_pair)


def suspects_of(
    evaluated: Evaluated, duplicates: Duplicates, k: int, temperature: float, device: torch.device
) -> list[SuspectList]:
    """Likely wrong labels, outliers, test images that resemble training images, and near-duplicates.

    Args:
        k, temperature: of the votes.
    """
    if evaluated.count < 2:
        return []
    features, labels, near = evaluated.features()[:], evaluated.labels, evaluated.neighbors
    found = neighbor_suspects(
        features, labels, k=k, temperature=temperature, device=device,
        neighbors=[near.of_all.block()], labeled_neighbors=lambda: [near.of_labeled().block()],
    )  # fmt: skip
    leaked = (duplicates.first < len(evaluated.test)) & (duplicates.second >= len(evaluated.test))
    lists = [_wrong_labels(evaluated, found)] if found.labels is not None else []
    lists += _outliers(found)
    if evaluated.train is not None:
        lists.append(
            _pairs("leaks", "Leaks: test images that resemble a training image", evaluated, duplicates, leaked)
        )
    lists.append(_pairs("duplicates", "Near-duplicates within a set", evaluated, duplicates, ~leaked))
    return lists


def _wrong_labels(evaluated: Evaluated, found: NeighborSuspects) -> SuspectList:
    labels, names = found.labels, evaluated.class_names
    assert labels is not None

    def reason(number: int) -> str:
        given, other = names[evaluated.labels[number]], names[labels.suggested[number]]
        return f"labeled {given}; neighbors: {other} (margin {labels.margin[number]:.2f})"

    return SuspectList(
        "labels",
        "Labels that may be wrong",
        "Images whose neighbors, of both sets, give another class more votes than their label. The margin is the label's "
        "share of the votes minus that of the other class.",
        labels.count,
        _rows(labels.order()[: labels.count], labels.margin, reason),
        labels.count > _LISTED,
    )


def _outliers(found: NeighborSuspects) -> list[SuspectList]:
    far = found.outliers
    lists = [
        SuspectList(
            "outliers",
            "Outliers",
            f"Images that are far from all others, by the cosine distance to their neighbor number {far.k}.",
            None,
            _rows(far.order(), far.distance, lambda number: f"distance {far.distance[number]:.3f}"),
            len(far.distance) > _LISTED,
        )
    ]
    order = far.class_order()
    if len(order):
        lists.append(
            SuspectList(
                "class-outliers",
                "Outliers of their class",
                "Images that are far from the others of their class, relative to the median distance in that class.",
                None,
                _rows(
                    order, far.class_ratio, lambda number: f"{far.class_ratio[number]:.1f} times the median distance"
                ),
                len(order) > _LISTED,
            )
        )
    return lists


def _pairs(
    key: str, title: str, evaluated: Evaluated, duplicates: Duplicates, chosen: NDArray[np.bool_]
) -> SuspectList:
    threshold = duplicates.threshold
    places = np.flatnonzero(chosen)
    how = "every pair was compared" if duplicates.every_pair else "only nearest neighbors were compared"
    rows = []
    for place in places[:_LISTED].tolist():
        pair = int(duplicates.first[place]), int(duplicates.second[place])
        similarity = float(duplicates.similarities[place])
        rows.append(Suspect(pair, similarity, f"similarity {similarity:.4f}{_different_labels(evaluated, pair)}"))
    explanation = f"Pairs with a cosine similarity of at least {threshold:g}; {how}."
    return SuspectList(key, title, explanation, len(places), rows, len(places) > _LISTED)


def _different_labels(evaluated: Evaluated, pair: tuple[int, int]) -> str:
    first, second = (int(evaluated.labels[number]) for number in pair)
    if min(first, second) < 0 or first == second:
        return ""
    names = evaluated.class_names
    return f", labels differ: {names[first]} and {names[second]}"


def _rows(order: Iterable[int], score: NDArray[np.float32], reason: Callable[[int], str]) -> list[Suspect]:
    return [Suspect((int(number),), float(score[number]), reason(int(number))) for number in list(order)[:_LISTED]]
