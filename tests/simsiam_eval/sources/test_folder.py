"""Folders of images."""

import os

import pytest
from PIL import Image

from simsiam_eval.errors import DataError
from simsiam_eval.images.opened import UnreadableImage
from simsiam_eval.sources.opening import open_source


def test_rows_are_sorted_and_labeled_by_folder(classes):
    source = open_source(f"folder:{classes}")
    assert [source.id(row) for row in range(3)] == ["cat/a.png", "cat/deep/c.PNG", "dog/b.png"]
    assert source.labels.tolist() == [0, 0, 1]
    assert source.class_names == ("cat", "dog")
    assert source.image(2).pixels().max() == 0


def test_flat_folder_has_no_labels(classes):
    source = open_source(str(classes / "dog"))
    assert source.labels.tolist() == [-1]
    assert source.class_names is None


def test_rejected_folders(classes, tmp_path, write_image):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images"):
        open_source(str(tmp_path / "empty"))
    (classes / "horse").mkdir()
    with pytest.raises(DataError, match="horse"):
        open_source(str(classes))
    (classes / "horse").rmdir()
    write_image(classes / "stray.png", 1)
    with pytest.raises(DataError, match="both"):
        open_source(str(classes))


def test_hidden_folders_are_ignored_and_others_are_searched(classes, write_image):
    write_image(classes / "cat/.ipynb_checkpoints/a-checkpoint.png", 1)
    write_image(classes / "cat/deep/deeper/.d.png", 1)
    write_image(classes / "cat/deep/deeper/d.png", 1)
    (classes / "cat/deep/circle").symlink_to(classes / "cat")
    source = open_source(str(classes))
    assert list(source.ids) == ["cat/a.png", "cat/deep/c.PNG", "cat/deep/deeper/d.png", "dog/b.png"]


def test_folder_name_that_is_not_utf8(tmp_path):
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    os.mkdir(folder)
    Image.new("RGB", (4, 4)).save(os.path.join(folder, "0.png"))
    assert open_source(folder).spec.endswith("caf\\udce9")


def test_fifo_is_an_unreadable_image(tmp_path, write_image):
    write_image(tmp_path / "0.png", 1)
    os.mkfifo(tmp_path / "1.png")
    source = open_source(str(tmp_path))
    source.fingerprint()
    with pytest.raises(UnreadableImage, match="not a regular file"):
        source.image(1)


def test_number_sign_in_folder_name(tmp_path):
    (tmp_path / "h#sh").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "h#sh" / "0.png")
    for spec in (f"folder:{tmp_path}/h#sh", f"{tmp_path}/h#sh"):
        assert len(open_source(spec)) == 1


def write_tree(write_image, folder, *names):
    for name in names:
        write_image(folder / name / "0.png", 1)
        write_image(folder / name / "1.png", 2)


@pytest.mark.parametrize(
    ("train", "test"), [("train", "test"), ("Train", "Test"), ("training", "testing"), ("seg_train", "seg_test")]
)
def test_split_folders(tmp_path, write_image, train, test):
    root = tmp_path / "a#b"
    write_tree(write_image, root, f"{train}/cat", f"{train}/dog", f"{test}/dog")
    folders = {name: open_source(f"folder:{root}/{name}") for name in (train, test)}
    for spec, default, name in (
        (f"folder:{root}#train", None, train),
        (f"{root}#split=training", "test", train),
        (f"{root}#{test}", None, test),
        (f"folder:{root}", "train", train),
        (str(root), "test", test),
    ):
        source = open_source(spec, default)
        assert source.spec == spec
        assert source.class_names == folders[name].class_names
        assert source.fingerprint() == folders[name].fingerprint()
    with pytest.raises(
        DataError, match=rf"has several splits \({test}, {train}\); choose one, for example .*a#b#train"
    ):
        open_source(f"folder:{root}")
    with pytest.raises(DataError, match=rf"no split 'val'; expected one of {test}, {train}"):
        open_source(f"folder:{root}#val")
    assert open_source(f"folder:{root}#split=none").class_names == (test, train)


def test_flat_split_folders_have_no_labels(tmp_path, write_image):
    write_tree(write_image, tmp_path, "train", "test")
    assert open_source(f"{tmp_path}#train").labels.tolist() == [-1, -1]
    assert open_source(str(tmp_path), "test").ids[0] == "0.png"


def test_split_folder_inside_a_folder_of_the_same_name(tmp_path, write_image):
    write_tree(write_image, tmp_path, "seg_train/seg_train/cat", "seg_train/seg_train/dog", "seg_test/seg_test/cat")
    assert open_source(f"{tmp_path}#train").class_names == ("cat", "dog")
    assert open_source(f"{tmp_path}#test").class_names == ("cat",)


def test_splits_inside_a_split_are_rejected(tmp_path, write_image):
    write_tree(
        write_image, tmp_path, *(f"{a}/{b}/{c}" for a in ("photo", "sketch") for b in ("train", "test") for c in "xy")
    )
    with pytest.raises(DataError, match=r"splits inside its 2 class folders"):
        open_source(str(tmp_path))
    write_tree(write_image, tmp_path, "train/train/x", "train/test/x", "test/x")
    with pytest.raises(DataError, match=r"train has splits \(test, train\); use folder:.*train#test"):
        open_source(f"{tmp_path}#train")


def test_split_of_folders_without_splits_is_rejected(classes):
    for folder in (classes, classes / "dog"):
        with pytest.raises(DataError, match=rf"{folder} has no splits; remove #train"):
            open_source(f"{folder}#train")


def test_class_named_like_a_split(tmp_path, write_image):
    write_tree(write_image, tmp_path, "test", "prod")
    for default in (None, "train", "test"):
        assert open_source(str(tmp_path), default).class_names == ("prod", "test")


def test_splits_inside_folders_that_are_alone(tmp_path, write_image):
    for name in ("train/cat/1.png", "train/dog/1.png", "test/cat/1.png"):
        write_image(tmp_path / "data" / "photos" / name, 1)
    with pytest.raises(
        DataError, match=r"data has several splits \(test, train\); choose one, for example .*data#train"
    ):
        open_source(tmp_path / "data")
    assert open_source(f"{tmp_path}/data#train").class_names == ("cat", "dog")


def test_splits_inside_one_of_several_folders_are_rejected(tmp_path, write_image):
    for name in ("data/train/cat/1.png", "data/test/cat/1.png", "notes/1.png"):
        write_image(tmp_path / name, 1)
    with pytest.raises(DataError, match=r"has splits \(test, train\) inside its sub-folder data"):
        open_source(tmp_path)
    assert open_source(f"{tmp_path}#split=none").class_names == ("data", "notes")
