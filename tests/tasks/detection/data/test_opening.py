"""Detection sets: what is read, and every file of the wrong form refused in one sentence."""

import json

import numpy as np
import pytest

from simsiam_eval.errors import DataError, UsageError
from tasks.detection.data.checks import check_test_set, check_training_set, count_training_images
from tasks.detection.data.opening import open_detection_set, open_train_and_test


def test_voc_boxes_start_at_zero(tmp_path, made):
    made.write_voc(tmp_path, {"train": 1}, side=100)
    made.write_xml(tmp_path, "train000", 100, [("cat", 1, 1, 100, 50), ("ant", 7, 8, 7, 9)], difficult=(0,))
    opened = open_detection_set(f"voc:{tmp_path}", "train")
    assert opened.classes == ("ant", "cat")
    cat, ant = opened.images[0].annotations
    assert (cat.box, cat.label, cat.difficult, cat.area) == ((0, 0, 100, 50), 1, True, 5000)
    assert (ant.box, ant.label, ant.difficult) == ((6, 7, 1, 2), 0, False)
    assert opened.images[0].path == tmp_path / "JPEGImages" / "train000.jpg"


def test_a_split_that_is_not_named_is_the_usual_one(shapes_voc, shapes_coco):
    for folder in (shapes_voc, shapes_coco):
        train, test = open_train_and_test((str(folder),), str(folder), ())
        assert (len(train.images), len(test.images)) == (60, 20)
        assert train.classes == test.classes == ("disc", "square", "triangle")


def test_several_sources_are_one_training_set(made, tmp_path):
    first = made.write_voc(tmp_path / "a", {"trainval": 3})
    second = made.write_voc(tmp_path / "b", {"trainval": 4, "test": 2}, seed=1)
    train, _ = open_train_and_test((f"voc:{first}#trainval", f"voc:{second}#trainval"), str(second), ())
    assert len(train.images) == 7
    with pytest.raises(UsageError, match="two kinds"):
        coco = made.write_coco(tmp_path / "c", {"train": 2})
        open_train_and_test((str(first), str(coco)), str(second), ())


def test_a_file_with_a_folder_of_images(shapes_coco):
    file, images = shapes_coco / "annotations" / "instances_val2017.json", shapes_coco / "val2017"
    opened = open_detection_set(f"coco:{file}#images={images}", "test")
    assert opened.digest() == open_detection_set(f"coco:{shapes_coco}#val2017", "train").digest()


def test_folders_with_a_number_sign(made, tmp_path):
    voc = made.write_voc(tmp_path / "a #b" / "voc#1", {"trainval": 2, "test": 1})
    coco = made.write_coco(tmp_path / "a #b" / "coco", {"train2017": 2})
    file = coco / "annotations" / "instances_train2017.json"
    for spec, count in (
        (f"voc:{voc}#test", 1), (f"{voc}#trainval", 2), (str(voc), 2), (f"coco:{coco}#train2017", 2),
        (f"coco:{file}#images={coco / 'train2017'}", 2),
    ):  # fmt: skip
        assert len(open_detection_set(spec, "train").images) == count
    with pytest.raises(DataError, match="does not exist"):
        open_detection_set(f"voc:{voc}2#test", "test")


def test_images_that_are_there_twice_are_said(shapes_voc, made, tmp_path):
    train, test = open_train_and_test((f"{shapes_voc}#trainval",) * 2, f"{shapes_voc}#trainval", ())
    said = check_training_set(train, masks=False)[1].sentences("train")
    assert any(one.startswith("train: 60 x image that is there twice (") for one in said)
    found = check_test_set(test, masks=False)
    count_training_images(train, test, found)
    assert any(one.startswith("test: 60 x image of the training set, which tells") for one in found.sentences("test"))
    train, test = open_train_and_test((str(shapes_voc),), str(shapes_voc), ())
    found = check_test_set(test, masks=False)
    count_training_images(train, test, found)
    assert not found.odd
    assert not check_training_set(train, masks=False)[1].odd


def test_the_digest_knows_segmentations_and_areas(coco):
    digests = set()
    for change in (
        lambda content: None,
        lambda content: content["annotations"][0].update(area=1.5),
        lambda content: content["annotations"][0].update(segmentation=[[0, 0, 9, 0, 9, 9]]),
    ):
        digests.add(open_detection_set(coco(change), "train").digest())
    assert len(digests) == 3


def test_classes_restrict_and_order(shapes_coco):
    opened = open_detection_set(str(shapes_coco), "train", ("triangle", "disc"))
    assert opened.classes == ("triangle", "disc")
    assert {one.label for image in opened.images for one in image.annotations} == {0, 1}
    whole = open_detection_set(str(shapes_coco), "train")
    squares = sum(whole.classes[one.label] == "square" for image in whole.images for one in image.annotations)
    said = check_training_set(opened, masks=False)[1].sentences("train")
    assert f"train: {squares} boxes of classes that --classes leaves out ({squares} of square)." in said
    assert sum(len(i.annotations) for i in opened.images) < sum(len(i.annotations) for i in whole.images)


def test_a_class_that_no_file_knows(shapes_voc, shapes_coco, coco):
    there = r"there are: disc, square, triangle"
    for folder in (shapes_voc, shapes_coco):
        with pytest.raises(DataError, match=rf"--classes sqaure: there is no such class in {folder}; {there}"):
            open_train_and_test((str(folder),), str(folder), ("disc", "sqaure"))
    spec = coco(lambda content: content["categories"].append({"id": 90, "name": "star"}))
    with pytest.raises(DataError, match=rf"--classes star: there is no such class in .*#val; {there}"):
        open_train_and_test((spec,), spec.replace("#train", "#val"), ("disc", "star"))


@pytest.fixture
def coco(made, tmp_path):
    """edit(change) -> the set's spec after change(content)."""
    folder = made.write_coco(tmp_path / "coco", {"train": 4, "val": 4})
    file = folder / "annotations" / "instances_train.json"

    def edit(change):
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))
        return f"coco:{folder}#train"

    return edit


def test_training_set_is_made_as_the_protocol_does(coco):
    def change(content):
        boxes = content["annotations"]
        of = [one["image_id"] for one in boxes]
        boxes[:] = [
            {"id": 1, "image_id": of[0], "category_id": 2, "bbox": [10, 10, 20, 20], "iscrowd": 1},
            {"id": 2, "image_id": of[0], "category_id": 2, "bbox": [-5, 150, 20, 20], "iscrowd": 0},
            {"id": 3, "image_id": of[0], "category_id": 5, "bbox": [10, 10, 0, 20], "iscrowd": 0},
            {"id": 4, "image_id": of[0], "category_id": 5, "bbox": [170, 10, 20, 20], "iscrowd": 0},
        ]

    opened = open_detection_set(coco(change), "train")
    trained, findings = check_training_set(opened, masks=False)
    assert [one.box for image in trained.images for one in image.annotations] == [(0, 150, 15, 10)]
    assert {what: len(ids) for what, ids in findings.odd.items()} == {
        "crowd, dropped": 1,
        "box partly outside its image, clipped": 1,
        "box without area, dropped": 1,
        "box outside its image, dropped": 1,
        "image without a box to learn, dropped": 3,
    }
    assert findings.unused == ["square", "triangle"]
    asked = check_test_set(opened, masks=False)
    assert asked.boxes == 4
    assert sum(len(ids) for what, ids in asked.odd.items() if what.startswith("image without boxes")) == 3
    said = findings.sentences("train")
    assert "train: 1 x crowd, dropped (7)." in said
    assert json.dumps(findings.to_dict())
    with pytest.raises(DataError, match=r"no segmentations in .*: use --no-masks"):
        check_training_set(opened, masks=True)
    with pytest.raises(DataError, match=r"Image 7 of .* has a box without a segmentation: use --no-masks"):
        check_test_set(opened, masks=True)


@pytest.mark.parametrize("width", [1e-6, 3e-5])
def test_a_box_that_is_thinner_than_float32_can_say_has_no_area(coco, width):
    spec = coco(lambda content: content["annotations"][0].update(bbox=[100.0, 20, width, 30]))
    trained, findings = check_training_set(open_detection_set(spec, "train"), masks=False)
    assert [len(ids) for what, ids in findings.odd.items() if what == "box without area, dropped"] == [1]
    for image in trained.images:
        corners = np.float32([one.corners for one in image.annotations])
        for boxes in (corners, np.float32(image.width) - corners[:, [2, 3, 0, 1]]):  # flipped
            assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_polygons_of_two_corners_are_no_segmentation(coco):
    def change(content):
        content["annotations"][0]["segmentation"] = [[1, 2, 3, 4]]
        content["annotations"][1]["segmentation"] = [[1, 2, 3, 4], [0.0, 0.0, 9.0, 0.0, 9.0, 9.0]]

    opened = open_detection_set(coco(change), "train")
    kept, findings = check_training_set(opened, masks=True)
    assert len(findings.odd["box without a segmentation, dropped"]) == 1
    every = [one for image in kept.images for one in image.annotations]
    assert every[0].segmentation == [[0.0, 0.0, 9.0, 0.0, 9.0, 9.0]]


def test_voc_box_without_area_is_one_pixel(made, tmp_path):
    made.write_voc(tmp_path, {"train": 1})
    made.write_xml(tmp_path, "train000", 160, [("a", 5, 5, 5, 5), ("a", 9, 9, 3, 20)])
    trained, findings = check_training_set(open_detection_set(str(tmp_path), "train"), masks=False)
    assert [one.box for one in trained.images[0].annotations] == [(4, 4, 1, 1)]
    assert len(findings.odd) == 2


def test_voc_size_that_is_nonsense_is_the_images(made, tmp_path):
    made.write_voc(tmp_path, {"train": 1}, side=100)
    file = tmp_path / "Annotations" / "train000.xml"
    file.write_text(file.read_text().replace("<width>100", "<width>-5").replace("<height>100", "<height>0"))
    image = open_detection_set(str(tmp_path), "train").images[0]
    assert (image.width, image.height) == (100, 100)


def test_no_boxes_at_all(coco):
    opened = open_detection_set(coco(lambda content: content["annotations"].clear()), "train")
    for check in (lambda: check_training_set(opened, masks=False), lambda: check_test_set(opened, False)):
        with pytest.raises(DataError, match="no boxes at all"):
            check()


def test_no_boxes_at_all_in_voc(made, tmp_path):
    folder = made.write_voc(tmp_path, {"trainval": 2, "test": 1})
    for number in range(2):
        made.write_xml(folder, f"trainval00{number}", 160, [])
    with pytest.raises(DataError, match="no boxes at all to learn from"):
        open_train_and_test((str(folder),), str(folder), ())


def _rle(size, counts):
    return {"size": size, "counts": counts}


def test_run_length_encodings_and_areas_that_are_not_given(coco):
    from pycocotools import mask

    whole = mask.encode(np.asfortranarray(np.ones((160, 160), np.uint8)))["counts"].decode()

    def change(content):
        content["annotations"][0].update(segmentation=_rle([160, 160], [600, 25000]), area=None)
        content["annotations"][1].update(segmentation=_rle([160, 160], whole))
        del content["annotations"][1]["area"]

    opened = open_detection_set(coco(change), "train")
    first, second = [one for image in opened.images for one in image.annotations][:2]
    assert (first.area, second.area) == (first.box[2] * first.box[3], second.box[2] * second.box[3])
    assert second.segmentation["counts"] == whole


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c.pop("annotations"), "no list 'annotations'"),
        (lambda c: c["images"][1].pop("width"), r"images\[1\] has no 'width'"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, 3]), "not four numbers"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, 3, float("nan")]), "not four numbers"),
        (lambda c: c["annotations"][0].update(bbox=[10**400, 2, 3, 4]), "not four numbers"),
        (lambda c: c["annotations"][0].update(category_id=99), "category 99, which the file does not list"),
        (lambda c: c["annotations"][0].update(image_id=99), "image 99, which the file does not list"),
        (lambda c: c["annotations"][0].update(area="x"), "has the area 'x', which is no number"),
        (lambda c: c["annotations"][0].update(iscrowd="0"), "has the iscrowd '0', not 0 or 1"),
        (lambda c: c["annotations"][0].update(segmentation="x"), "neither polygons nor a run-length encoding"),
        (
            lambda c: c["annotations"][0].update(segmentation=[["a"] * 6]),
            "a polygon with a coordinate that is no number",
        ),
        (
            lambda c: c["annotations"][0].update(segmentation=_rle([160, 160], "0`lg2")),
            "no run-length encoding of 160 x 160",
        ),
        (
            lambda c: c["annotations"][0].update(segmentation=_rle([160, 160], [9])),
            "no run-length encoding of 160 x 160",
        ),
        (lambda c: c["annotations"][0].update(segmentation=_rle([3, 3], [9])), "no run-length encoding of 160 x 160"),
        (lambda c: c["images"][0].update(width="160"), r"images\[0\] has '160' as width"),
        (lambda c: c["categories"][0].update(id=[1]), r"categories\[0\] has \[1\] as id"),
        (lambda c: c["categories"][0].update(name="square"), "two categories of one name"),
        (lambda c: c["images"][0].update(id=17), "two images of one id"),
        (lambda c: c["images"][0].update(file_name="none.png"), "1 of 4 images are missing .*none.png"),
        (lambda c: c["images"].clear() or c["annotations"].clear(), "lists no images"),
    ],
)
def test_coco_file_of_the_wrong_form(coco, change, says):
    with pytest.raises(DataError, match=says):
        open_detection_set(coco(change), "train")


def test_class_names_that_differ(coco, made, tmp_path):
    spec = coco(lambda content: content["categories"][0].update(name="circle"))
    with pytest.raises(DataError, match=r"only here disc, only there circle.*--classes"):
        open_train_and_test((spec,), spec.replace("#train", "#val"), ())
    voc = made.write_voc(tmp_path / "voc", {"trainval": 2, "test": 2})
    made.write_xml(voc, "test000", 160, [("dog", 5, 5, 50, 50)])
    with pytest.raises(DataError, match="only here dog"):
        open_train_and_test((str(voc),), str(voc), ())
    assert open_train_and_test((str(voc),), str(voc), ("disc", "square"))[1].classes == ("disc", "square")


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("Annotations/trainval000.xml", "<annotation><object>", "not an XML annotation"),
        ("Annotations/trainval000.xml", "<html></html>", "its root is <html>"),
        ("Annotations/trainval000.xml", "<annotation><object><name>a</name></object></annotation>", "no <bndbox>"),
        (
            "Annotations/trainval000.xml",
            "<annotation><object><name>a</name><bndbox><xmin>x</xmin></bndbox></object></annotation>",
            "no number",
        ),
        ("Annotations/trainval000.xml", None, "cannot be read"),
        ("JPEGImages/trainval001.jpg", None, "1 of 2 images are missing"),
        ("ImageSets/Main/trainval.txt", "trainval000\ntrainval000\n", "twice"),
        ("ImageSets/Main/trainval.txt", "", "lists no images"),
    ],
)
def test_voc_folder_of_the_wrong_form(made, tmp_path, file, content, says):
    made.write_voc(tmp_path, {"trainval": 2})
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_text(content)
    with pytest.raises(DataError, match=says):
        open_detection_set(str(tmp_path), "train")


def test_specs_that_name_nothing(shapes_voc, shapes_coco, tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        open_detection_set("voc:/nowhere", "train")
    with pytest.raises(DataError, match=r"is no VOC folder, without Annotations/; there are: no lists"):
        open_detection_set(f"voc:{tmp_path}", "train")
    (tmp_path / "set" / "ImageSets" / "Main").mkdir(parents=True)
    (tmp_path / "set" / "ImageSets" / "Main" / "mine.txt").touch()
    with pytest.raises(DataError, match=r"name the list, such as #trainval; there are: mine\."):
        open_detection_set(f"voc:{tmp_path / 'set'}", "train")
    with pytest.raises(UsageError, match="yolo: is not a supported detection dataset"):
        open_detection_set("yolo:here", "train")
    with pytest.raises(DataError, match="is no detection set"):
        open_detection_set(str(tmp_path), "train")
    with pytest.raises(DataError, match=r"no list .*there are: test, trainval"):
        open_detection_set(f"voc:{shapes_voc}#nothing", "train")
    with pytest.raises(DataError, match="cannot be read"):
        open_detection_set(f"coco:{shapes_coco}#nothing", "train")
    (tmp_path / "a.json").write_text("[1, 2")
    with pytest.raises(DataError, match="is not JSON"):
        open_detection_set(str(tmp_path / "a.json"), "train")
