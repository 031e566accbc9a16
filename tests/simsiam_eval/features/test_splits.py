import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from simsiam_eval.errors import DataError
from simsiam_eval.features.splits import fraction_of, hold_out, shots_of

LABELS = some.lists(some.integers(0, 6), min_size=1, max_size=60).map(np.array)
SEEDS = some.integers(0, 2**32 - 1)


def counts(labels, rows):
    return {label: sum(labels[row] == label for row in rows) for label in set(labels.tolist())}


@given(LABELS, some.floats(0.01, 0.99), SEEDS)
def test_both_sides_of_a_split_have_every_class_in_its_proportion(labels, share, seed):
    n = counts(labels, range(len(labels)))
    if max(n.values()) < 2:
        with pytest.raises(DataError, match="No class has two training images"):
            hold_out(labels, share, seed)
        return
    kept, held = hold_out(labels, share, seed)
    assert sorted([*kept, *held]) == list(range(len(labels)))
    assert kept.tolist() == sorted(kept) and held.tolist() == sorted(held)
    for label, there in n.items():
        asked = min(max(round(share * there), 1), there - 1)
        assert counts(labels, held)[label] == asked
    again = hold_out(labels, share, seed)
    assert np.array_equal(held, again[1])


@given(LABELS, some.integers(1, 8), SEEDS)
def test_shots_are_so_many_of_every_class(labels, shots, seed):
    n = counts(labels, range(len(labels)))
    if min(n.values()) < shots:
        with pytest.raises(DataError, match=f"--shots {shots} are more"):
            shots_of(labels, shots, seed)
        return
    rows = shots_of(labels, shots, seed)
    assert len(set(rows.tolist())) == len(rows)
    assert set(counts(labels, rows).values()) == {shots}


@given(LABELS, some.floats(0.01, 1), SEEDS)
def test_a_fraction_is_of_every_class(labels, fraction, seed):
    wanted = {label: round(fraction * there) for label, there in counts(labels, range(len(labels))).items()}
    if min(wanted.values()) < 1:
        with pytest.raises(DataError, match="leaves no image of class"):
            fraction_of(labels, fraction, seed)
        return
    rows = fraction_of(labels, fraction, seed)
    assert len(set(rows.tolist())) == len(rows)
    assert counts(labels, rows) == wanted


def test_other_seeds_draw_other_rows_and_errors_name_the_class():
    labels = np.repeat([0, 1], 50)
    drawn = {tuple(shots_of(labels, 3, seed)) for seed in range(5)}
    assert len(drawn) == 5
    with pytest.raises(DataError, match="of class dog, which has 50"):
        fraction_of(np.repeat([0, 1], [5000, 50]), 0.001, 0, ("cat", "dog"))
