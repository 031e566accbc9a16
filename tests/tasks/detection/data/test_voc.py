"""PASCAL VOC folders: boxes, sizes, and one sentence for each malformed file."""

from pathlib import Path

import pytest

from simsiam_eval.errors import DataError
from tasks.detection.data.opening import open_detection_dataset


def test_boxes_start_at_zero(tmp_path, shapes):
    shapes.write_voc(tmp_path, {"train": 1}, side=100)
    shapes.write_xml(tmp_path, "train000", 100, [("cat", 1, 1, 100, 50), ("ant", 7, 8, 7, 9)], difficult=(0,))
    dataset = open_detection_dataset(f"voc:{tmp_path}", "train")
    assert dataset.classes == ("ant", "cat")
    cat, ant = dataset.images[0].annotations
    assert (cat.box, cat.label, cat.difficult, cat.area) == ((0, 0, 100, 50), 1, True, 5000)
    assert (ant.box, ant.label, ant.difficult) == ((6, 7, 1, 2), 0, False)
    assert dataset.images[0].path == tmp_path / "JPEGImages" / "train000.jpg"


def test_invalid_size_is_read_from_the_image(shapes, tmp_path):
    shapes.write_voc(tmp_path, {"train": 1}, side=100)
    file = tmp_path / "Annotations" / "train000.xml"
    file.write_text(file.read_text().replace("<width>100", "<width>-5").replace("<height>100", "<height>0"))
    image = open_detection_dataset(str(tmp_path), "train").images[0]
    assert (image.width, image.height) == (100, 100)


@pytest.mark.parametrize("ending", [".jfif", ".PNG", ".webp", ".photo", ""])
def test_images_have_any_ending_and_other_files_are_counted(shapes, tmp_path, ending):
    shapes.write_voc(tmp_path, {"train": 2}, side=100)
    folder = tmp_path / "JPEGImages"
    (folder / "train000.jpg").rename(folder / f"train000{ending}")
    (folder / "train000.txt").write_text("notes")
    (folder / "Thumbs.db").write_text("notes")
    dataset = open_detection_dataset(str(tmp_path), "train")
    assert [Path(path).name for path in dataset.images.paths] == [f"train000{ending}", "train001.jpg"]
    assert dataset.notes == (f"{folder}: 1 file was not read as an image: 1 .txt.",)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("Annotations/trainval000.xml", "<annotation><object>", "not valid XML"),
        ("Annotations/trainval000.xml", "<html></html>", "its root is <html>"),
        ("Annotations/trainval000.xml", "<annotation><object><name>a</name></object></annotation>", "no <bndbox>"),
        (
            "Annotations/trainval000.xml",
            "<annotation><object><name>a</name><bndbox><xmin>x</xmin></bndbox></object></annotation>",
            "not a number",
        ),
        ("Annotations/trainval000.xml", None, "lists 1 image without an annotation file .*trainval000.xml"),
        ("JPEGImages/trainval001.jpg", None, "1 of 2 images are missing"),
        ("ImageSets/Main/trainval.txt", "trainval000\ntrainval000\n", "more than once"),
        ("ImageSets/Main/trainval.txt", "", "lists no images"),
    ],
)
def test_malformed_files_are_rejected(shapes, tmp_path, file, content, message):
    shapes.write_voc(tmp_path, {"trainval": 2})
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_text(content)
    with pytest.raises(DataError, match=message):
        open_detection_dataset(str(tmp_path), "train")
