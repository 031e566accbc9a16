"""Which test images each encoder classifies correctly: by kNN votes, or by heads of linear evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from simsiam_eval.errors import DataError
from simsiam_eval.features.class_names import class_name, distinct_names, in_numbering_of
from simsiam_eval.features.compatibility import reject_mixture, reject_one_class, same_rows
from simsiam_eval.features.table import Features
from simsiam_eval.linear.applied import predict_by_head
from simsiam_eval.linear.head_file import read_head
from simsiam_eval.neighbors.classify import classify
from simsiam_eval.wording import first_few

Correct = NDArray[np.bool_]  # (F,L): whether each of F files classifies each of the L labeled images correctly


def correct_by_knn(
    tests: Sequence[Features], banks: Sequence[Features], k: int, temperature: float, device: torch.device
) -> tuple[Correct, NDArray[np.float32]]:
    """Weighted kNN votes of the labeled images against each file's bank; without banks leave-one-out among themselves.

    Returns:
        the correct predictions, and (F,L) the similarity of each image's nearest neighbor.

    Raises:
        DataError: a bank comes from another encoder, has only one class, or contains the test images.
    """
    correct, nearest = [], []
    for number, test in enumerate(tests):
        labeled = test.subset(tests[0].labels >= 0)
        bank, queries, labels = labeled, None, labeled.labels
        if banks:
            bank, queries = banks[number], labeled.features
            reject_mixture(bank, test)
            if same_rows(bank, labeled):
                raise DataError(f"{bank.path} contains the same images as {test.path}; omit --train for leave-one-out.")
            # The labels of all tests are in the numbering of the first.
            labels = in_numbering_of(bank, tests[0].subset(tests[0].labels >= 0)).labels
        reject_one_class(bank)
        predicted = classify(bank.features, bank.labels, queries, [k], [temperature], device=device, top=1)
        correct.append(predicted.ranked[k, temperature][:, 0] == labels)
        nearest.append(predicted.nearest)
    return np.array(correct), np.array(nearest)


def correct_by_heads(heads: Sequence[Path], tests: Sequence[Features]) -> Correct:
    """Predictions of each file's head; classes are matched by name.

    Raises:
        DataError: a head cannot be read, or was trained on other features than its file's.
    """
    names, rows = distinct_names(tests[0].class_names or ()), np.flatnonzero(tests[0].labels >= 0)
    # The labels of all tests are in the numbering of the first.
    expected = np.array([class_name(label, names or None) for label in tests[0].labels[rows].tolist()])
    correct = []
    for path, test in zip(heads, tests, strict=True):
        saved = read_head(path)
        guesses, _ = predict_by_head(saved, path, test, rows)
        if missing := sorted(set(expected.tolist()) - set(saved.class_names)):
            raise DataError(f"{path} was not trained on all classes of {test.path}: it lacks {first_few(missing)}.")
        correct.append(np.array(saved.class_names)[guesses] == expected)
    return np.array(correct)
