"""The comparison of two encoders on the same images, and of further ones in a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import orthogonal_procrustes

from simsiam_eval.neighbors.coordinates import Coordinates
from simsiam_eval.wording import counted, printable
from tasks.compare.comparisons import Method, differences_of, methods_of, similarities_of
from tasks.report.encoders import Evaluated
from tasks.report.images import packed


@dataclass(frozen=True)
class Comparison:
    """Attributes:
    rows: name and accuracy of each encoder, as cells.
    sentences: on every two encoders.
    other: the second encoder, whose map is shown beside that of the first; None if its images are others.
    left_out: encoders that were not tested on the same images, as sentences.
    """

    rows: list[list[str]]
    sentences: list[str]
    other: Evaluated | None
    left_out: list[str]


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
        return Comparison([], [], None, left_out)
    names = _distinct([encoder.name for encoder in same])
    correct = None
    if all(encoder.has_classes for encoder in same):
        correct = np.stack([encoder.correct for encoder in same])
    methods: list[Method] = methods_of(names, correct)
    sentences: list[str] = []
    if correct is not None:
        sentences += [found.sentence() for found in differences_of(names, correct, first.test.ids[first.labeled_rows])]
    tests = [encoder.test for encoder in same]
    sentences += [pair.sentence(by_file=False) for pair in similarities_of(tests, names, overlap_k, device)]
    rows = [method.cells() for method in methods] if correct is not None else [[name, "-"] for name in names]
    return Comparison(rows, list(map(printable, sentences)), same[1], left_out)


def _distinct(names: Sequence[str]) -> list[str]:
    """Encoders of one name get their number: `methods_of` would take them for seeds of one method."""
    return [name if names.count(name) == 1 else f"{name} ({number})" for number, name in enumerate(names, 1)]


def pair_data(first: Evaluated, other: Evaluated, of_first: Coordinates, of_other: Coordinates) -> dict[str, Any]:
    """The second map for the page's script, turned and scaled onto the first, and which images were gained or lost."""
    tests = len(first.test)
    points = aligned(of_other.points[:tests], of_first.points[:tests])
    change = np.zeros(tests, np.int32)
    rows = first.labeled_rows
    if first.has_classes and other.has_classes:
        change[rows] = other.correct.astype(np.int32) - first.correct.astype(np.int32)
    return {
        "name": printable(other.name),
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
