"""The vote against one written as loops, and against scikit-learn's."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy.special import logsumexp
from sklearn.neighbors import KNeighborsClassifier

from simsiam_eval.neighbors.votes import vote_shares, votes, weighted_vote


def brute_force_votes(similarities, labels, k, temperature, top):
    """Rows of similarities (M,K) and labels (M,K), the neighbors already in order -> (M, top), written as loops."""
    ranking = []
    for row, names in zip(similarities.astype(float), labels.tolist(), strict=True):
        tally = {}
        for similarity, name in list(zip(row - row.max(initial=-np.inf), names, strict=True))[:k]:
            if name >= 0:
                tally[name] = tally.get(name, 0.0) + (1 if temperature is None else np.exp(similarity / temperature))
        best = sorted(tally, key=lambda name: (-tally[name], name))[:top]
        ranking.append(best + [-1] * (top - len(best)))
    return np.array(ranking).reshape(len(labels), top)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_vote_is_the_one_in_loops(data):
    rows, found = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 12))
    # Multiples of 1/8 at T a power of two: equal votes are equal in any order of summation but for exp's own rounding.
    drawn = data.draw(st.lists(st.integers(-8, 8), min_size=rows * found, max_size=rows * found))
    similarities = -np.sort(-np.array(drawn, dtype=np.float32).reshape(rows, found) / 8, axis=1)
    names = data.draw(st.lists(st.integers(-1, 5), min_size=rows * found, max_size=rows * found))
    labels = np.array(names).reshape(rows, found)
    ks = tuple(data.draw(st.sets(st.integers(1, 15), min_size=1, max_size=4)))
    temperature, top = data.draw(st.sampled_from([None, 0.0625, 0.25, 1.0])), data.draw(st.integers(1, 7))
    ranked = votes(similarities, labels, ks, temperature, top)
    assert set(ranked) == set(ks)
    for k in ks:
        expected = brute_force_votes(similarities, labels, k, temperature, top)
        np.testing.assert_array_equal(ranked[k], expected)


@pytest.mark.parametrize("k", [1, 4, 9])
def test_majority_is_scikit_learns(k):
    rng = np.random.default_rng(1)
    bank, queries, labels = rng.normal(size=(80, 3)), rng.normal(size=(50, 3)), rng.integers(0, 4, 80)
    model = KNeighborsClassifier(n_neighbors=k).fit(bank, labels)
    distances, rows = model.kneighbors(queries)
    ranked = votes(-distances.astype(np.float32), labels[rows], (k,), None)[k]
    np.testing.assert_array_equal(ranked[:, 0], model.predict(queries))


def test_no_neighbors_no_guess():
    assert votes(np.empty((2, 0), np.float32), np.empty((2, 0), np.int64), (3,), 0.1)[3].tolist() == [[-1] * 5] * 2
    assert vote([[0.5, 0.4]], [[-1, -1]]) == [[-1] * 5]


def vote(similarities, labels, temperature=0.2, top=5):
    ranked = weighted_vote(np.array(similarities, dtype=np.float32), np.array(labels), temperature, top)
    assert ranked.dtype == np.int64
    return ranked.tolist()


def test_equal_votes_rank_by_the_lower_label():
    assert vote([[0.5, 0.5, 0.5]], [[9, 4, 7]]) == [[4, 7, 9, -1, -1]]
    assert vote([[0.5, 0.5, 0.5, 0.5]], [[9, 4, 9, 4]], top=1) == [[4]]


def test_negative_similarities_still_vote():
    # exp(-1) + exp(-1.2) > exp(-.8), though the sum of the similarities themselves says the opposite.
    assert vote([[-0.8, -1.0, -1.2]], [[1, 2, 2]], temperature=1.0) == [[2, 1, -1, -1, -1]]
    assert vote([[-0.1, -1.0, -1.0]], [[1, 2, 2]], temperature=0.2, top=2) == [[1, 2]]


def test_many_weak_neighbors_against_one_strong():
    similarities, labels = [[0.9, 0.8, 0.8]], [[3, 5, 5]]
    assert vote(similarities, labels, temperature=0.2, top=1) == [[5]]  # 2 exp(4) > exp(4.5)
    assert vote(similarities, labels, temperature=0.07, top=1) == [[3]]  # 2 exp(11.43) < exp(12.86)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("temperature", [1e-3, 1e-6, 1e-30])
def test_a_tiny_temperature_neither_overflows_nor_loses_a_voter(temperature):
    # exp(-2 / T) rounds to 0, and so does exp(-2.1 / T): their order is not that of the labels.
    ranked = vote([[1.0, 0.9, -1.0, -1.1], [-0.9, -1.0, -1.0, -1.0]], [[6, 2, 8, 3], [1, 0, 0, 0]], temperature)
    assert ranked == [[6, 2, 8, 3, -1], [1, 0, -1, -1, -1]]


@settings(deadline=None)
@given(st.data())
def test_any_scale_ranks_as_the_logarithms_of_the_sums_do(data):
    """Similarities as those of --metric l2 on features that are not normalized."""
    scale = data.draw(st.sampled_from([1, 100, 10_000]))
    drawn = np.array(data.draw(st.lists(st.integers(-40, 0), min_size=12, max_size=12)), np.float32)
    near, labels = -np.sort(-drawn) * scale, np.array(data.draw(st.lists(st.integers(0, 4), min_size=12, max_size=12)))
    logs = {label: logsumexp(near[labels == label].astype(float) / 0.07) for label in set(labels.tolist())}
    ranked = vote([near], [labels], 0.07)[0]
    assert sorted(one for one in ranked if one >= 0) == sorted(logs)
    values = [logs[label] for label in ranked if label >= 0]
    assert all(one >= two - 1e-9 * max(1, abs(two)) for one, two in pairwise(values))


def test_fewer_classes_than_top_are_filled_per_row():
    assert vote([[0.9, 0.8], [0.9, 0.8]], [[3, 3], [5, 1]]) == [[3, -1, -1, -1, -1], [5, 1, -1, -1, -1]]
    assert vote([[0.9, 0.8, 0.1]], [[2, 1, 0]], top=2) == [[2, 1]]


def test_blocks_of_queries_give_the_same_votes(monkeypatch):
    rng = np.random.default_rng(8)
    similarities, labels = rng.uniform(-1, 1, (23, 9)), rng.integers(0, 6, (23, 9))
    whole = vote(similarities, labels)
    monkeypatch.setattr("simsiam_eval.neighbors.votes._ENTRIES", 4 * 6)
    assert vote(similarities, labels) == whole


def test_shares_that_round_to_the_same_number_keep_the_order_of_the_votes():
    similarities = np.array([[np.float32(1e-20), 0.0, 0.0]], dtype=np.float32)
    labels = np.array([[2, 0, 1]])
    for temperature in (0.07, 1.0):
        shares = vote_shares(similarities, labels, 3, temperature)
        assert shares.argmax(axis=1).tolist() == votes(similarities, labels, (3,), temperature)[3][:, 0].tolist()
        assert np.allclose(shares, 1 / 3)
    assert vote_shares(similarities, labels, 3, None).tolist() == [[np.float32(1 / 3)] * 3]
