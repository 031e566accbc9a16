"""Text files of paths."""

import os
import unicodedata

import numpy as np
import pytest
from PIL import Image

from simsiam_eval.errors import DataError
from simsiam_eval.images.opened import UnreadableImage
from simsiam_eval.sources.opening import open_source


@pytest.fixture
def folder(tmp_path):
    for value, name in enumerate(["a.png", "b c.png", "#d.png"]):
        Image.new("L", (2, 2), value).save(tmp_path / name)
    return tmp_path


def written(folder, text):
    (folder / "list.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    return open_source(str(folder / "list.txt"))


def test_paths_with_comments_and_empty_lines(folder):
    source = written(folder, f"\ufeff# two images\r\nb c.png\r\n\r\n{folder}/a.png\n./#d.png\ngone.png")
    assert source.ids_of(range(4)) == ["b c.png", f"{folder}/a.png", "./#d.png", "gone.png"]
    assert [int(np.asarray(source.image(row)).max()) for row in range(3)] == [1, 0, 2]
    assert source.labels.tolist() == [-1] * 4
    assert source.class_names is None
    with pytest.raises(UnreadableImage, match="no such file"):
        source.image(3)


@pytest.mark.parametrize(
    ("text", "labels", "names"),
    [
        ("a.png\tdog\nb c.png\tcat\n", [1, 0], ("cat", "dog")),
        ("a.png\t3\nb c.png\n", [3, -1], None),
        ("a.png 3\nb c.png 0\n", [3, 0], None),  # Caffe's lists
        ("a.png\tbig dog \nb c.png \t \n", [0, -1], ("big dog",)),
    ],
)
def test_labels(folder, text, labels, names):
    source = written(folder, text)
    assert (source.labels.tolist(), source.class_names) == (labels, names)
    assert source.id(0) == "a.png"


def test_labels_that_are_not_utf8_are_rejected(folder):
    with pytest.raises(DataError, match=r"label in line 1 of .*list\.txt contains b'caf\\xe9', which is not UTF-8"):
        written(folder, b"a.png\tcaf\xe9\n")


def test_joined_lists_and_lists_without_a_mark(folder):
    assert written(folder, "\ufeffa.png\tx\n\ufeffb c.png\ty\n").ids_of(range(2)) == ["a.png", "b c.png"]
    assert written(folder, "a.png\tx\n".encode("utf-16-le")).class_names == ("x",)


def test_names_that_are_not_utf8(folder):
    os.rename(folder / "a.png", os.fsencode(folder) + b"/\xe9.png")
    source = written(folder, b"\xe9.png\n")
    assert source.id(0) == "\\udce9.png"
    assert source.image(0).pixels().shape == (2, 2, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no paths"),
        ("# nothing\n\n", "no paths"),
        ("a.png\n\tdog\n", "line 2: the path is empty"),
        (b"\x89PNG\r\n\x1a\n\0\0", "not text"),
        ("x.png\ny.png\n", r"None of the first 2 images .*x\.png.*relative"),
    ],
)
def test_rejected_lists(folder, text, message):
    with pytest.raises(DataError, match=message):
        written(folder, text)


def test_a_space_separates_any_number(folder):
    source = written(folder, "a.png -1\nb c.png 2.0\na.png nan\n./#d.png 0")
    assert (source.ids_of(range(4)), source.labels.tolist()) == (
        ["a.png", "b c.png", "a.png", "./#d.png"],
        [-1, 2, -1, 0],
    )
    with pytest.raises(DataError, match="the label -2; expected whole numbers"):
        written(folder, "a.png -2\nb c.png 1")


@pytest.mark.parametrize("separator", [" ", ",", ";"])
def test_another_separator_than_a_tab_is_said(folder, separator):
    with pytest.raises(DataError, match=r"has no image .*; if 'cat' is a label, separate it from the path with a tab"):
        written(folder, f"a.png{separator}cat\nb c.png{separator}dog")


@pytest.mark.parametrize(("on_disk", "written_as"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_in_another_unicode_form_are_hinted_at(folder, on_disk, written_as):
    name = "caf\u00e9.png"
    os.rename(folder / "a.png", folder / unicodedata.normalize(on_disk, name))
    missing = unicodedata.normalize(written_as, name)
    hint = f"differs only in Unicode form does; write it in the form {on_disk}, or rename it"
    with pytest.raises(DataError, match=hint):
        written(folder, f"{missing}\n")
    with pytest.raises(DataError, match=hint):
        open_source(folder / missing)
    with pytest.raises(UnreadableImage, match=hint):
        written(folder, f"b c.png\n{missing}\n").image(1)


def test_paths_in_folders_of_splits_are_said(tmp_path):
    for split in ("train", "test"):
        (tmp_path / "data" / split / "cat").mkdir(parents=True)
        Image.new("L", (2, 2)).save(tmp_path / "data" / split / "cat" / "a.png")
    source = written(tmp_path, "data/train/cat/a.png\tcat\ndata/test/cat/a.png\tcat\n")
    assert source.notes == [
        "the paths lie in the folders test and train, which are read together; if these are splits, give a list of each, "
        "or a table with the column split"
    ]
    assert written(tmp_path, "data/train/cat/a.png\n").notes == []
    (tmp_path / "list.csv").write_text("path,split\ndata/train/cat/a.png,train\ndata/test/cat/a.png,test\n")
    assert open_source(f"{tmp_path}/list.csv#train").notes == []
    assert open_source(f"{tmp_path}/list.csv#split=none").notes == []
