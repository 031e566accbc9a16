"""Text labels turned into numbers."""

import pytest

from simsiam_eval.sources.labels import Labels


@pytest.mark.parametrize(
    ("texts", "numbers", "names"),
    [
        (["7", "", "0", "-1"], [7, -1, 0, -1], None),
        (["b", "a", "", "b"], [1, 0, -1, 1], ["a", "b"]),
        (["1", "x"], [0, 1], ["1", "x"]),
        (["10" * 20], [0], ["10" * 20]),  # no int64 holds it
        (["", ""], [-1, -1], None),
        ([], [], None),
    ],
)
def test_integers_are_kept_and_names_are_numbered(texts, numbers, names):
    labels = Labels()
    labels.extend(texts[:1])
    labels.extend(texts[1:])
    numbered, class_names = labels.numbered("a.csv")
    assert (numbered.tolist(), class_names) == (numbers, names)
