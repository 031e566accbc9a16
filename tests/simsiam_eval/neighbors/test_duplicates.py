import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from simsiam_eval.neighbors import duplicates
from simsiam_eval.neighbors.duplicates import Groups, pairs_above


def unit(rows):
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1)


def brute_force_groups(count, pairs):
    """Groups by following pairs until nothing changes."""
    group = list(range(count))
    for _ in range(count):
        for first, second in pairs:
            group[first] = group[second] = min(group[first], group[second])
    rows_of = {}
    for row, number in enumerate(group):
        rows_of.setdefault(number, []).append(row)
    return sorted(rows for rows in rows_of.values() if len(rows) > 1)


@settings(max_examples=100, deadline=None)
@given(st.data(), st.sampled_from([1, 3, 100]), st.sampled_from([0, 2, 100]))
def test_pairs_and_groups_are_brute_force(data, block, edges):
    row = st.lists(st.integers(-2, 2), min_size=2, max_size=2)
    bank = np.array(data.draw(st.lists(row, min_size=1, max_size=20)), dtype=np.float32)
    queries = data.draw(st.none() | st.lists(row, min_size=1, max_size=8).map(lambda rows: np.array(rows, np.float32)))
    threshold = data.draw(st.sampled_from([0.3, 0.75, 0.97]))  # between what such rows can have
    similarities = unit(bank) @ unit(bank if queries is None else queries).T
    expected = {
        (first, second)
        for first, second in np.argwhere(similarities >= threshold).tolist()
        if queries is not None or first < second
    }
    shift = 0 if queries is None else len(bank)
    groups = Groups(len(bank) + (0 if queries is None else len(queries)))
    found = set()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "_BLOCK", block)
        patch.setattr(duplicates, "_PENDING_PAIRS", edges)
        for first, second, near in pairs_above(bank, queries, threshold):
            for pair, value in zip(zip(first.tolist(), second.tolist(), strict=True), near.tolist(), strict=True):
                assert pair not in found
                assert value == pytest.approx(similarities[pair], abs=1e-6)
                found.add(pair)
            groups.join(first, second + shift, near)
        members = groups.members()
    assert found == expected
    assert groups.pairs == len(expected)
    assert sorted(sorted(rows.tolist()) for rows in members) == brute_force_groups(
        len(groups.similarity), [(first, second + shift) for first, second in expected]
    )
    highest = [groups.similarity[rows].max() for rows in members]
    assert highest == sorted(highest, reverse=True)


def test_exact_copies_reach_a_threshold_of_one():
    rows = np.random.default_rng(0).normal(size=(100, 33)).astype(np.float32)
    pairs = list(pairs_above(rows, rows * 3, 1.0))
    rows_of_pairs = sorted(pair for block in pairs for pair in zip(block[0].tolist(), block[1].tolist(), strict=True))
    assert rows_of_pairs == [(row, row) for row in range(100)]
