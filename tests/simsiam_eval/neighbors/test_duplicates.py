import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simsiam_eval.neighbors import duplicates
from simsiam_eval.neighbors.duplicates import Groups, leakage_metrics, leakage_warning, pairs_above


def unit(rows):
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1)


def grouped(count, pairs):
    """Groups by following pairs until nothing changes."""
    group = list(range(count))
    for _ in range(count):
        for one, two in pairs:
            group[one] = group[two] = min(group[one], group[two])
    found = {}
    for row, name in enumerate(group):
        found.setdefault(name, []).append(row)
    return sorted(rows for rows in found.values() if len(rows) > 1)


@settings(max_examples=100, deadline=None)
@given(st.data(), st.sampled_from([1, 3, 100]), st.sampled_from([0, 2, 100]))
def test_pairs_and_groups_are_brute_force(data, block, edges):
    row = st.lists(st.integers(-2, 2), min_size=2, max_size=2)
    bank = np.array(data.draw(st.lists(row, min_size=1, max_size=20)), dtype=np.float32)
    queries = data.draw(st.none() | st.lists(row, min_size=1, max_size=8).map(lambda rows: np.array(rows, np.float32)))
    threshold = data.draw(st.sampled_from([0.3, 0.75, 0.97]))  # between what such rows can have
    similarities = unit(bank) @ unit(bank if queries is None else queries).T
    expected = {
        (one, two) for one, two in np.argwhere(similarities >= threshold).tolist() if queries is not None or one < two
    }
    shift = 0 if queries is None else len(bank)
    groups = Groups(len(bank) + (0 if queries is None else len(queries)))
    found = set()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "_BLOCK", block)
        patch.setattr(duplicates, "_EDGES", edges)
        for one, two, near in pairs_above(bank, queries, threshold):
            for pair, value in zip(zip(one.tolist(), two.tolist(), strict=True), near.tolist(), strict=True):
                assert pair not in found
                assert value == pytest.approx(similarities[pair], abs=1e-6)
                found.add(pair)
            groups.join(one, two + shift, near)
        members = groups.members()
    assert found == expected
    assert groups.pairs == len(expected)
    assert sorted(sorted(rows.tolist()) for rows in members) == grouped(
        len(groups.similarity), [(one, two + shift) for one, two in expected]
    )
    highest = [groups.similarity[rows].max() for rows in members]
    assert highest == sorted(highest, reverse=True)


def test_what_rests_on_leaked_images():
    nearest = np.array([0.999, 0.5, 0.995, 0.98], dtype=np.float32)
    right = np.array([True, True, True, False])
    found = leakage_metrics(nearest, right, 0.99)
    assert (found["images"], found["of"], found["top1"], found["top1_without"]) == (2, 4, 1, 0.5)
    assert "2 of 4 test images" in leakage_warning(found)
    assert "50.00 %" in leakage_warning(found)
    assert leakage_metrics(nearest, right, 1.0) is None
    every = leakage_metrics(nearest, right, 0.1)
    assert "top1_without" not in every
    assert "give a higher --leakage" in leakage_warning(every)
    copies = leakage_metrics(np.full(4, 1 - 3e-7, dtype=np.float32), right, 1.0)
    assert copies["copies"] == copies["images"] == 4
    assert "top-1 of this without them is not to be had" in leakage_warning(copies, "top-1 of this")


def test_exact_copies_reach_a_threshold_of_one():
    rows = np.random.default_rng(0).normal(size=(100, 33)).astype(np.float32)
    pairs = list(pairs_above(rows, rows * 3, 1.0))
    assert sorted((int(one), int(two)) for part in pairs for one, two in zip(*part[:2], strict=True)) == [
        (row, row) for row in range(100)
    ]
