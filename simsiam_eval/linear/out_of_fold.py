"""Class probabilities of images by classifiers that were not trained on them, block by block."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from simsiam_eval.errors import UsageError
from simsiam_eval.features.arrays import as_labels, as_rows
from simsiam_eval.linear.heads import Head
from simsiam_eval.linear.logistic import fit_logistic
from simsiam_eval.linear.protocols import LogisticRecipe
from simsiam_eval.neighbors.suspects import LabelSuspects, margins_of, only_images

FOLDS, C = 5, 0.1
_BLOCK = 8192  # rows scored at a time
_FITTED = 50_000  # rows that a fold's classifier is fitted on: memory and time stay the same for millions
_CONFIDENT_BYTES = 1 << 31  # of all probabilities, which cleanlab needs at once

Probabilities = tuple[NDArray[np.int64], NDArray[np.float32]]


def out_of_fold(
    features: Any, labels: NDArray[np.int64], folds: int = FOLDS, c: float = C, seed: int = 0
) -> Iterator[Probabilities]:
    """Rows, and their class probabilities (B,C), by a logistic regression fitted on the other folds; each row once.

    Folds are drawn at random within each class. Features have standard scaling.

    Args:
        features: (N,D) array, tensor or FeatureRows.
        labels: (N,) in 0..C-1, every class at least once; an image that is alone in its class has probability 0 for it.
        c: inverse strength of the L2 penalty.
    """
    features = as_rows(features)
    fold_of = _folds(labels, min(folds, len(labels)), seed)
    classes, rng = int(labels.max()) + 1, np.random.default_rng(seed)
    for fold in range(int(fold_of.max()) + 1):
        train = np.flatnonzero(fold_of != fold)
        if len(train) > _FITTED:
            train = np.sort(rng.choice(train, _FITTED, replace=False))
        known, targets = np.unique(labels[train], return_inverse=True)
        rows = np.flatnonzero(fold_of == fold)
        if len(known) > 1:
            fitted = torch.from_numpy(np.ascontiguousarray(features[train], dtype=np.float32))
            head = fit_logistic(LogisticRecipe(c, seed, scaling="standard"), fitted, torch.from_numpy(targets))
        for start in range(0, len(rows), _BLOCK):
            block = rows[start : start + _BLOCK]
            probabilities = np.zeros((len(block), classes), np.float32)
            probabilities[:, known] = _softmax(head, features[block]) if len(known) > 1 else 1
            yield block, probabilities


def head_probabilities(
    head: Head, features: Any, class_of_output: NDArray[np.int64], classes: int
) -> Iterator[Probabilities]:
    """Rows and their class probabilities (B, classes) by a head.

    Args:
        class_of_output: (outputs of the head,) the class 0..classes-1 of each; -1: one that no image has.
    """
    features, kept = as_rows(features), class_of_output >= 0
    for start in range(0, len(features), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(features)))
        probabilities = np.zeros((len(rows), classes), np.float32)
        probabilities[:, class_of_output[kept]] = _softmax(head, features[rows])[:, kept]
        yield rows, probabilities


def probability_suspects(blocks: Iterator[Probabilities], labels: NDArray[np.int64]) -> LabelSuspects:
    """Judge labels (N,) in 0..C-1 by class probabilities, of which one block at a time is in memory."""
    margin, suggested = np.full(len(labels), np.nan, np.float32), np.full(len(labels), -1, np.int64)
    for rows, probabilities in blocks:
        margin[rows], suggested[rows] = margins_of(probabilities, labels[rows])
    margin[only_images(labels)] = np.nan
    return LabelSuspects(margin, np.where(np.isnan(margin), -1, suggested), np.zeros(len(labels), np.float32))


def confident_learning(blocks: Iterator[Probabilities], labels: NDArray[np.int64]) -> tuple[LabelSuspects, int]:
    """Judge labels (N,) in 0..C-1 by confident learning (Northcutt et al. 2021) with cleanlab.

    Returns:
        margins that rank the labels that cleanlab prunes first: theirs are in [-1, 0), those of the others in [0, 1], both
        in the order of its normalized margin; and how many it prunes.

    Raises:
        UsageError: cleanlab is not installed, or there are too many images and classes for its memory.
    """
    try:
        from cleanlab.filter import find_label_issues
        from cleanlab.rank import get_label_quality_scores
    except ImportError as error:
        raise UsageError('--method cleanlab requires an extra: pip install "simsiam-eval[cleanlab]".') from error
    classes = int(labels.max()) + 1
    if 4 * classes * len(labels) > _CONFIDENT_BYTES:
        raise UsageError(
            f"--method cleanlab holds all probabilities in memory, too many for {len(labels):,} images of {classes:,} "
            "classes; use --method logistic or neighbors."
        )
    all_probabilities = np.zeros((len(labels), classes), np.float32)
    for rows, probabilities in blocks:
        all_probabilities[rows] = probabilities
    with warnings.catch_warnings():
        # It warns of each class of one image, by column; `probability_suspects` leaves these images out.
        warnings.filterwarnings("ignore", message="May not flag all label issues in class")
        pruned = find_label_issues(labels, all_probabilities, n_jobs=1)
    quality = get_label_quality_scores(labels, all_probabilities, method="normalized_margin").astype(np.float32)
    found = probability_suspects(iter([(np.arange(len(labels)), all_probabilities)]), labels)
    margin = np.where(pruned, quality - np.nextafter(np.float32(1), np.float32(2)), quality)
    margin = np.where(np.isnan(found.margin), np.nan, np.minimum(margin, 1)).astype(np.float32)
    return LabelSuspects(margin, found.suggested, found.support), int((margin < 0).sum())


def in_columns(labels: Any) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The classes of labels, ascending, and the column (N,) of each label among them."""
    classes, columns = np.unique(as_labels(labels), return_inverse=True)
    return classes, columns


def _folds(labels: NDArray[np.int64], folds: int, seed: int) -> NDArray[np.int64]:
    """The fold (N,) of each row: those of a class are spread evenly, beginning where the class before ended."""
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    fold_of = np.empty(len(labels), np.int64)
    fold_of[order] = np.arange(len(labels)) % folds
    return fold_of


def _softmax(head: Head, rows: Any) -> NDArray[np.float32]:
    scores = head.scores(torch.from_numpy(np.ascontiguousarray(rows, dtype=np.float32)))
    return torch.softmax(scores, dim=1).numpy()
