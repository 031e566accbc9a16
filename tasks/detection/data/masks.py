"""Masks as bitmaps and as COCO run-length encodings, with pycocotools."""

from __future__ import annotations

import numpy as np

from tasks.detection.data.dataset import RunLengthMask, Segmentation


def binary_mask(segmentation: Segmentation, height: int, width: int) -> np.ndarray:
    """Bitmap (height, width) uint8 of polygons or a run-length encoding."""
    from pycocotools import mask

    polygons = isinstance(segmentation, list)
    encoded = mask.merge(mask.frPyObjects(segmentation, height, width)) if polygons else segmentation
    return np.ascontiguousarray(mask.decode(encoded))


def encode_masks(masks: np.ndarray) -> list[RunLengthMask]:
    """Run-length encodings of bitmaps (K,H,W) bool."""
    from pycocotools import mask

    encoded = [mask.encode(np.asfortranarray(bitmap.astype(np.uint8))) for bitmap in masks]
    return [{"size": list(rle["size"]), "counts": rle["counts"].decode()} for rle in encoded]
