"""The comparison of two encoders on the same images, and of further ones in a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import orthogonal_procrustes

from simsiam_eval.neighbors.coordinates import Coordinates
from simsiam_eval.sources.splits import parted
from simsiam_eval.wording import counted, percent, printable
from tasks.compare.comparisons import Difference, differences_of, methods_of, similarities_of
from tasks.report.encoders import Evaluated
from tasks.report.images import packed


@dataclass(frozen=True)
class Comparison:
    """Attributes:
    rows: short name, name and accuracy of each encoder, as cells.
    pair_columns, pairs: table of every two encoders.
    first, second: short names of the encoders whose maps are shown.
    other: the second encoder; None if its images are others.
    left_out: encoders that were not tested on the same images, as sentences.
    """

    rows: list[list[str]] = field(default_factory=list)
    pair_columns: list[str] = field(default_factory=list)
    pairs: list[list[str]] = field(default_factory=list)
    first: str = ""
    second: str = ""
    other: Evaluated | None = None
    left_out: list[str] = field(default_factory=list)


def compare_encoders(encoders: Sequence[Evaluated], device: torch.device, overlap_k: int = 10) -> Comparison | None:
    """Compare the encoders that have the same test images as the first; None with a single encoder."""
    if len(encoders) < 2:
        return None
    first = encoders[0]
    same, left_out = [first], []
    for other in encoders[1:]:
        if np.array_equal(other.test.ids, first.test.ids) and np.array_equal(
            other.test.labels >= 0, first.test.labels >= 0
        ):
            same.append(other)
        else:
            left_out.append(f"{other.name} is not compared: {other.test.path} has other images than {first.test.path}.")
    if len(same) < 2:
        return Comparison(left_out=left_out)
    names = short_names([encoder.test.path or Path(encoder.name) for encoder in same])
    pairs = [
        [*pair.names, f"{pair.cka:.4f}" if pair.cka == pair.cka else "undefined", percent(pair.neighbor_overlap)]
        for pair in similarities_of([encoder.test for encoder in same], names, overlap_k, device)
    ]
    columns = ["first", "second", "linear CKA", f"common neighbors of {overlap_k}, %"]
    accuracies = ["-"] * len(same)
    if all(encoder.has_classes for encoder in same):
        correct = np.stack([encoder.correct for encoder in same])
        accuracies = [method.cells()[1] for method in methods_of(names, correct)]
        differences = differences_of(names, correct, first.test.ids[first.labeled_rows])
        pairs = [
            [*cells[:2], *_difference_cells(found), *cells[2:]] for cells, found in zip(pairs, differences, strict=True)
        ]
        columns[2:2] = ["second minus first, points [95 %]", "only second right", "only first right", "McNemar exact p"]
    rows = [list(cells) for cells in zip(names, [encoder.name for encoder in same], accuracies, strict=True)]
    return Comparison(rows, columns, pairs, names[0], names[1], same[1], left_out)


def _difference_cells(difference: Difference) -> list[str]:
    changes = difference.changes
    counts = ["-"] * 3
    if changes is not None:
        counts = [str(changes.only_second_right), str(changes.only_first_right), f"{changes.mcnemar['exact']:.3g}"]
    return [percent(difference.difference, difference.interval), *counts]


def short_names(files: Sequence[Path]) -> list[str]:
    """Encoders named after their feature files, without the word for the split; numbered where two are alike.

    >>> short_names([Path("runs/simsiam-test.h5"), Path("byol_test.h5"), Path("other/byol_test.h5")])
    ['simsiam', 'byol (2)', 'byol (3)']
    """
    stems = [parted(file.stem)[1].strip("-_. ") or file.stem for file in files]
    return [stem if stems.count(stem) == 1 else f"{stem} ({number})" for number, stem in enumerate(stems, 1)]


def pair_data(
    first: Evaluated, other: Evaluated, of_first: Coordinates, of_other: Coordinates, name: str
) -> dict[str, Any]:
    """The second map, of the encoder `name`, turned and scaled onto the first, and which images were gained or lost."""
    tests = len(first.test)
    points = aligned(of_other.points[:tests], of_first.points[:tests])
    change = np.zeros(tests, np.int32)
    rows = first.labeled_rows
    if first.has_classes and other.has_classes:
        change[rows] = other.correct.astype(np.int32) - first.correct.astype(np.int32)
    return {
        "name": printable(name),
        "x": packed(points[:, 0], np.float32),
        "y": packed(points[:, 1], np.float32),
        "guesses": packed(_in_numbers_of(first, other), np.int32),
        "change": packed(change, np.int32),
        "gained": counted(int((change > 0).sum()), "image"),
        "lost": counted(int((change < 0).sum()), "image"),
    }


def _in_numbers_of(first: Evaluated, other: Evaluated) -> NDArray[np.int64]:
    """The predictions of `other` for the test images, in the class numbers of `first`."""
    number = {name: label for label, name in enumerate(first.class_names)}
    numbers = np.array([*(number.get(name, -1) for name in other.class_names), -1])
    return numbers[other.guesses]


def aligned(points: NDArray[np.float32], target: NDArray[np.float32]) -> NDArray[np.float32]:
    """`points` (N,2) moved, turned, mirrored and scaled as close as possible to `target` (N,2) (Procrustes)."""
    centered, goal = points - points.mean(axis=0), target - target.mean(axis=0)
    size = float(np.square(centered).sum())
    if size == 0:
        return points
    rotation, scale = orthogonal_procrustes(centered, goal)
    return (centered @ rotation * (scale / size) + target.mean(axis=0)).astype(np.float32)
