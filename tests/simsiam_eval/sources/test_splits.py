"""Names of splits, and whether sub-folders are splits or classes."""

import pytest

from simsiam_eval.errors import DataError, UsageError
from simsiam_eval.sources.splits import (
    Layout,
    choose_folder,
    choose_split,
    folder_layout,
    reject_splits_inside,
    split_of,
    train_or_test,
)

CLASSES = {"cat", "dog"}


@pytest.mark.parametrize(
    ("split", "names"),
    [
        ("train", ["train", "Train", "TRAINING", "trainset"]),
        ("val", ["val", "valid", "Validation", "dev"]),
        ("test", ["test", "Testing", "eval", "evaluation", "TestSet"]),
        (None, ["", "trains", "seg_train", "invalid", "prod"]),
    ],
)
def test_names_of_splits(split, names):
    assert [split_of(name) for name in names] == [split] * len(names)


SPLITS = [
    {"train": CLASSES, "test": CLASSES},
    {"Train": CLASSES, "Test": CLASSES},
    {"training": CLASSES, "testing": CLASSES},
    {"train": CLASSES, "dev": {"cat"}},
    {"train": CLASSES, "test": set()},
    {"train": set(), "test": set()},
    {"train": CLASSES},
    {"train": CLASSES, "test": CLASSES, "extra": CLASSES},
    {"seg_train": CLASSES, "seg_test": CLASSES, "seg_pred": CLASSES},
    {"train2017": CLASSES, "val2017": CLASSES},
    {"x_train_1": set(), "x_test_2": set()},
]


@pytest.mark.parametrize("tree", SPLITS)
def test_folders_that_are_splits(tree):
    layout = folder_layout(list(tree), tree.__getitem__)
    assert layout.splits == tuple(tree)
    assert not layout.unclear


@pytest.mark.parametrize(
    ("tree", "splits"),
    [
        ({"train": CLASSES, "test": CLASSES, "notes": set()}, ("train", "test")),
        ({"train": CLASSES, "test": CLASSES, "archive": {"train", "test"}}, ("train", "test")),
        ({"train": CLASSES, "val": CLASSES, "notes": {"cat"}}, ("train", "val")),
    ],
)
def test_other_folders_beside_splits_are_ignored(tree, splits):
    layout = folder_layout(list(tree), tree.__getitem__)
    assert (layout.splits, layout.unclear) == (splits, False)


@pytest.mark.parametrize(
    "tree",
    [
        {"cat": set(), "dog": set()},
        {"cat": {"left", "right"}, "dog": set()},
        {"cat": {"images"}, "dog": {"images"}},  # Tiny ImageNet
        {"animals": {"cat", "dog", "more"}, "plants": {"tree", "fern", "more"}},
        {"animals": {"cat", "dog", "more", "rest"}, "plants": {"tree", "fern", "more", "rest"}},
        {"test": set(), "prod": set()},
        {"test": {"unit", "full"}, "prod": {"east", "west"}},
        {"train": set(), "car": set(), "bus": set()},
        {"train": {"images"}, "car": {"images"}},
        {"train_station": set(), "test_tube": set()},
        {"valid": set(), "invalid": set()},
        {"only": CLASSES},
        {"only": set()},
    ],
)
def test_folders_that_are_classes(tree):
    assert folder_layout(list(tree), tree.__getitem__).splits == ()
    assert choose_folder(list(tree), tree.__getitem__, None, "train", "folder:photos") is None


@pytest.mark.parametrize(
    ("tree", "splits"),
    [
        ({"train": CLASSES, "unlabeled": CLASSES}, ("train", "unlabeled")),
        ({"train": CLASSES, "unlabeled": set()}, ("train", "unlabeled")),
        ({"photo": CLASSES, "sketch": CLASSES}, ("photo", "sketch")),
        ({"train": set(), "test": set(), "prod": set()}, ("train", "test")),
    ],
)
def test_unclear_folders_must_be_chosen(tree, splits):
    names = list(tree)
    layout = folder_layout(names, tree.__getitem__)
    assert (layout.splits, layout.unclear) == (splits, True)
    message = rf"two ways: as splits \({', '.join(splits)}\) or as {len(names)} classes.*photos#{splits[0]}, or"
    for default in (None, "train"):
        with pytest.raises(DataError, match=message):
            choose_folder(names, tree.__getitem__, None, default, "photos")
    assert choose_folder(names, tree.__getitem__, splits[0], None, f"photos#{splits[0]}") == splits[0]
    assert choose_folder(names, tree.__getitem__, "none", None, "photos#split=none") is None


def test_classes_have_no_split_to_choose():
    with pytest.raises(DataError, match=r"folder:photos has no splits; remove #train\."):
        choose_folder(["cat", "dog"], lambda name: set(), "train", None, "folder:photos#train")


def test_splits_inside_classes_are_rejected():
    tree = {"cat": {"train", "test"}, "dog": {"train"}}
    with pytest.raises(DataError, match=r"splits inside its 2 class folders \(cat/test, \.\.\.\).*#split=none"):
        choose_folder(["cat", "dog"], tree.__getitem__, "train", None, "photos#train")
    with pytest.raises(DataError, match=r"photos: the splits \(test, train\) are inside cat; add it to the path"):
        choose_folder(["cat"], tree.__getitem__, None, None, "photos")
    assert choose_folder(["cat", "dog"], tree.__getitem__, "none", None, "photos#split=none") is None


def test_named_split_is_chosen_among_classes():
    """Whoever writes #train means that folder, whatever lies beside it."""
    tree = {"train": set(), "car": set()}
    assert choose_folder(list(tree), tree.__getitem__, "train", None, "photos#train") == "train"


def test_few_folders_are_read_where_classes_are_flat():
    calls = []
    folder_layout([f"class{number}" for number in range(1000)], lambda name: calls.append(name) or set())
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("names", "asked", "chosen"),
    [
        (["train", "validation"], "val", "validation"),
        (["Training", "Testing"], "train", "Training"),
        (["training", "train"], "train", "train"),
        (["Train", "train_small"], "training", "Train"),
        (["seg_train", "seg_test"], "test", "seg_test"),
        (["train_small", "train"], "train_small", "train_small"),
        (["test", "eval"], "eval", "eval"),
        (["photo", "sketch"], "Sketch", "sketch"),
        (["train"], None, "train"),
        ([], None, None),
        ([], "none", None),
        (["train", "test"], "none", None),
    ],
)
def test_chosen_split(names, asked, chosen):
    assert choose_split(names, asked, None, "spec") == chosen


def test_default_split_is_used_where_none_is_named():
    assert choose_split(["train", "validation"], None, "train", "spec") == "train"
    assert choose_split(["train", "validation"], "val", "train", "spec") == "validation"
    assert choose_split([], None, "test", "spec") is None


@pytest.mark.parametrize(
    ("names", "asked", "default", "message"),
    [
        (
            ["train", "val"],
            None,
            None,
            r"a\.tar has several splits \(train, val\); choose one, for example a\.tar#train",
        ),
        (["b", "a"], None, None, r"several splits \(a, b\); choose one, for example a\.tar#a"),
        (["train", "val"], None, "test", "has no split 'test'; expected one of train, val"),
        (["train"], None, "test", "has no split 'test'; expected one of train"),  # training images are no test set
        ([], "val", None, "a.tar has no splits; remove #val"),
        (["train_1", "train_2"], "train", None, "several splits for 'train'; choose one of train_1, train_2"),
    ],
)
def test_splits_that_cannot_be_chosen(names, asked, default, message):
    with pytest.raises(DataError, match=message):
        choose_split(names, asked, default, "a.tar#x")


def test_train_or_test():
    assert [train_or_test(name, "digits") for name in ("Training", "eval", None)] == ["train", "test", None]
    for name in ("val", "x", "none"):
        with pytest.raises(UsageError, match=f"digits: the split must be train or test, got '{name}'"):
            train_or_test(name, "digits")


@pytest.mark.parametrize(
    ("names", "splits", "unclear"),
    [
        (["trainA", "trainB", "testA", "testB"], ["trainA", "trainB", "testA", "testB"], False),
        (["TrainImages", "TestImages"], ["TrainImages", "TestImages"], False),
        (["traindata", "testdata"], ["traindata", "testdata"], False),
        (["CatsTrain", "CatsTest"], ["CatsTrain", "CatsTest"], False),
        (["trn", "tst"], ["trn", "tst"], False),
        (["Training Set"], ["Training Set"], False),
        (["train2017"], ["train2017"], False),
        (["train", "test", "extra"], ["train", "test", "extra"], False),
        (["train", "unlabeled"], ["train", "unlabeled"], True),
        (["test", "trainval"], ["test", "trainval"], True),
        (["train", "gallery", "query"], ["train", "gallery", "query"], True),
        (["fold1", "fold2"], ["fold1", "fold2"], True),
        (["train", "plane", "car"], [], False),
        (["trainer", "tester"], [], False),
        (["test1", "test2"], [], False),
        (["gallery", "query"], [], False),
    ],
)
def test_folders_without_classes(names, splits, unclear):
    layout = folder_layout(names, lambda name: set())
    assert (sorted(layout.splits), layout.unclear) == (sorted(splits), unclear)


def test_one_class_in_a_split_beside_the_others():
    layout = folder_layout(["train", "holdout"], lambda name: {"cat"})
    assert layout == Layout(("train", "holdout"), unclear=True)
    assert folder_layout(["train", "plane"], lambda name: {"day"}) == Layout()


def test_splits_inside_one_sub_folder_are_rejected():
    reject_splits_inside("vehicles", ["train", "car"], "photos")
    with pytest.raises(
        DataError, match=r"photos has splits \(test, train\) inside its sub-folder data; give photos/data"
    ):
        reject_splits_inside("data", ["train", "test", "notes"], "photos")
