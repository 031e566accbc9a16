"""Labels of any form become class numbers, and class names come from the labels or a file."""

import json

import numpy as np
import pytest

from simsiam_eval.errors import DataError
from simsiam_eval.features.foreign.arrays import sliced_array, text_array
from simsiam_eval.features.foreign.labels import (
    RowLabels,
    folder_labels,
    labels_by_id,
    read_class_names,
    row_labels,
)

NAMES = ["dog", "cat", "owl"]


@pytest.mark.parametrize(
    ("values", "names", "labels", "class_names"),
    [
        ([2, 0, -1], None, [2, 0, -1], None),
        ([2.0, np.nan, 1.0], None, [2, -1, 1], None),
        ([1, 0], NAMES, [1, 0], NAMES),
        (["dog", "cat", None, "", "nan"], None, [1, 0, -1, -1, -1], ["cat", "dog"]),
        (["dog", "cat"], NAMES, [0, 1], NAMES),
        (["10", "2", "-1"], None, [10, 2, -1], None),
        (["2.0", "0.0", "nan"], None, [2, 0, -1], None),
        (["2", "0"], NAMES, [2, 0], NAMES),
        (["1", "3"], ["3", "1"], [1, 0], ["3", "1"]),
        ([None, None], None, [-1, -1], None),
    ],
)
def test_labels(values, names, labels, class_names):
    text = any(isinstance(value, str | None) for value in values)
    array = text_array("y", values) if text else sliced_array("y", np.array(values))
    found = row_labels(array, names, "f")
    assert (found.labels.tolist(), found.class_names) == (labels, class_names)


@pytest.mark.parametrize(
    ("values", "names", "says"),
    [
        ([0.5], None, "label 0.5; expected whole numbers"),
        ([-3], None, "label -3"),
        ([3], NAMES, "label 3, but there are only 3 class names"),
        (["bee", "ant"], NAMES, r"class 'ant', which is not among the class names \(2 such names\)"),
    ],
)
def test_wrong_labels(values, names, says):
    array = text_array("y", values) if isinstance(values[0], str) else sliced_array("y", np.array(values))
    with pytest.raises(DataError, match=says):
        row_labels(array, names, "f")


def test_labels_from_folders():
    found = folder_labels(["x/owl/1.jpg", "x/cat/2.jpg"], None)
    assert (found.labels.tolist(), found.class_names) == ([1, 0], ["cat", "owl"])
    with pytest.raises(DataError, match=r"Row 1 has the id '2.jpg', which contains no folder"):
        folder_labels(["owl/1.jpg", "2.jpg"], None)


def test_labels_by_id():
    labels = RowLabels(np.array([4, 5, 4]), None)
    found, missing = labels_by_id(["c", "a", "q"], ["a", "b", "c"], labels, "f")
    assert (found.labels.tolist(), missing) == ([4, 4, -1], 1)
    with pytest.raises(DataError, match="two different labels for a"):
        labels_by_id(["a"], ["a", "a", "b"], labels, "f")
    with pytest.raises(DataError, match="no label for any id"):
        labels_by_id(["q"], ["a", "b", "c"], labels, "f")


def test_class_names_of_text_and_json(tmp_path):
    for name, text in (
        ("a.txt", "cat\ncrane\ncrane\n"),
        ("a.json", json.dumps(["cat", "crane", "crane"])),
        ("b.json", json.dumps({"0": "cat", "2": "crane", "1": "crane"})),
    ):
        (tmp_path / name).write_text(text)
        assert read_class_names(tmp_path / name) == ["cat", "crane (1)", "crane (2)"]


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"1": "cat"}', "[", '"cat"'])
def test_class_names_of_another_form(text, tmp_path):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=r"a\.json is not"):
        read_class_names(tmp_path / "a.json")
