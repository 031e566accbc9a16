"""Features: their rows as NumPy indexes them, their repr, and the class names of another set."""

import numpy as np
import pytest

from simsiam_eval.errors import DataError
from simsiam_eval.features.class_names import in_numbering_of
from simsiam_eval.features.reader import open_features
from simsiam_eval.features.table import Features


def features_of(labels, class_names=None):
    count = len(labels)
    return Features(
        features=np.arange(2 * count, dtype=np.float32).reshape(count, 2),
        labels=np.asarray(labels, dtype=np.int64),
        ids=np.array([f"image {row}" for row in range(count)]),
        rows=np.arange(count),
        width=2,
        attributes={"source": {"spec": "made", "class_names": class_names}},
        columns={},
    )


@pytest.mark.parametrize(
    "rows",
    [[2, 0], (1,), slice(1, None), slice(None, None, -1), [-1], [True, False, True, False], [], np.array([3, 3])],
)
def test_a_subset_is_what_numpys_indexing_gives(rows):
    features = features_of([4, 5, 6, 7])
    index = rows if isinstance(rows, slice) else np.asarray(rows, dtype=None if len(rows) else int)
    subset = features.subset(rows)
    assert np.array_equal(subset.X, features.X[index])
    assert subset.y.tolist() == features.y[index].tolist()
    assert subset.ids.tolist() == features.ids[index].tolist()


def test_a_subset_of_rows_on_the_disk_stays_there(pipeline):
    features = open_features(pipeline / "test.h5")
    subset = features.subset(slice(10, 2, -3))
    assert np.array_equal(subset.X[:], features.X[10:2:-3])
    assert repr(subset.X) == "FeatureRows(3 x 512 from test.h5)"


@pytest.mark.parametrize("rows", [[4], [True, False]])
def test_rows_that_do_not_exist_are_rejected(rows):
    with pytest.raises(IndexError):
        features_of([4, 5, 6, 7]).subset(rows)


def test_the_repr_is_one_line(pipeline):
    assert repr(open_features(pipeline / "test.h5")) == "Features(600 x 512 from test.h5, 10 classes)"
    assert repr(features_of([0, 0], ["cat"])) == "Features(2 x 2 from made, 1 class)"
    assert repr(features_of([-1, -1])) == "Features(2 x 2 from made, no classes)"


def test_class_names_are_those_that_the_labels_index():
    train, test = features_of([0, 1, 2], ["cat", "dog", "fox"]), features_of([1, 0], ["dog", "fox"])
    matched = in_numbering_of(train, test)
    assert [matched.class_names[label] for label in matched.y] == ["fox", "dog"]
    assert matched.attributes["source"]["class_names"] == ["cat", "dog", "fox"]
    assert test.class_names == ["dog", "fox"]
    unknown = features_of([1, 0], ["emu", "fox"])
    matched = in_numbering_of(train, unknown, missing_is_error=False)
    assert [matched.class_names[label] for label in matched.y] == ["fox", "emu"]
    with pytest.raises(DataError, match="emu"):
        in_numbering_of(train, unknown)
