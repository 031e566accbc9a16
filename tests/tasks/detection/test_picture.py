"""The picture, by its pixels."""

import numpy as np
from PIL import Image

from tasks.detection.opening import open_detection_set
from tasks.detection.picture import write_picture
from tasks.detection.predictions import Detections


def test_ground_truth_is_left_and_detections_are_right(few_coco, tmp_path):
    data = open_detection_set(str(few_coco), "test")
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
