"""The picture, by its pixels."""

import numpy as np
from PIL import Image

from tasks.detection.data.detections import Detections
from tasks.detection.data.opening import open_detection_dataset
from tasks.detection.picture import _rows_to_draw, write_picture

RED, GREEN = (230, 25, 75), (60, 180, 75)  # boxes of classes 0 and 1
NOTHING = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))


def pixels(path):
    return np.asarray(Image.open(path)).astype(int)


def test_detections_are_right_of_ground_truth(few_coco, tmp_path):
    data = open_detection_dataset(str(few_coco), "test")
    write_picture(tmp_path / "none.png", data, [NOTHING] * 4)
    detected = Detections(np.float32([[5, 5, 150, 150], [5, 5, 50, 50]]), np.float32([0.9, 0.4]), np.array([0, 1]))
    write_picture(tmp_path / "one.png", data, [detected, *[NOTHING] * 3])
    before, after = pixels(tmp_path / "none.png"), pixels(tmp_path / "one.png")
    assert before.shape == after.shape == (2 * (316 + 6), 2 * (2 * 300 + 6 + 18), 3)
    rows, columns = np.nonzero(np.abs(before - after).sum(2))
    assert columns.min() >= 306  # the right half of the first pair
    assert columns.max() < 606
    assert rows.max() < 16 + 150 * 300 / 160
    assert (after[rows, columns] == RED).all(1).sum() > 1000
    assert not (after[rows, columns] == GREEN).all(1).any()  # its score is below 0.5


def test_best_detections_are_drawn_if_no_score_is_high(few_coco, tmp_path):
    data = open_detection_dataset(str(few_coco), "test")
    boxes = np.float32([[5, 5, 150, 150]] * 5)
    weak = Detections(boxes, np.float32([0.1, 0.4, 0.2, 0.45, 0.3]), np.array([0, 1, 0, 1, 1]))
    assert _rows_to_draw(weak) == ([3, 1, 4], "no score of at least 0.5, best 3 of 5")
    confident = Detections(boxes, np.float32([0.5, 0.4, 0.2, 0.9, 0.3]), weak.labels)
    assert _rows_to_draw(confident) == ([0, 3], "detections with a score of at least 0.5 (2)")
    assert _rows_to_draw(NOTHING) == ([], "no detections")
    write_picture(tmp_path / "weak.png", data, [weak] * 4)
    assert (pixels(tmp_path / "weak.png")[:316, 306:606] == GREEN).all(2).sum() > 1000
