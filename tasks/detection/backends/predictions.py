"""What a detector says of one image, the same from every backend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Detections:
    """Objects found in one image.

    Attributes:
        boxes: (K,4) float32, x1, y1, x2, y2 in pixels of the image file.
        scores: (K,) float32.
        labels: (K,) int64, numbers of the dataset's classes.
        masks: K run-length encodings as pycocotools has them (`size`, `counts` as text), or None without masks.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: list[dict[str, Any]] | None = None


def encoded_masks(masks: np.ndarray) -> list[dict[str, Any]]:
    """Run-length encodings, as `Detections` has them, of masks (K,H,W) bool."""
    from pycocotools import mask

    encoded = [mask.encode(np.asfortranarray(one.astype(np.uint8))) for one in masks]
    return [{"size": list(one["size"]), "counts": one["counts"].decode()} for one in encoded]
