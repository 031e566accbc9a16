"""What a detector says of one image, the same from every backend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from simsiam_eval.errors import DataError


@dataclass(frozen=True)
class Detections:
    """Objects found in one image.

    Attributes:
        boxes: (K,4) float32, x1, y1, x2, y2 in pixels of the image file.
        scores: (K,) float32.
        labels: (K,) int64, numbers of the data set's classes.
        masks: K run-length encodings as pycocotools has them (`size`, `counts` as text), or None without masks.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: list[dict[str, Any]] | None = None


def readable(one: Detections | str) -> Detections:
    """What was found in an image, which is a clause with the reason where the image cannot be read.

    Raises:
        DataError: the reason.
    """
    if isinstance(one, str):
        raise DataError(f"The evaluation cannot be finished: {one}; put that right and give the same command again.")
    return one
