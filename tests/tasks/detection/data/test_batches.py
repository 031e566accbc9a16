"""What a step trains on."""

import pytest
import torch

from tasks.detection.data.batches import SampleOrder, TrainingImages, training_batches
from tasks.detection.data.opening import open_detection_dataset


def test_order_depends_on_seed_and_step_alone():
    order, again = SampleOrder(7, 4, seed=1), SampleOrder(7, 4, seed=1)
    steps = [order.step(step) for step in range(14)]
    assert again.step(9) == steps[9]
    rows = [row for step in steps for row, _ in step]
    for epoch in range(8):
        assert sorted(rows[7 * epoch : 7 * epoch + 7]) == list(range(7))
    assert 0 < sum(flip for step in steps for _, flip in step) < 56
    assert SampleOrder(7, 4, seed=2).step(0) != steps[0]


def test_flip_applies_to_image_boxes_and_masks(few_coco):
    data = open_detection_dataset(str(few_coco), "train")
    images = TrainingImages(data, masks=True)
    (pixels, target), (flipped_pixels, flipped_target) = images[(0, False)], images[(0, True)]
    assert torch.equal(flipped_pixels.flip(2), pixels)
    assert torch.equal(flipped_target["masks"].flip(2), target["masks"])
    for box, mask in zip(flipped_target["boxes"], flipped_target["masks"], strict=True):
        columns = torch.nonzero(mask.any(0))
        assert abs(columns.min() - box[0]) <= 1
        assert abs(columns.max() + 1 - box[2]) <= 1
    assert (flipped_target["labels"] >= 1).all()


@pytest.mark.parametrize("workers", [0, 2])
def test_processes_share_the_batch(few_voc, workers):
    data = open_detection_dataset(str(few_voc), "train")
    order = SampleOrder(len(data.images), 4, seed=0)

    def batches(share):
        return list(training_batches(data, False, order, share, range(2, 4), workers))

    whole, first, second = batches(slice(0, 4)), batches(slice(0, 2)), batches(slice(2, 4))
    for step in range(2):
        for (expected, _), (pixels, _) in zip(whole[step], first[step] + second[step], strict=True):
            assert torch.equal(pixels, expected)
