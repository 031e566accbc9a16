"""The neighbours and their vote against brute force in NumPy float64."""

import numpy as np
import pytest

from simsiam_eval.neighbours import l2_normalised, search, weighted_vote


def brute_force_similarities(bank, queries):
    def unit(rows):
        lengths = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
        return rows / np.where(lengths == 0, 1, lengths)

    return unit(queries) @ unit(bank).T


def brute_force_ranking(similarities, labels, k, temperature, top):
    """Rows of similarities (M,N) and labels (N,) -> (M, top), written as loops."""
    ranking = []
    for row in similarities:
        nearest = sorted(range(len(row)), key=lambda place: -row[place])[:k]
        votes = {}
        for place in nearest:
            votes[labels[place]] = votes.get(labels[place], 0.0) + np.exp(row[place] / temperature)
        best = sorted(votes, key=lambda label: (-votes[label], label))[:top]
        ranking.append(best + [-1] * (top - len(best)))
    return np.array(ranking)


def vote(similarities, labels, temperature=0.2, top=5):
    ranked = weighted_vote(np.array(similarities, dtype=np.float32), np.array(labels), temperature, top)
    assert ranked.dtype == np.int64
    return ranked.tolist()


@pytest.mark.parametrize("temperature", [0.07, 0.2, 1.0])
@pytest.mark.parametrize("k", [1, 7, 60, 500])  # 60 is all of them, 500 more than there are
def test_search_and_vote_against_brute_force(k, temperature):
    rng = np.random.default_rng(2)
    bank, queries, labels = rng.normal(size=(60, 5)), rng.normal(size=(40, 5)), rng.integers(0, 8, 60) * 10
    similarities, rows = search(bank, queries, k)
    expected = brute_force_similarities(bank, queries)
    assert similarities.shape == rows.shape == (40, min(k, 60))
    np.testing.assert_array_equal(rows, np.argsort(-expected, axis=1)[:, :k])
    np.testing.assert_allclose(similarities, np.take_along_axis(expected, rows, axis=1), atol=1e-6)
    ranked = weighted_vote(similarities, labels[rows], temperature)
    np.testing.assert_array_equal(ranked, brute_force_ranking(expected, labels.tolist(), k, temperature, 5))


def test_leave_one_out_against_brute_force():
    bank = np.random.default_rng(4).normal(size=(30, 6))
    similarities, rows = search(bank, None, 9)
    expected = brute_force_similarities(bank, bank)
    np.fill_diagonal(expected, -np.inf)
    np.testing.assert_array_equal(rows, np.argsort(-expected, axis=1)[:, :9])
    np.testing.assert_allclose(similarities, np.take_along_axis(expected, rows, axis=1), atol=1e-6)


@pytest.mark.parametrize("k", [1, 2, 3, 4, 11, 50])
def test_leave_one_out_among_exact_copies(k):
    rng = np.random.default_rng(5)
    bank = np.concatenate([np.repeat(rng.normal(size=(1, 4)), 7, axis=0), rng.normal(size=(5, 4))])
    similarities, rows = search(bank, None, k)
    expected = brute_force_similarities(bank, bank)
    np.fill_diagonal(expected, -np.inf)
    assert rows.shape == (12, min(k, 11))
    for own, found in enumerate(rows.tolist()):
        assert own not in found
        assert len(set(found)) == len(found)
    np.testing.assert_allclose(similarities, -np.sort(-expected, axis=1)[:, : rows.shape[1]], atol=1e-6)


def test_a_zero_vector_has_similarity_zero_to_all():
    bank = np.array([[1.0, 0.0], [0.0, 0.0], [-1.0, 0.0]])
    similarities, rows = search(bank, np.array([[2.0, 0.0], [0.0, 0.0]]), 3)
    assert rows[0].tolist() == [0, 1, 2]
    assert similarities.tolist() == [[1, 0, -1], [0, 0, 0]]
    assert sorted(rows[1].tolist()) == [0, 1, 2]
    assert np.array_equal(l2_normalised(np.array([[3.0, 4.0], [0.0, 0.0]])), np.array([[0.6, 0.8], [0, 0]], "float32"))


@pytest.mark.parametrize(
    ("bank", "queries", "k"),
    [
        (np.ones((3, 2)), np.ones((3, 2)), 0),
        (np.ones((0, 2)), np.ones((3, 2)), 1),
        (np.ones((3, 2)), np.ones((3, 4)), 1),
    ],
)
def test_impossible_searches_are_refused(bank, queries, k):
    with pytest.raises(ValueError, match="cannot search"):
        search(bank, queries, k)


def test_equal_votes_rank_by_the_lower_label():
    assert vote([[0.5, 0.5, 0.5]], [[9, 4, 7]]) == [[4, 7, 9, -1, -1]]
    assert vote([[0.5, 0.5, 0.5, 0.5]], [[9, 4, 9, 4]], top=1) == [[4]]


def test_negative_similarities_still_vote():
    # exp(-1) + exp(-1.2) > exp(-.8), though the sum of the similarities themselves says the opposite.
    assert vote([[-0.8, -1.0, -1.2]], [[1, 2, 2]], temperature=1.0) == [[2, 1, -1, -1, -1]]
    assert vote([[-0.1, -1.0, -1.0]], [[1, 2, 2]], temperature=0.2, top=2) == [[1, 2]]


def test_many_weak_neighbours_against_one_strong():
    similarities, labels = [[0.9, 0.8, 0.8]], [[3, 5, 5]]
    assert vote(similarities, labels, temperature=0.2, top=1) == [[5]]  # 2 exp(4) > exp(4.5)
    assert vote(similarities, labels, temperature=0.07, top=1) == [[3]]  # 2 exp(11.43) < exp(12.86)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("temperature", [1e-3, 1e-6, 1e-30])
def test_a_tiny_temperature_neither_overflows_nor_loses_a_voter(temperature):
    # The vote of 8 rounds to 0, as nobody's; it is still a guess where the others are not.
    assert vote([[1.0, 0.9, -1.0], [-0.9, -1.0, -1.0]], [[6, 2, 8], [1, 0, 0]], temperature)[0][0] == 6
    ranked = vote([[1.0, 0.9, -1.0], [-0.9, -1.0, -1.0]], [[6, 2, 8], [1, 0, 0]], temperature)
    assert [sorted(row) for row in ranked] == [[-1, -1, 2, 6, 8], [-1, -1, -1, 0, 1]]
    assert ranked[1][0] == 1


def test_fewer_classes_than_top_are_filled_per_row():
    assert vote([[0.9, 0.8], [0.9, 0.8]], [[3, 3], [5, 1]]) == [[3, -1, -1, -1, -1], [5, 1, -1, -1, -1]]
    assert vote([[0.9, 0.8, 0.1]], [[2, 1, 0]], top=2) == [[2, 1]]


def test_blocks_of_queries_give_the_same_votes(monkeypatch):
    rng = np.random.default_rng(8)
    similarities, labels = rng.uniform(-1, 1, (23, 9)), rng.integers(0, 6, (23, 9))
    whole = vote(similarities, labels)
    monkeypatch.setattr("simsiam_eval.neighbours._VOTE_ENTRIES", 4 * 6)
    assert vote(similarities, labels) == whole
