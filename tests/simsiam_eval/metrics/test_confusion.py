import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from PIL import Image
from sklearn.metrics import confusion_matrix as sklearn_matrix

from simsiam_eval.errors import DataError
from simsiam_eval.metrics.confusion import confusion_matrix, draw_confusion, per_class_accuracy

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


@pytest.mark.parametrize("classes", [2, 34, 120])
def test_the_picture_has_a_blue_diagonal_and_red_errors(tmp_path, classes):
    matrix = np.eye(classes, dtype=np.int64) * 9
    matrix[0, 1] = 3
    names = [f"a class of a long name, number {number}" for number in range(classes)]
    draw_confusion(tmp_path / "m.png", matrix, names, "Title")
    pixels = np.asarray(Image.open(tmp_path / "m.png")).astype(int)
    red, blue = pixels[:, :, 0] - pixels[:, :, 2], pixels[:, :, 2] - pixels[:, :, 0]
    assert (blue > 40).sum() > 20 * (classes if classes < 100 else 1)
    assert (red > 40).sum() > 20


def test_a_picture_that_cannot_be_written_is_one_sentence(tmp_path):
    with pytest.raises(DataError, match="cannot be written"):
        draw_confusion(tmp_path / "no" / "m.png", np.eye(2, dtype=np.int64), ["a", "b"], "")
