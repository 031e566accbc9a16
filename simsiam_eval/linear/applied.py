"""The predictions of a saved head for rows of a feature file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from simsiam_eval.errors import DataError
from simsiam_eval.features.file import differences
from simsiam_eval.features.layers import layers_in
from simsiam_eval.features.rows import FeatureRows
from simsiam_eval.features.table import Features
from simsiam_eval.linear.head_file import SavedHead

_BLOCK = 8192  # rows scored at a time


def difference_to(saved: SavedHead, features: Features) -> str | None:
    """What differs between the features that the head was trained on and these; None if they are alike."""
    described = ("encoder", "preprocessing", *(["precision"] if saved.precision is not None else []))
    differ = differences(features.attributes, {key: saved.attributes[key] for key in described})
    return differ[0] if differ else None


def predict_by_head(
    saved: SavedHead, path: Path, features: Features, rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The class of each of the rows (R,) of a feature file, as a number of `saved.class_names`, and its probability.

    Args:
        path: of the head, for messages.

    Raises:
        DataError: the head was trained on other features, or on a layer that the file does not contain.
    """
    if differ := difference_to(saved, features):
        raise DataError(f"{path} was trained on other features than those of {features.path}: {differ} differs.")
    columns = layers_in(features.attributes)
    if saved.head.layer not in columns:
        raise DataError(f"{path} needs layer {saved.head.layer}, which {features.path} does not contain.")
    assert features.path is not None
    values = FeatureRows(features.path, columns[saved.head.layer], features.rows[rows])
    if values.shape[1] != saved.head.weight.shape[1]:
        raise DataError(
            f"{path} expects {saved.head.weight.shape[1]} features per row; {features.path} has {values.shape[1]}."
        )
    guesses, confidence = [np.empty(0, np.int64)], [np.empty(0, np.float32)]
    for start in range(0, len(rows), _BLOCK):
        scores = saved.head.scores(torch.from_numpy(values[start : start + _BLOCK]))
        best = torch.softmax(scores, dim=1).max(dim=1)
        guesses.append(best.indices.numpy())
        confidence.append(best.values.numpy())
    return np.concatenate(guesses), np.concatenate(confidence)
