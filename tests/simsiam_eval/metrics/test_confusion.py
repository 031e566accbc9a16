import numpy as np
import pytest
from hypothesis import given, strategies as some
from sklearn.metrics import confusion_matrix as sklearn_matrix

from simsiam_eval.metrics.confusion import Confusion

PAIRS = some.lists(some.tuples(some.integers(0, 4), some.integers(0, 4)), min_size=1, max_size=40)


@given(PAIRS)
def test_every_pair_is_counted_once_in_its_place(pairs):
    labels, guesses = np.array(pairs).T
    expected = [[sum(pair == (i, j) for pair in pairs) for j in range(5)] for i in range(5)]
    confusion = Confusion(labels, guesses, "abcde")
    matrix = confusion.matrix()
    assert matrix.tolist() == expected
    assert np.array_equal(matrix, sklearn_matrix(labels, guesses, labels=range(5)))
    found = confusion.accuracies
    for label in range(5):
        own = [guess == label for one, guess in pairs if one == label]
        assert found[label] == pytest.approx(np.mean(own)) if own else np.isnan(found[label])
    part = np.array([1, 4])
    assert np.array_equal(confusion.matrix(part), matrix[np.ix_(part, part)])
    assert confusion.totals.tolist() == matrix.sum(axis=1).tolist() and confusion.images == len(pairs)


def test_the_worst_classes_and_pairs_of_many():
    classes = 10**6  # of which a matrix would be 8 TB
    labels = np.array([5, 5, 5, 9, 9, 7, 999_999])
    confusion = Confusion(labels, np.array([5, 6, 6, 8, 9, 7, 5]), range(classes))
    assert confusion.worst_pairs() == [
        {"true": 5, "predicted": 6, "images": 2},
        {"true": 9, "predicted": 8, "images": 1},
        {"true": 999_999, "predicted": 5, "images": 1},
    ]
    assert list(confusion.worst_classes().items()) == [(999_999, 0), (5, pytest.approx(1 / 3)), (9, 0.5), (7, 1)]
    assert confusion.classes_of_worst_pairs(3).tolist() == [5, 6, 9]
    assert confusion.matrix(np.array([5, 6, 9])).tolist() == [[1, 2, 0], [0, 0, 0], [0, 0, 1]]
