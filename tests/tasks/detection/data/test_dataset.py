"""Packed images and objects give back what was packed."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tasks.detection.data.dataset import Annotation, LabeledImage, LabeledImages
from tasks.detection.data.outlines import Outlines

TRIANGLE = [[0.1, 0.2, 9.3, 0.7, 9.9, 9.2]]
MASK = {"size": [40, 30], "counts": "0PP1"}
IMAGES = [
    LabeledImage(7, Path("a/x.jpg"), 30, 40, (Annotation((1, 2.5, 3, 4), 1, crowd=True, area=5.5, segmentation=MASK),)),
    LabeledImage(-3, Path("a/y.jpg"), 50, 60, ()),
    LabeledImage(
        10**30, Path("é z.jpg"), 70, 80,
        (Annotation((0, 0, 1, 1), 0, difficult=True), Annotation((1, 1, 2, 2), 2, segmentation=TRIANGLE * 3)),
    ),
]  # fmt: skip


def test_images_are_unchanged():
    packed = LabeledImages.packed(IMAGES)
    assert list(packed) == IMAGES
    assert (packed[-1], packed[1:]) == (IMAGES[2], IMAGES[1:])
    assert packed.without_objects(0) == replace(IMAGES[0], annotations=())
    assert list(pickle.loads(pickle.dumps(packed))) == IMAGES
    with pytest.raises(IndexError):
        packed[3]


def test_names_are_no_numbers():
    assert LabeledImages.packed([replace(IMAGES[0], id="007")])[0].id == "007"


def test_joined_and_taken():
    packed = LabeledImages.packed(IMAGES)
    joined = LabeledImages.joined([packed, LabeledImages.packed([]), packed])
    assert list(joined) == IMAGES * 2
    assert list(joined.take(np.array([0, 2, 5]))) == [IMAGES[0], IMAGES[2], IMAGES[2]]
    assert joined.has_masks() and not packed.take(np.array([1, 2])).has_masks()


def test_outlines_know_their_extents_and_areas():
    outlines = Outlines()
    ring = {"size": [10, 8], "counts": [12, 3, 7, 3, 55]}  # rows 2 to 4 of columns 1 and 2
    rows = [outlines.add(value) for value in (TRIANGLE, None, [[1, 2, 3, 4]], ring, [[0, 0, 4, 0, 4, 4, 0, 4]] * 2)]
    assert rows == [0, -1, 1, 2, 3]
    assert outlines.extents().tolist()[0] == [0.1, 0.2, 9.9, 9.2]
    assert np.isnan(outlines.extents()[1]).all()
    assert outlines.extents().tolist()[2:] == [[1, 2, 3, 5], [0, 0, 4, 4]]
    assert (outlines.area(2), outlines.area(3)) == (6, 32)
    assert outlines.is_empty().tolist() == [False, True, False, False]
