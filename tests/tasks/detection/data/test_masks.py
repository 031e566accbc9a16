"""Masks from every form of segmentation, and back."""

import numpy as np

from tasks.detection.data.masks import binary_mask, encode_masks
from tasks.detection.data.outlines import Outlines


def test_polygons_and_run_lengths_give_the_same_mask():
    square = [[2.0, 2.0, 6.0, 2.0, 6.0, 6.0, 2.0, 6.0]]
    mask = binary_mask(square, 10, 8)
    assert mask.shape == (10, 8)
    assert mask[2:6, 2:6].all()
    assert mask.sum() == 16
    ends = np.flatnonzero(np.diff(mask.T.ravel())) + 1
    counts = np.diff([0, *ends, mask.size]).tolist()
    outlines = Outlines()
    row = outlines.add({"size": [10, 8], "counts": counts})
    assert np.array_equal(binary_mask(outlines.get(row, 10, 8), 10, 8), mask)
    assert np.array_equal(binary_mask(encode_masks(mask[None])[0], 10, 8), mask)
