"""The detections of one image, in the same form for all backends."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tasks.detection.data.dataset import RunLengthMask


@dataclass(frozen=True)
class Detections:
    """Objects detected in one image.

    Attributes:
        boxes: (K,4) float32, x1, y1, x2, y2 in pixels of the image file.
        scores: (K,) float32.
        labels: (K,) int64, indices of the dataset's classes.
        masks: K run-length encodings with compressed counts; None without masks.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: list[RunLengthMask] | None = None
