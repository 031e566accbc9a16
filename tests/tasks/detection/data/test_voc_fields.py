"""Fields of VOC folders that are not as VOC writes them: used, corrected and counted, or an error that names them."""

import pytest
from PIL import Image

from simsiam_eval.errors import DataError
from tasks.detection.data.checks import check_training_set
from tasks.detection.data.opening import open_detection_dataset


@pytest.fixture
def opened(shapes, tmp_path):
    """opened(*objects, change) -> a VOC folder of one image with these (class, xmin, ymin, xmax, ymax)."""

    def make(*objects, change=lambda text: text):
        shapes.write_voc(tmp_path, {"train": 1})
        shapes.write_xml(tmp_path, "train000", 160, objects)
        file = tmp_path / "Annotations" / "train000.xml"
        file.write_text(change(file.read_text()))
        return open_detection_dataset(str(tmp_path), "train")

    return make


def counts(data):
    return {issue: found.count for issue, found in data.issues.items()}


def replace_first(old, new):
    return lambda text: text.replace(old, new, 1)


@pytest.mark.parametrize(
    ("text", "difficult", "issue"),
    [
        ("True", True, "difficult written as a word, read as 0 or 1"),
        ("yes", True, "difficult written as a word, read as 0 or 1"),
        ("FALSE", False, "difficult written as a word, read as 0 or 1"),
        ("1.0", True, None),
        (" 1 ", True, None),
        ("", False, "difficult missing, taken as 0"),
    ],
)
def test_difficult_in_other_words(opened, text, difficult, issue):
    change = replace_first("<difficult>0", f"<difficult>{text}")
    data = opened(("cat", 5, 5, 60, 60), ("cat", 80, 80, 99, 99), change=change)
    assert [obj.difficult for obj in data.images[0].annotations] == [difficult, False]
    assert counts(data) == ({issue: 1} if issue else {})


def test_swapped_corners_and_corners_at_zero_are_corrected(opened):
    data = opened(("cat", 60, 5, 11, 30), ("cat", 0, 0, 20, 20), ("cat", 90.5, 90, 120.5, 120))
    assert [obj.box for obj in data.images[0].annotations] == [(10, 4, 50, 26), (0, 0, 20, 20), (89.5, 89, 31, 31)]
    assert counts(data) == {
        "box with swapped corners, corrected": 1,
        "box that begins at 0, moved to 1, from which VOC counts pixels": 1,
    }


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ([("a", 0.1, 0.2, 0.5, 0.6)], r"1 of 1 boxes lie between 0 and 1 \(first: object 1 of .*train000.xml\)"),
        ([("a", 60, 60, 20 + k, 30) for k in range(5)], "5 of 5 boxes end before they begin .*expected xmin, ymin"),
        ([("a", 200, 200, 220 + k, 230) for k in range(5)], "5 of 5 boxes lie outside their images"),
    ],
)
def test_boxes_in_other_units_are_rejected(opened, objects, message):
    with pytest.raises(DataError, match=message):
        opened(*objects)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<difficult>0", "<difficult>maybe", "object 1 of .*train000.xml has <difficult> 'maybe'; expected 0 or 1"),
        ("<difficult>0", "<difficult>2", "has <difficult> '2'; expected 0 or 1"),
        ("<xmin>5", "<xmin>nan", "object 1 of .* has <xmin> 'nan', not a number; expected pixels"),
        ("<xmin>5", "<xmin>1e400", "has <xmin> '1e400', not a number"),
        ("<xmin>5", "<xmin>1_0", "has <xmin> '1_0', not a number"),
        ("<ymax>60", "<ymax>", "has no <ymax>; expected pixels"),
        ("<width>160", "<width>wide", "train000.xml has <width> 'wide'; expected a whole number"),
        ("<name>cat", "<name> ", "object 1 of .* has no <name>"),
    ],
)
def test_fields_without_a_meaning_name_the_object(opened, old, new, message):
    with pytest.raises(DataError, match=message):
        opened(("cat", 5, 5, 60, 60), change=replace_first(old, new))


def test_size_may_be_missing_and_file_name_another(opened):
    def change(text):
        return text.replace("<width>160</width>", "").replace(
            "<object>", "<filename>C:\\\\x\\\\cat.jpg</filename><object>"
        )

    data = opened(("cat", 5, 5, 60, 60), change=change)
    assert data.images.sizes.tolist() == [[160, 160]]
    assert counts(data) == {
        "image without a size in its annotations, read from the file": 1,
        "annotation file whose <filename> is another, not used": 1,
    }


def rename(folder, old, new):
    (folder / "Annotations" / f"{old}.xml").rename(folder / "Annotations" / f"{new}.xml")
    (folder / "JPEGImages" / f"{old}.jpg").rename(folder / "JPEGImages" / f"{new}.jpg")


def test_names_with_spaces_and_lists_of_one_class(shapes, tmp_path):
    shapes.write_voc(tmp_path, {"train": 4})
    rename(tmp_path, "train001", "a cat 1")
    lines = ["train000  1", "a cat 1 -1", "train002\t0", "train003 -1"]
    (tmp_path / "ImageSets/Main/cat_train.txt").write_text("\ufeff" + "\r\n".join(lines))
    data = open_detection_dataset(f"voc:{tmp_path}#cat_train", "train")
    assert list(data.images.ids) == ["train000", "a cat 1", "train002", "train003"]
    assert "4 lines of " in data.notes[0] and data.notes[0].endswith("all images of the list are used.")
    assert check_training_set(data, masks=False)[1].sentences("train")[-1] == f"train: {data.notes[0]}"
    (tmp_path / "ImageSets/Main/cat_train.txt").write_text("a cat 1\n\n")
    assert list(open_detection_dataset(f"voc:{tmp_path}#cat_train", "train").images.ids) == ["a cat 1"]


@pytest.mark.parametrize("line", ["train000 2", "train000 1 1", "train000.jpg", "Train000"])
def test_lists_of_something_else_are_rejected(shapes, tmp_path, line):
    shapes.write_voc(tmp_path, {"train": 1})
    (tmp_path / "ImageSets/Main/train.txt").write_text(line)
    with pytest.raises(DataError, match=r"train.txt lists 1 image without an annotation file .*one name per line"):
        open_detection_dataset(str(tmp_path), "train")


@pytest.mark.parametrize("ending", [".png", ".PNG", ".webp", ".tif", ".jp2", ".Jfif", ".dat", ""])
def test_images_of_other_endings(shapes, tmp_path, ending):
    """By content where the ending is none of an image."""
    shapes.write_voc(tmp_path, {"train": 2})
    image = tmp_path / "JPEGImages" / "train000.jpg"
    kind = "JPEG" if ending in (".Jfif", ".dat", "") else None
    Image.open(image).save(image.with_suffix(ending), format=kind)
    (tmp_path / "JPEGImages" / "train000.txt").touch()
    image.unlink()
    data = open_detection_dataset(str(tmp_path), "train")
    assert [image.path.name for image in data.images] == [f"train000{ending}", "train001.jpg"]


def test_several_images_of_one_name(shapes, tmp_path):
    shapes.write_voc(tmp_path, {"train": 1})
    image = tmp_path / "JPEGImages" / "train000.jpg"
    for ending in (".png", ".bmp"):
        Image.open(image).save(image.with_suffix(ending))
    assert open_detection_dataset(str(tmp_path), "train").images[0].path == image
    image.unlink()
    with pytest.raises(DataError, match=r"has several images of the name train000 \(train000.bmp, train000.png\)"):
        open_detection_dataset(str(tmp_path), "train")


def test_images_without_annotations_are_noted_if_there_are_no_lists(shapes, tmp_path):
    shapes.write_voc(tmp_path, {"train": 2})
    (tmp_path / "ImageSets/Main/train.txt").unlink()
    (tmp_path / "ImageSets/Main").rmdir()
    (tmp_path / "Annotations/train001.xml").unlink()
    data = open_detection_dataset(str(tmp_path), "train")
    assert len(data.images) == 1
    assert data.notes == ("1 image without an annotation file, left out (train001).",)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("</bndbox>", "</bndbox><bndbox/>", "object 1 of .* has 2 elements <bndbox>; expected one"),
        ("</name>", "</name><name>dog</name>", "object 1 of .* has 2 elements <name>; expected one"),
        ("<difficult>0", "<difficult>1</difficult><difficult>0", "object 1 of .* has 2 elements <difficult>"),
        ("</size>", "</size><size/>", r"train000.xml has 2 elements <size>; expected one"),
        ("</xmin>", "</xmin><xmin>7</xmin>", "object 1 of .* has 2 elements <xmin>"),
        ("<name>cat</name>", "", "object 1 of .* has no <name>; expected that of its class"),
        ("bndbox>", "robndbox>", "object 1 of .* has no <bndbox>; expected one with <xmin>"),
    ],
)
def test_elements_that_are_missing_or_repeated(opened, old, new, message):
    with pytest.raises(DataError, match=message):
        opened(("cat", 5, 5, 60, 60), change=lambda text: text.replace(old, new))


def test_white_space_within_a_class_name_is_one_space(opened):
    data = opened(("big cat", 5, 5, 60, 60), ("big\n    cat ", 80, 80, 99, 99))
    assert data.classes == ("big cat",)


@pytest.mark.parametrize("encoding", ["gb2312", "shift_jis", "latin-1", "utf-16", "UTF-8", "cp1252"])
def test_declared_encodings(opened, encoding, tmp_path):
    opened(("cat", 5, 5, 60, 60))
    file = tmp_path / "Annotations" / "train000.xml"
    name = "猫" if encoding in ("gb2312", "shift_jis", "utf-16", "UTF-8") else "café"
    text = f'<?xml version="1.0" encoding="{encoding}"?>\n{file.read_text().replace("cat", name)}'
    file.write_bytes(text.encode(encoding))
    assert open_detection_dataset(str(tmp_path), "train").classes == (name,)


def test_an_unknown_encoding_is_an_error(opened):
    with pytest.raises(DataError, match=r"train000.xml is not valid XML \(unknown encoding: klingon\)"):
        opened(("cat", 5, 5, 60, 60), change=lambda text: f'<?xml version="1.0" encoding="klingon"?>{text}')


def test_a_folder_of_lists_without_a_list_is_as_none(opened, tmp_path):
    opened(("cat", 5, 5, 60, 60))
    (tmp_path / "ImageSets" / "Main" / "train.txt").unlink()
    assert len(open_detection_dataset(str(tmp_path), "train").images) == 1


def test_a_list_in_another_encoding_says_so(opened, tmp_path):
    opened(("cat", 5, 5, 60, 60))
    (tmp_path / "ImageSets" / "Main" / "mine.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(DataError, match=r"mine.txt cannot be read \(it is not text in UTF-8\); available: mine, train"):
        open_detection_dataset(f"voc:{tmp_path}#mine", "train")
