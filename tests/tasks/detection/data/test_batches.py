"""What a step trains on."""

import numpy as np
import pytest
import torch

from tasks.detection.data.batches import Order, TrainingImages, binary_mask, read_pixels, training_batches, unusable
from tasks.detection.data.opening import open_detection_set


def test_order_is_of_seed_and_step_alone():
    order, again = Order(7, 4, seed=1), Order(7, 4, seed=1)
    steps = [order.step(number) for number in range(14)]
    assert again.step(9) == steps[9]
    rows = [row for step in steps for row, _ in step]
    for epoch in range(8):
        assert sorted(rows[7 * epoch : 7 * epoch + 7]) == list(range(7))
    assert 0 < sum(flip for step in steps for _, flip in step) < 56
    assert Order(7, 4, seed=2).step(0) != steps[0]


def test_flip_turns_image_boxes_and_masks(few_coco):
    data = open_detection_set(str(few_coco), "train")
    images = TrainingImages(data, masks=True)
    (plain, target), (flipped, turned) = images[(0, False)], images[(0, True)]
    assert torch.equal(flipped.flip(2), plain)
    assert torch.equal(turned["masks"].flip(2), target["masks"])
    for box, mask in zip(turned["boxes"], turned["masks"], strict=True):
        columns = torch.nonzero(mask.any(0))
        assert abs(columns.min() - box[0]) <= 1
        assert abs(columns.max() + 1 - box[2]) <= 1
    assert (turned["labels"] >= 1).all()


@pytest.mark.parametrize("workers", [0, 2])
def test_processes_share_the_batch(few_voc, workers):
    data = open_detection_set(str(few_voc), "train")
    order = Order(len(data.images), 4, seed=0)
    whole = list(training_batches(data, False, order, slice(0, 4), range(2, 4), workers))
    parts = [list(training_batches(data, False, order, slice(at, at + 2), range(2, 4), workers)) for at in (0, 2)]
    for step in range(2):
        for one, two in zip(whole[step], parts[0][step] + parts[1][step], strict=True):
            assert torch.equal(one[0], two[0])


def test_an_image_that_is_not_as_large_as_its_annotations_say(few_voc):
    from dataclasses import replace

    image = open_detection_set(str(few_voc), "train").images[0]
    for look in (read_pixels, unusable):
        assert "is 160x160, but its annotations are of 161x160" in look(replace(image, width=161))
    assert unusable(image) == ""


def test_all_forms_of_segmentations():
    square = [[2.0, 2.0, 6.0, 2.0, 6.0, 6.0, 2.0, 6.0]]
    mask = binary_mask(square, 10, 8)
    assert mask.shape == (10, 8)
    assert mask[2:6, 2:6].all()
    assert mask.sum() == 16
    counts = [0] if mask[0, 0] else []
    runs = np.flatnonzero(np.diff(mask.T.ravel())) + 1
    counts = np.diff([0, *runs, mask.size]).tolist()
    assert np.array_equal(binary_mask({"size": [10, 8], "counts": counts}, 10, 8), mask)
