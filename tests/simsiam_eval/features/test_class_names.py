"""The classes of two sets are matched by name."""

import numpy as np
import pytest

from simsiam_eval.errors import DataError
from simsiam_eval.features.class_names import distinct_names, in_numbering_of
from simsiam_eval.features.compatibility import labeled, matched_classes, same_rows
from simsiam_eval.features.table import Features

COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"


def table(labels, names=None, features=None, given="--train a"):
    labels = np.array(labels)
    return Features(
        ids=np.arange(len(labels)).astype(str),
        labels=labels,
        rows=np.arange(len(labels)),
        width=2,
        attributes={"source": {"class_names": names}},
        given=given,
        features=np.zeros((len(labels), 2), np.float32) if features is None else features,
        columns={},
    )


def test_names_in_another_unicode_form_are_equal():
    matched = in_numbering_of(table([0, 1], ["bar", COMPOSED]), table([0, 1], [DECOMPOSED, "bar"]))
    assert matched.labels.tolist() == [1, 0]
    assert distinct_names([DECOMPOSED, "bar"]) == [COMPOSED, "bar"]


@pytest.mark.parametrize(
    ("train", "test", "says"),
    [
        (table([3, 3]), table([3]), r"--train a has only one class \(3\); there is nothing to classify"),
        (table([0, 1]), table([0, 2], given="--test b"), "--train a has no image of a class of --test b: 2"),
        (table([0, 1], ["x", "y"]), table([0]), "classes cannot be matched"),
    ],
)
def test_sets_that_cannot_be_classified(train, test, says):
    with pytest.raises(DataError, match=says):
        matched_classes(train, test)


def test_a_set_without_labels():
    with pytest.raises(DataError, match="--train a has no labels"):
        labeled(table([-1, -1]))


def test_the_same_images_with_other_labels_are_the_same():
    features = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
    assert same_rows(table([0, 1, 0], features=features), table([5, -1, 5], features=features.copy()))
    assert not same_rows(table([0, 1, 0], features=features), table([0, 1, 0], features=features + 0.1))
    assert not same_rows(table([0, 1, 0], features=features), table([0, 1], features=features[:2]))
