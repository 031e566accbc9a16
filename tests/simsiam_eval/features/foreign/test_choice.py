"""Features, labels and ids are the arrays that are named, or the only ones that can be; otherwise the user is asked."""

import numpy as np
import pytest

from simsiam_eval.errors import DataError
from simsiam_eval.features.foreign.arrays import sliced_array, text_array
from simsiam_eval.features.foreign.choice import ID_NAMES, LABEL_NAMES, choose_column, choose_features


def arrays(**shapes):
    return [sliced_array(name, np.zeros(shape, np.float32)) for name, shape in shapes.items()]


@pytest.mark.parametrize(
    ("found", "key", "chosen"),
    [
        (arrays(**{"": (5, 2)}), None, ""),
        (arrays(features=(5, 2), logits=(5, 9)), None, "features"),
        (arrays(**{"train/X": (5, 2), "y": (5,)}), None, "train/X"),
        (arrays(**{"emb_*": (5, 2), "pixel*": (5, 9)}), None, "emb_*"),
        (arrays(hidden=(5, 2), y=(5,)), None, "hidden"),
        (arrays(a=(5, 2), b=(5, 2)), "b", "b"),
        (arrays(**{"a_*": (5, 2), "b_*": (5, 2)}), "a_", "a_*"),
    ],
)
def test_features(found, key, chosen):
    assert choose_features(found, key, "f").name == chosen


@pytest.mark.parametrize(
    ("found", "key", "says"),
    [
        (arrays(a=(5, 2), b=(5, 2)), None, r"several arrays .* \(a \(5, 2\) float32, b .*--features-key"),
        (arrays(features=(5, 2), embeddings=(5, 2)), None, "several arrays"),
        (arrays(a=(5,)), None, r"no features \(N, D\); it has a \(5,\) float32"),
        ([], None, "it has no arrays"),
        (arrays(a=(5, 2)), "b", "has no array 'b'"),
    ],
)
def test_features_that_are_ambiguous_or_missing(found, key, says):
    with pytest.raises(DataError, match=says):
        choose_features(found, key, "f")


def test_labels_and_ids_are_recognized_by_name():
    found = [text_array("filename", ["a"]), text_array("caption", ["b"]), text_array("Label", ["c"])]
    assert choose_column(found, LABEL_NAMES, None, "--labels-key", "f").name == "Label"
    assert choose_column(found, ID_NAMES, None, "--ids-key", "f").name == "filename"
    assert choose_column(found, ID_NAMES, "caption", "--ids-key", "f").name == "caption"
    assert choose_column(found, ID_NAMES, "none", "--ids-key", "f") is None
    assert choose_column(found[1:2], ID_NAMES, None, "--ids-key", "f") is None


def test_labels_that_are_ambiguous_or_one_hot():
    with pytest.raises(DataError, match="choose one with --labels-key, or none"):
        choose_column(arrays(label=(5,), target=(5,)), LABEL_NAMES, None, "--labels-key", "f")
    with pytest.raises(DataError, match="argmax"):
        choose_column(arrays(labels=(5, 3)), LABEL_NAMES, None, "--labels-key", "f")
    assert choose_column(arrays(labels=(5, 1)), LABEL_NAMES, None, "--labels-key", "f").name == "labels"
