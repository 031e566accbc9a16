import numpy as np
import pytest
from hypothesis import given, strategies

from simsiam_eval.errors import DataError
from simsiam_eval.features.splits import fraction_of, hold_out, shots_of

LABELS = strategies.lists(strategies.integers(0, 6), min_size=1, max_size=60).map(np.array)
SEEDS = strategies.integers(0, 2**32 - 1)


def counts(labels, rows):
    """Class -> number of these rows in it."""
    return {label: sum(labels[row] == label for row in rows) for label in set(labels.tolist())}


@given(LABELS, strategies.floats(0.01, 0.99), SEEDS)
def test_hold_out_is_stratified(labels, share, seed):
    class_sizes = counts(labels, range(len(labels)))
    if max(class_sizes.values()) < 2:
        with pytest.raises(DataError, match="No class has two training images"):
            hold_out(labels, share, seed)
        return
    kept, held = hold_out(labels, share, seed)
    assert sorted([*kept, *held]) == list(range(len(labels)))
    assert kept.tolist() == sorted(kept) and held.tolist() == sorted(held)
    for label, size in class_sizes.items():
        assert counts(labels, held)[label] == min(max(round(share * size), 1), size - 1)
    assert np.array_equal(held, hold_out(labels, share, seed)[1])


@given(LABELS, strategies.integers(1, 8), SEEDS)
def test_shots_are_drawn_from_every_class(labels, shots, seed):
    class_sizes = counts(labels, range(len(labels)))
    if min(class_sizes.values()) < shots:
        with pytest.raises(DataError, match=f"--shots {shots} exceeds"):
            shots_of(labels, shots, seed)
        return
    rows = shots_of(labels, shots, seed)
    assert len(set(rows.tolist())) == len(rows)
    assert set(counts(labels, rows).values()) == {shots}


@given(LABELS, strategies.floats(0.01, 1), SEEDS)
def test_fraction_is_stratified(labels, fraction, seed):
    expected = {label: round(fraction * size) for label, size in counts(labels, range(len(labels))).items()}
    if min(expected.values()) < 1:
        with pytest.raises(DataError, match="leaves no image of class"):
            fraction_of(labels, fraction, seed)
        return
    rows = fraction_of(labels, fraction, seed)
    assert len(set(rows.tolist())) == len(rows)
    assert counts(labels, rows) == expected


def test_seeds_draw_different_rows():
    labels = np.repeat([0, 1], 50)
    assert len({tuple(shots_of(labels, 3, seed)) for seed in range(5)}) == 5


def test_error_for_an_empty_class_names_it():
    with pytest.raises(DataError, match="of class dog, which has 50"):
        fraction_of(np.repeat([0, 1], [5000, 50]), 0.001, 0, ("cat", "dog"))
