"""Opening detection datasets by their specs: kinds, splits, joined sources, classes."""

import pytest

from simsiam_eval.errors import DataError, UsageError
from tasks.detection.data.opening import open_detection_dataset, open_train_and_test


def test_default_splits(shapes_voc, shapes_coco):
    for folder in (shapes_voc, shapes_coco):
        train, test = open_train_and_test((str(folder),), str(folder), ())
        assert (len(train.images), len(test.images)) == (60, 20)
        assert train.classes == test.classes == ("disc", "square", "triangle")


def test_several_sources_are_joined(shapes, tmp_path):
    first = shapes.write_voc(tmp_path / "a", {"trainval": 3})
    second = shapes.write_voc(tmp_path / "b", {"trainval": 4, "test": 2}, seed=1)
    train, _ = open_train_and_test((f"voc:{first}#trainval", f"voc:{second}#trainval"), str(second), ())
    assert len(train.images) == 7
    coco = shapes.write_coco(tmp_path / "c", {"train": 2})
    with pytest.raises(UsageError, match="different kinds"):
        open_train_and_test((str(first), str(coco)), str(second), ())


def test_annotation_file_with_an_image_folder(shapes_coco):
    file, images = shapes_coco / "annotations" / "instances_val2017.json", shapes_coco / "val2017"
    dataset = open_detection_dataset(f"coco:{file}#images={images}", "test")
    assert dataset.fingerprint() == open_detection_dataset(f"coco:{shapes_coco}#val2017", "train").fingerprint()


def test_folder_names_may_contain_a_number_sign(shapes, tmp_path):
    voc = shapes.write_voc(tmp_path / "a #b" / "voc#1", {"trainval": 2, "test": 1})
    coco = shapes.write_coco(tmp_path / "a #b" / "coco", {"train2017": 2})
    file = coco / "annotations" / "instances_train2017.json"
    for spec, count in (
        (f"voc:{voc}#test", 1), (f"{voc}#trainval", 2), (str(voc), 2), (f"coco:{coco}#train2017", 2),
        (f"coco:{file}#images={coco / 'train2017'}", 2),
    ):  # fmt: skip
        assert len(open_detection_dataset(spec, "train").images) == count
    with pytest.raises(DataError, match="does not exist"):
        open_detection_dataset(f"voc:{voc}2#test", "test")


def test_fingerprint_includes_segmentations_and_areas(coco):
    fingerprints = set()
    for change in (
        lambda content: None,
        lambda content: content["annotations"][0].update(area=1.5),
        lambda content: content["annotations"][0].update(segmentation=[[0, 0, 9, 0, 9, 9]]),
    ):
        fingerprints.add(open_detection_dataset(coco(change), "train").fingerprint())
    assert len(fingerprints) == 3


def test_unknown_class(shapes_voc, shapes_coco, coco):
    available = r"available: disc, square, triangle"
    for folder in (shapes_voc, shapes_coco):
        with pytest.raises(DataError, match=rf"--classes sqaure: no such class in {folder}; {available}"):
            open_train_and_test((str(folder),), str(folder), ("disc", "sqaure"))
    spec = coco(lambda content: content["categories"].append({"id": 90, "name": "star"}))
    with pytest.raises(DataError, match=rf"--classes star: no such class in .*#val; {available}"):
        open_train_and_test((spec,), spec.replace("#train", "#val"), ("disc", "star"))


def test_class_names_that_differ(coco, shapes, tmp_path):
    spec = coco(lambda content: content["categories"][0].update(name="circle"))
    with pytest.raises(DataError, match=r"only in the test set: disc; only in the training set: circle.*--classes"):
        open_train_and_test((spec,), spec.replace("#train", "#val"), ())
    voc = shapes.write_voc(tmp_path / "voc", {"trainval": 2, "test": 2})
    shapes.write_xml(voc, "test000", 160, [("dog", 5, 5, 50, 50)])
    with pytest.raises(DataError, match="only in the test set: dog"):
        open_train_and_test((str(voc),), str(voc), ())
    assert open_train_and_test((str(voc),), str(voc), ("disc", "square"))[1].classes == ("disc", "square")


def test_no_boxes_in_voc(shapes, tmp_path):
    folder = shapes.write_voc(tmp_path, {"trainval": 2, "test": 1})
    for number in range(2):
        shapes.write_xml(folder, f"trainval00{number}", 160, [])
    with pytest.raises(DataError, match="contains no boxes to train on"):
        open_train_and_test((str(folder),), str(folder), ())


def test_specs_without_a_dataset(shapes_voc, shapes_coco, tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        open_detection_dataset("voc:/nowhere", "train")
    with pytest.raises(DataError, match=r"is not a VOC folder; it has no Annotations/"):
        open_detection_dataset(f"voc:{tmp_path}", "train")
    (tmp_path / "set" / "ImageSets" / "Main").mkdir(parents=True)
    (tmp_path / "set" / "ImageSets" / "Main" / "mine.txt").touch()
    (tmp_path / "set" / "Annotations").mkdir()
    with pytest.raises(DataError, match=r"name the list, such as #trainval; available: mine\."):
        open_detection_dataset(f"voc:{tmp_path / 'set'}", "train")
    with pytest.raises(UsageError, match="yolo: is not a supported detection dataset"):
        open_detection_dataset("yolo:here", "train")
    with pytest.raises(DataError, match="is not a detection dataset"):
        open_detection_dataset(str(tmp_path), "train")
    with pytest.raises(DataError, match=r"list .* cannot be read \(no such file .*\); available: test, trainval"):
        open_detection_dataset(f"voc:{shapes_voc}#nothing", "train")
    with pytest.raises(DataError, match="cannot be read"):
        open_detection_dataset(f"coco:{shapes_coco}#nothing", "train")
    with pytest.raises(UsageError, match="unknown option 'images=here'"):
        open_detection_dataset(f"coco:{shapes_coco}#images=here", "train")
    (tmp_path / "a.json").write_text("[1, 2")
    with pytest.raises(DataError, match="is not valid JSON"):
        open_detection_dataset(str(tmp_path / "a.json"), "train")
