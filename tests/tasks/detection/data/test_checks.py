"""Unusual annotations: what is kept, what is dropped, and how it is reported."""

import json

import numpy as np
import pytest

from simsiam_eval.errors import DataError
from tasks.detection.data.checks import add_training_images, check_test_set, check_training_set
from tasks.detection.data.opening import open_detection_dataset, open_train_and_test


def issue_counts(report):
    return {issue: found.count for issue, found in report.issues.items()}


def test_repeated_images_and_training_images_are_reported(shapes_voc):
    train, test = open_train_and_test((f"{shapes_voc}#trainval",) * 2, f"{shapes_voc}#trainval", ())
    assert issue_counts(check_training_set(train, masks=False)[1]) == {"image listed more than once": 60}
    report = check_test_set(test, masks=False)
    add_training_images(train, test, report)
    assert any(
        line.startswith("test: 60 x image that is also in the training set") for line in report.sentences("test")
    )
    train, test = open_train_and_test((str(shapes_voc),), str(shapes_voc), ())
    report = check_test_set(test, masks=False)
    add_training_images(train, test, report)
    assert not report.issues
    assert not check_training_set(train, masks=False)[1].issues


def test_excluded_classes_are_reported(shapes_coco):
    dataset = open_detection_dataset(str(shapes_coco), "train", ("triangle", "disc"))
    squares = dataset.excluded["square"]
    lines = check_training_set(dataset, masks=False)[1].sentences("train")
    assert f"train: {squares} boxes excluded by --classes (square: {squares})." in lines


def test_training_set_follows_the_protocol(coco):
    def change(content):
        boxes = content["annotations"]
        image_id = boxes[0]["image_id"]
        boxes[:] = [
            {"id": 1, "image_id": image_id, "category_id": 2, "bbox": [10, 10, 20, 20], "iscrowd": 1},
            {"id": 2, "image_id": image_id, "category_id": 2, "bbox": [-5, 150, 20, 20], "iscrowd": 0},
            {"id": 3, "image_id": image_id, "category_id": 5, "bbox": [10, 10, 0, 20], "iscrowd": 0},
            {"id": 4, "image_id": image_id, "category_id": 5, "bbox": [170, 10, 20, 20], "iscrowd": 0},
        ]

    dataset = open_detection_dataset(coco(change), "train")
    training_set, report = check_training_set(dataset, masks=False)
    assert [obj.box for image in training_set.images for obj in image.annotations] == [(0, 150, 15, 10)]
    assert issue_counts(report) == {
        "area missing, replaced by that of the mask or box": 4,
        "crowd region, dropped": 1,
        "box partly outside the image, clipped": 1,
        "box with zero area, dropped": 1,
        "box outside the image, dropped": 1,
        "image without usable boxes, dropped": 3,
    }
    assert report.classes_without_boxes == ["square", "triangle"]
    assert "train: 1 x crowd region, dropped (7)." in report.sentences("train")
    assert json.dumps(report.to_dict())
    test_report = check_test_set(dataset, masks=False)
    assert test_report.boxes == 4
    assert issue_counts(test_report)["image without boxes: every detection is a false positive"] == 3
    with pytest.raises(DataError, match=r"contains no segmentations; use --no-masks"):
        check_training_set(dataset, masks=True)
    with pytest.raises(DataError, match=r"Image 7 of .* has a box without a segmentation; use --no-masks"):
        check_test_set(dataset, masks=True)


@pytest.mark.parametrize("width", [1e-6, 3e-5])
def test_boxes_too_thin_for_float32_are_dropped(coco, width):
    spec = coco(lambda content: content["annotations"][0].update(bbox=[100.0, 20, width, 30]))
    training_set, report = check_training_set(open_detection_dataset(spec, "train"), masks=False)
    assert issue_counts(report)["box with zero area, dropped"] == 1
    for image in training_set.images:
        corners = np.float32([obj.corners for obj in image.annotations])
        for boxes in (corners, np.float32(image.width) - corners[:, [2, 3, 0, 1]]):  # flipped
            assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_boxes_without_a_segmentation_are_dropped_with_masks(coco):
    spec = coco(lambda content: content["annotations"][0].update(segmentation=[[1, 2, 3, 4]]))
    dataset = open_detection_dataset(spec, "train")
    training_set, report = check_training_set(dataset, masks=True)
    assert issue_counts(report)["box without a segmentation, dropped"] == 1
    assert all(obj.segmentation for image in training_set.images for obj in image.annotations)


def test_voc_boxes_with_zero_area_are_one_pixel_wide(shapes, tmp_path):
    shapes.write_voc(tmp_path, {"train": 1})
    shapes.write_xml(tmp_path, "train000", 160, [("a", 5, 5, 5, 5), ("a", 170, 5, 180, 9)])
    training_set, report = check_training_set(open_detection_dataset(str(tmp_path), "train"), masks=False)
    assert [obj.box for image in training_set.images for obj in image.annotations] == [(4, 4, 1, 1)]
    assert issue_counts(report) == {
        "box with zero area (xmin = xmax or ymin = ymax), kept as one pixel wide": 1,
        "box outside the image, dropped": 1,
    }


def test_dataset_without_boxes_is_rejected(coco):
    dataset = open_detection_dataset(coco(lambda content: content["annotations"].clear()), "train")
    with pytest.raises(DataError, match="contains no boxes to train on"):
        check_training_set(dataset, masks=False)
    with pytest.raises(DataError, match="contains no boxes to evaluate on"):
        check_test_set(dataset, masks=False)
