"""The picture, by its pixels."""

import numpy as np
from PIL import Image

from tasks.detection.data.detections import Detections
from tasks.detection.data.opening import open_detection_dataset
from tasks.detection.picture import _shown, write_picture


def test_ground_truth_is_left_and_detections_are_right(few_coco, tmp_path):
    data = open_detection_dataset(str(few_coco), "test")
    nothing = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    write_picture(tmp_path / "none.png", data, [nothing] * 4)
    one = Detections(np.float32([[5, 5, 150, 150], [5, 5, 50, 50]]), np.float32([0.9, 0.4]), np.array([0, 1]))
    write_picture(tmp_path / "one.png", data, [one, *[nothing] * 3])
    before, after = (np.asarray(Image.open(tmp_path / f"{name}.png")).astype(int) for name in ("none", "one"))
    assert before.shape == after.shape == (2 * (316 + 6), 2 * (2 * 300 + 6 + 18), 3)
    rows, columns = np.nonzero(np.abs(before - after).sum(2))
    assert columns.min() >= 306  # the right half of the first pair
    assert columns.max() < 606
    assert rows.max() < 16 + 150 * 300 / 160
    assert (after[rows, columns] == (230, 25, 75)).all(1).sum() > 1000  # the box of class 0, not the one below .5
    assert not (after[rows, columns] == (60, 180, 75)).all(1).any()


def test_where_no_score_is_high_the_best_are_shown_and_said(few_coco, tmp_path):
    data = open_detection_dataset(str(few_coco), "test")
    boxes = np.float32([[5, 5, 150, 150]] * 5)
    low = Detections(boxes, np.float32([0.1, 0.4, 0.2, 0.45, 0.3]), np.array([0, 1, 0, 1, 1]))
    assert _shown(low) == ([3, 1, 4], "none of 0.5, best 3 of 5")
    assert _shown(Detections(boxes, np.float32([0.5, 0.4, 0.2, 0.9, 0.3]), low.labels)) == (
        [0, 3], "detections of 0.5 and more (2)"
    )  # fmt: skip
    assert _shown(Detections(boxes[:0], low.scores[:0], low.labels[:0])) == ([], "no detections")
    write_picture(tmp_path / "low.png", data, [low] * 4)
    pixels = np.asarray(Image.open(tmp_path / "low.png")).astype(int)
    assert (pixels[:316, 306:606] == (60, 180, 75)).all(2).sum() > 1000  # the box of class 1
