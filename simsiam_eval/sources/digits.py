"""`digits`: scikit-learn's 1,797 handwritten digits (UCI optdigits, 8x8, 16 gray levels)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from simsiam_eval.sources.base import ArraySource
from simsiam_eval.sources.splits import train_or_test

TEST_SIZE = 600
_SPLIT_SEED = 0  # the split is part of the dataset, not of a run


def open_digits(spec: str, options: Mapping[str, str], default_split: str | None = None) -> ArraySource:
    """All of them, or the stratified split train (1,197) / test (600); values 0..16 become 0..255.

    Raises:
        UsageError: a split that is neither train nor test.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    split = train_or_test(options.get("split", default_split), spec)
    digits = load_digits()
    rows = np.arange(len(digits.target))
    if split:
        parts = train_test_split(rows, test_size=TEST_SIZE, stratify=digits.target, random_state=_SPLIT_SEED)
        rows = np.sort(parts[0 if split == "train" else 1])
    gray = np.round(digits.images[rows] * (255 / 16)).astype(np.uint8)
    pixels = np.repeat(gray[:, :, :, None], 3, axis=3)
    ids = [f"digits/{row:04d}" for row in rows]
    return ArraySource(spec, pixels, digits.target[rows], [str(name) for name in digits.target_names], ids)
