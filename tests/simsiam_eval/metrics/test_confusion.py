import numpy as np
import pytest
from hypothesis import given, strategies as some
from sklearn.metrics import confusion_matrix as sklearn_matrix

from simsiam_eval.metrics.confusion import confusion_matrix, per_class_accuracy

PAIRS = some.lists(some.tuples(some.integers(0, 4), some.integers(0, 4)), min_size=1, max_size=40)


@given(PAIRS)
def test_every_pair_is_counted_once_in_its_place(pairs):
    labels, guesses = np.array(pairs).T
    expected = [[sum(pair == (i, j) for pair in pairs) for j in range(5)] for i in range(5)]
    matrix = confusion_matrix(labels, guesses, 5)
    assert matrix.tolist() == expected
    assert np.array_equal(matrix, sklearn_matrix(labels, guesses, labels=range(5)))
    found = per_class_accuracy(matrix)
    for label in range(5):
        own = [guess == label for one, guess in pairs if one == label]
        assert found[label] == pytest.approx(np.mean(own)) if own else np.isnan(found[label])
