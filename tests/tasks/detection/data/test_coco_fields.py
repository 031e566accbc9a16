"""Fields of COCO files that are not as COCO writes them: used, corrected and counted, or an error that names them."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from simsiam_eval.errors import DataError
from tasks.detection.data.checks import check_test_set, check_training_set
from tasks.detection.data.detections import Detections
from tasks.detection.data.image_files import TURNED
from tasks.detection.data.opening import open_detection_dataset, open_train_and_test
from tasks.detection.metrics.evaluation import evaluate

OUTLINE = [[10.0, 20.0, 50.0, 20.0, 50.0, 60.0]]  # half of its box, 10, 20, 40, 40


def annotation(box, number=1, image=7, **fields):
    return {
        "id": number,
        "image_id": image,
        "category_id": 2,
        "iscrowd": 0,
        "bbox": box,
        "area": box[2] * box[3],
        **fields,
    }


@pytest.fixture
def opened(coco):
    """opened(*annotations, change) -> the dataset with these annotations alone."""

    def make(*annotations, change=lambda content: None, masks=True):
        def edit(content):
            content["annotations"] = list(annotations)
            change(content)

        return open_detection_dataset(coco(edit), "train", (), masks)

    return make


def counts(data):
    return {issue: found.count for issue, found in data.issues.items()}


@pytest.mark.parametrize("area", [-1, 0, 0.25, 1e11, 1e5, None])
@pytest.mark.parametrize(("outline", "expected"), [(OUTLINE, 800), (None, 1600)])
def test_areas_that_cannot_be_are_those_of_the_outline_or_box(opened, area, outline, expected):
    data = opened(annotation([10, 20, 40, 40], area=area, segmentation=outline))
    assert data.images[0].annotations[0].area == expected
    [(issue, found)] = data.issues.items()
    assert issue.startswith("area ") and issue.endswith(", replaced by that of the mask or box")
    assert (found.count, found.first) == (1, ["7"])


def test_possible_areas_are_kept(opened):
    data = opened(annotation([10, 20, 1.2, 1.1], area=3.0), annotation([10, 20, 40, 40], 2, area=17.25))
    assert [obj.area for obj in data.images[0].annotations] == [3.0, 17.25]
    assert counts(data) == {}


def test_negative_area_hides_no_object_from_pycocotools(opened):
    boxes = [[10, 10, 40, 40], [90, 90, 40, 40]]
    data = opened(annotation(boxes[0], area=-1), annotation(boxes[1], 2))
    found = Detections(np.float32([[90, 90, 130, 130]]), np.float32([0.9]), np.array([0]))
    nothing = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, int))
    ap = evaluate(data, [found, nothing, nothing, nothing], "coco").average_precision
    assert ap["ap"] == pytest.approx(51 / 101)  # half of the objects: 51 of 101 recall thresholds


def test_ignored_objects_are_neither_missed_nor_trained_on(opened):
    data = opened(annotation([10, 10, 40, 40], ignore=1), annotation([90, 90, 40, 40], 2, ignore=False, iscrowd=False))
    assert [obj.difficult for obj in data.images[0].annotations] == [True, False]
    training_set, report = check_training_set(data, masks=False)
    assert [obj.box for obj in training_set.images[0].annotations] == [(90, 90, 40, 40)]
    assert report.issues["object marked ignore, dropped"].count == 1
    assert check_test_set(data, masks=False).issues["object marked ignore, ignored in evaluation"].count == 1


def test_missing_crowd_marks_are_counted(opened):
    data = opened(annotation([10, 10, 40, 40], iscrowd=None), annotation([90, 90, 40, 40], 2, iscrowd=True))
    assert [obj.crowd for obj in data.images[0].annotations] == [False, True]
    assert counts(data) == {"iscrowd missing, taken as 0": 1}


def test_negative_sides_are_turned_round(opened):
    data = opened(annotation([50, 60, -40, -20], area=800), *(annotation([10, 9 * k, 7, 5], k) for k in range(2, 6)))
    assert data.images[0].annotations[0].box == (10, 40, 40, 20)
    assert counts(data) == {"box with swapped corners, corrected": 1}


def test_a_few_odd_boxes_are_counted(opened):
    data = opened(
        annotation([10, 10, 40, 40]), annotation([10, 10, 40, 40], 2), annotation([60, 60, 0.5, 30], 3),
        annotation([0, 0, 0.5, 0.5], 3),
    )  # fmt: skip
    assert counts(data) == {
        "annotation id used more than once, not used": 1,
        "box with a side below one pixel": 2,
        "box annotated more than once, kept": 1,
    }


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([[0.2, 0.3, 0.5, 0.4]], r"1 of 1 boxes lie between 0 and 1 \(first: annotation 1 of .*train.json\)"),
        ([[0.5, 0.5, 0.1 * k, 0.2] for k in range(1, 6)], "5 of 5 boxes lie between 0 and 1"),
        ([[40, 40, 0.1 * k, 0.2] for k in range(1, 6)], "5 of 5 boxes are smaller than a pixel"),
        ([[60, 70, 90, 120 + k] for k in range(5)], "5 of 5 boxes leave their images, and all fit if read as x1, y1"),
        (
            [[60, 70, 90, 120 + k] for k in range(8)] + [[150, 9, 170, 20]],
            "9 of 9 boxes leave .*, and 8 fit if read as x1",
        ),
        ([[130, 30 + k, 40, 40] for k in range(5)], "and all fit if read as center x, center y, width, height"),
        ([[400, 300, 90, 120 + k] for k in range(5)], "5 of 5 boxes lie outside their images"),
        ([[90, 90, -40, -k] for k in range(1, 6)], "5 of 5 boxes end before they begin"),
    ],
)
def test_boxes_in_other_units_are_rejected(opened, boxes, message):
    with pytest.raises(DataError, match=message):
        opened(*(annotation(box, number) for number, box in enumerate(boxes, 1)))


def test_boxes_whose_segmentations_show_another_form_are_rejected(opened):
    """Also without masks: the boxes are what is wrong."""
    boxes = [annotation([30 + k, 40, 40, 40], k, segmentation=[[10 + k, 20, 50 + k, 20, 50 + k, 60]]) for k in range(5)]
    with pytest.raises(DataError, match=r"do not fit their segmentations, but would if read as center x, center y"):
        opened(*boxes, masks=False)


def test_areas_that_are_all_placeholders_are_replaced(opened):
    boxes = [annotation([10, 20 + k, 40, 40], k, area=1) for k in range(4)]
    outlined = annotation([10, 60, 40, 40], 4, area=20, segmentation=[[10, 60, 50, 60, 50, 100]])
    data = opened(*boxes, outlined, annotation([90, 90, 9, 9], 5, area=20))
    assert [obj.area for obj in data.images[0].annotations] == [1600] * 4 + [800, 20]
    assert counts(data) == {"area far below that of the mask or box, in a quarter of all objects, replaced by it": 5}
    assert counts(opened(*boxes[:2], *(annotation([90, 9 * k, 9, 9], 9 + k) for k in range(9)))) == {}


def test_nothing_is_left_for_a_reason(opened):
    data = opened(annotation([10, 10, 40, 40], iscrowd=1), annotation([9, 9, 0, 4], 2, area=0))
    with pytest.raises(
        DataError, match=r"no boxes to train on \(1 x crowd region, dropped; 1 x box with zero area, dropped\)\."
    ):
        check_training_set(data, masks=False)
    with pytest.raises(DataError, match=r"to evaluate on \(1 x crowd region, ignored in evaluation\)\."):
        check_test_set(opened(annotation([10, 10, 40, 40], iscrowd=1)), masks=False)


def test_boxes_outside_are_told_from_boxes_across_the_edge(opened):
    data = opened(
        annotation([-60, 9, 40, 40]),
        annotation([-20, 9, 40, 40], 2),
        *(annotation([9, 9 * k, 5, 5], k) for k in range(9)),
    )
    issues = check_test_set(data, masks=False).issues
    assert issues["box outside the image, always a missed object"].count == 1
    assert issues["box partly outside the image, kept as annotated"].count == 1


def test_file_names(opened):
    def renamed(name):
        return opened(annotation([10, 10, 40, 40]), change=lambda content: content["images"][0].update(file_name=name))

    data = renamed(".\\000.png")
    assert counts(data) == {"file_name with backslashes, read as slashes": 1}
    assert data.images[0].path.name == "000.png"
    where = r"are missing .*relative file names are below .*train, unless coco:FILE.json#images=FOLDER names another"
    with pytest.raises(DataError, match=where):
        renamed("train/000.png")
    with pytest.raises(DataError, match=r'has file_name "a\\ud800.png"; expected a string of valid Unicode'):
        renamed("a\ud800.png")


def test_images_that_exif_turns_without_a_change_of_size_are_counted(coco):
    from simsiam_eval.runtime.processes import Processes
    from tasks.detection.data.preparation import prepare_datasets

    spec = coco(lambda content: content["images"][0].update(width=None))
    images = open_detection_dataset(spec, "train").images
    for row, (orientation, size) in enumerate([(6, (160, 160)), (3, (160, 160)), (1, (160, 160))]):
        exif = Image.Exif()
        exif[274] = orientation
        Image.new("RGB", size).save(images[row].path, exif=exif)
    report = prepare_datasets((spec,), spec, (), False, Processes(torch.device("cpu"))).test_report
    assert report.issues[TURNED].first == ["7", "17"]


def test_boxes_that_all_lie_in_a_corner_are_reported(opened):
    boxes = [annotation([2 * k, 3, 10, 10], k, segmentation=None) for k in range(20)]
    assert "box in the upper left quarter, as all are: check that they are in pixels" in counts(opened(*boxes))
    assert not counts(opened(*boxes[1:]))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bbox": ["1", "2", "3", "4"]}, "annotation 1 of .* has bbox .*; expected four numbers: x, y, width, height"),
        ({"bbox": None}, "annotation 1 of .* has no 'bbox'; expected four numbers"),
        ({"bbox": [1, 2, float("inf"), 4]}, "expected four numbers"),
        ({"bbox": [True, 2, 3, 4]}, "expected four numbers"),
        ({"category_id": "2"}, "annotation 1 of .* has category_id .2.; expected a whole number"),
        ({"category_id": -1}, "annotation 1 of .* has category_id -1; expected one of"),
        ({"image_id": 7.5}, "has image_id 7.5; expected a whole number"),
        ({"iscrowd": 2}, "has iscrowd 2; expected 0 or 1"),
        ({"ignore": "yes"}, 'has ignore "yes"; expected 0 or 1'),
        ({"area": float("nan")}, "has area NaN; expected a number"),
        ({"segmentation": [[[1, 2], [3, 4], [5, 6]]]}, "annotation 1 of .* expected polygons as"),
        ({"segmentation": [[1, 2, 3, 4, 5, float("nan")]]}, "annotation 1 of .* a coordinate that is not a number"),
        ({"segmentation": {"size": [160, 160], "counts": [-1, 25601]}}, "annotation 1 of .* has .* invalid counts"),
        ({"segmentation": {"size": [3, 3], "counts": [4, 5]}}, r"of size \[3, 3\]; expected \[160, 160\]"),
        ({"segmentation": {"size": [160, 160], "counts": ""}}, "annotation 1 of .* has .* invalid counts"),
        ({"segmentation": {"size": [160, 160], "counts": "!<"}}, "annotation 1 of .* has .* damaged counts"),
        ({"segmentation": {"size": [10**5, 10**5], "counts": [10**10]}}, "annotation 1 of .* has .* invalid counts"),
        ({"segmentation": {"counts": [4, 5]}}, "a segmentation of size None; expected a run-length encoding"),
    ],
)
def test_fields_without_a_meaning_name_the_annotation(opened, fields, message):
    with pytest.raises(DataError, match=message):
        opened(annotation([10, 10, 40, 40]) | fields)


def test_whole_numbers_may_be_floats(opened):
    data = opened(annotation([10, 10, 40, 40], image=7.0, category_id=2.0))
    assert data.images[0].annotations[0].label == 0


def test_category_ids_may_be_zero_and_negative(opened):
    def change(content):
        content["categories"][0]["id"], content["categories"][1]["id"] = 0, -3

    data = opened(annotation([10, 10, 40, 40], category_id=0), change=change)
    assert data.classes == ("square", "disc", "triangle")
    assert data.classes[data.images[0].annotations[0].label] == "disc"
    assert data.category_ids == {"square": -3, "disc": 0, "triangle": 8}


def test_two_names_of_one_category_are_rejected(opened):
    with pytest.raises(DataError, match=r"same id \(2 'disc', 2 'square'\); expected different ones"):
        opened(change=lambda content: content["categories"][1].update(id=2))


def test_names_in_another_unicode_form_are_one_class(coco):
    spec = coco(lambda content: content["categories"][0].update(name=" cafe\u0301"))
    test = json.loads((file := spec_file(spec, "val")).read_text())
    test["categories"][0]["name"] = "caf\u00e9"
    file.write_text("\ufeff" + json.dumps(test))  # a byte order mark as well
    train, _ = open_train_and_test((spec,), spec.replace("#train", "#val"), ())
    assert train.classes[0] == "caf\u00e9"


def spec_file(spec, split):
    from pathlib import Path

    folder = Path(spec.removeprefix("coco:").split("#")[0])
    return folder / "annotations" / f"instances_{split}.json"


def test_class_names_that_differ_in_case_are_noted(opened):
    data = opened(annotation([10, 10, 40, 40]), change=lambda content: content["categories"][1].update(name="Disc "))
    lines = check_training_set(data, masks=False)[1].sentences("train")
    assert "train: Class names that differ only in case or spaces are kept apart: 'disc' and 'Disc'." in lines


@pytest.mark.parametrize("width", [None, 0, -4])
def test_missing_sizes_are_read_from_the_image(opened, width):
    data = opened(annotation([10, 10, 40, 40]), change=lambda content: content["images"][1].update(width=width))
    assert data.images.sizes.tolist() == [[160, 160]] * 4
    assert data.issues["image without a size in its annotations, read from the file"].first == ["17"]


def test_names_that_differ_in_case_are_named(opened):
    with pytest.raises(
        DataError, match=r"1 of 4 images are missing .*000.PNG; there is 000.png, whose name differs in"
    ):
        opened(annotation([10, 10, 40, 40]), change=lambda content: content["images"][0].update(file_name="000.PNG"))


def test_rotated_image_with_unrotated_annotations(opened):
    from tasks.detection.data.images import check_header

    data = opened(annotation([10, 10, 40, 40]), change=lambda content: content["images"][0].update(width=80))
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (80, 160)).save(data.images[0].path, exif=exif)
    problem = check_header(data.images[0])
    assert (
        "is 160x80, but its annotations are for 80x160: width and height are swapped, as where an EXIF"
        in problem.reason
    )


def test_polygons_and_masks_that_are_not_as_cocos(opened):
    mask = {"size": [160, 160], "counts": [160 * 30 + 40, 50, 160 * 160 - 160 * 30 - 90]}
    data = opened(
        annotation([10, 20, 40, 40], segmentation=OUTLINE[0]),
        annotation([10, 20, 40, 40], 2, segmentation=[[1, 2, 3, 4], *OUTLINE]),
        annotation([30, 40, 1, 50], 3, segmentation=mask),
        annotation([90, 90, 40, 40], 4, segmentation=OUTLINE),
        annotation([10, 20, 40, 40], 5, segmentation=[]),
        annotation([10, 20, 40, 40], 6, segmentation=[[1, 2, 3, 4]]),
    )
    outlines = [obj.segmentation for obj in data.images[0].annotations]
    assert outlines[:2] == [OUTLINE, OUTLINE]
    assert isinstance(outlines[2]["counts"], str)  # compressed: detectron2 takes nothing else
    assert outlines[4:] == [None, None]
    assert counts(data) == {
        "segmentation given as one flat list, read as a polygon": 1,
        "segmentation with a polygon of fewer than three corners or an odd number of coordinates, which is left out": 2,
        "box that does not fit its segmentation, kept": 1,
        "box annotated more than once, kept": 3,
    }


def test_segmentations_elsewhere_than_the_boxes_are_rejected_with_masks(opened):
    outline = [[0.1, 0.2, 0.5, 0.2, 0.5, 0.6]]
    boxes = [annotation([10, 20 + k, 40, 40], k, segmentation=outline) for k in range(5)]
    with pytest.raises(DataError, match="5 of 5 boxes do not fit their segmentations"):
        opened(*boxes)
    assert counts(opened(*boxes, masks=False)) == {"box that does not fit its segmentation, kept": 5}


def test_without_masks_no_segmentation_is_kept(opened):
    data = opened(annotation([10, 20, 40, 40], area=-1, segmentation=OUTLINE), masks=False)
    assert data.images[0].annotations[0].segmentation is None
    assert data.images[0].annotations[0].area == 800
    assert len(data.images.outlines) == 0
