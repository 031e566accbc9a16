"""COCO annotation files: classes, segmentations, and one sentence for each malformed file."""

import numpy as np
import pytest

from simsiam_eval.errors import DataError
from tasks.detection.data.opening import open_detection_dataset


def run_lengths(size, counts):
    return {"size": size, "counts": counts}


def test_classes_select_and_order(shapes_coco):
    selected = open_detection_dataset(str(shapes_coco), "train", ("triangle", "disc"))
    assert selected.classes == ("triangle", "disc")
    assert {obj.label for image in selected.images for obj in image.annotations} == {0, 1}
    whole = open_detection_dataset(str(shapes_coco), "train")
    squares = sum(whole.classes[obj.label] == "square" for image in whole.images for obj in image.annotations)
    assert selected.excluded == {"square": squares}
    boxes = [sum(len(image.annotations) for image in data.images) for data in (selected, whole)]
    assert boxes[0] + squares == boxes[1]


def test_polygons_with_fewer_than_three_corners_are_ignored(coco):
    def change(content):
        content["annotations"][0]["segmentation"] = [[1, 2, 3, 4]]
        content["annotations"][1]["segmentation"] = [[1, 2, 3, 4], [0.0, 0.0, 9.0, 0.0, 9.0, 9.0]]

    dataset = open_detection_dataset(coco(change), "train")
    first, second = [obj for image in dataset.images for obj in image.annotations][:2]
    assert first.segmentation is None
    assert second.segmentation == [[0.0, 0.0, 9.0, 0.0, 9.0, 9.0]]


def test_run_length_encodings_and_missing_areas(coco):
    from pycocotools import mask

    whole = mask.encode(np.asfortranarray(np.ones((160, 160), np.uint8)))["counts"].decode()

    def change(content):
        content["annotations"][0].update(segmentation=run_lengths([160, 160], [600, 25000]), area=None)
        content["annotations"][1].update(segmentation=run_lengths([160, 160], whole))
        del content["annotations"][1]["area"]

    dataset = open_detection_dataset(coco(change), "train")
    first, second = [obj for image in dataset.images for obj in image.annotations][:2]
    assert (first.area, second.area) == (first.box[2] * first.box[3], second.box[2] * second.box[3])
    assert second.segmentation["counts"] == whole


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("annotations"), "no list 'annotations'"),
        (lambda c: c["images"][1].pop("file_name"), r"image 17 of .*train.json has no 'file_name'; expected a string"),
        (lambda c: c["images"].insert(0, 3), r"images\[0\] is not an object"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, 3]), "expected four numbers"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, 3, float("nan")]), "expected four numbers"),
        (lambda c: c["annotations"][0].update(bbox=[10**400, 2, 3, 4]), "expected four numbers"),
        (
            lambda c: c["annotations"][0].update(category_id=99),
            r"annotation 1 of .* has category_id 99; expected one of .*\(2, 5, 8\)",
        ),
        (
            lambda c: c["annotations"][0].update(image_id=99),
            r"has image_id 99; expected one of .*\(7, 17, 27, 37\)",
        ),
        (lambda c: c["annotations"][0].update(area="x"), "has area .x.; expected a number"),
        (lambda c: c["annotations"][0].update(iscrowd="0"), "has iscrowd .0.; expected 0 or 1"),
        (lambda c: c["annotations"][0].update(segmentation="x"), "expected polygons or a run-length encoding"),
        (
            lambda c: c["annotations"][0].update(segmentation=[["a"] * 6]),
            "a polygon with a coordinate that is not a number",
        ),
        (
            lambda c: c["annotations"][0].update(segmentation=run_lengths([160, 160], "0`lg2")),
            "damaged counts; expected runs that cover the 160 x 160 pixels of its image",
        ),
        (
            lambda c: c["annotations"][0].update(segmentation=run_lengths([160, 160], [9])),
            "expected a run-length encoding of 160 x 160",
        ),
        (
            lambda c: c["annotations"][0].update(segmentation=run_lengths([3, 3], [9])),
            r"segmentation of size \[3, 3\]; expected \[160, 160\], height and width of its image",
        ),
        (lambda c: c["images"][0].update(width="160"), "image 7 of .* has width .160.; expected a whole number"),
        (lambda c: c["categories"][0].update(id=[1]), r"categories\[0\] of .* has id \[1\]; expected a whole number"),
        (
            lambda c: c["categories"][0].update(name="square"),
            r"categories with the same name \(2 'square', 5 'square'\)",
        ),
        (lambda c: c["images"][0].update(id=17), r"images with the same id \(17\)"),
        (lambda c: c["images"][0].update(file_name="none.png"), "1 of 4 images are missing .*none.png"),
        (lambda c: c["images"].clear() or c["annotations"].clear(), "lists no images"),
    ],
)
def test_malformed_files_are_rejected(coco, change, message):
    with pytest.raises(DataError, match=message):
        open_detection_dataset(coco(change), "train")
