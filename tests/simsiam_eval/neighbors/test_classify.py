import numpy as np
import pytest
import torch

from simsiam_eval.neighbors.classify import classify
from simsiam_eval.neighbors.exact import search
from simsiam_eval.neighbors.ranking import retrieval_metrics
from simsiam_eval.neighbors.votes import votes


@pytest.fixture
def sets():
    rng = np.random.default_rng(0)
    return rng.normal(size=(60, 5)), rng.integers(0, 7, 60), rng.normal(size=(20, 5))


@pytest.mark.parametrize("leave_one_out", [False, True])
@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_each_pair_is_a_search_and_a_vote(sets, metric, leave_one_out):
    bank, labels, queries = sets
    queries = None if leave_one_out else queries
    predicted = classify(bank, labels, queries, [3, 11], [0.07, None], metric)
    assert list(predicted.ranked) == [(3, 0.07), (11, 0.07), (3, None), (11, None)]
    for (k, temperature), ranked in predicted.ranked.items():
        similarities, rows = search(bank, queries, k, metric)
        np.testing.assert_array_equal(ranked, votes(similarities, labels[rows], [k], temperature)[k])
        np.testing.assert_array_equal(predicted.nearest, similarities[:, 0])


def test_tensors_and_lists_are_taken(sets):
    bank, labels, queries = sets
    expected = classify(bank, labels, queries, [5], [0.07]).ranked[5, 0.07]
    for convert in (torch.from_numpy, lambda array: array.tolist()):
        found = classify(convert(bank), convert(labels), convert(queries), [5], [0.07]).ranked[5, 0.07]
        np.testing.assert_array_equal(found, expected)
    assert retrieval_metrics(torch.from_numpy(bank), torch.from_numpy(labels)) == retrieval_metrics(bank, labels)


def test_no_queries_no_classes(sets):
    predicted = classify(sets[0], sets[1], np.empty((0, 5)), [5], [0.07], top=2)
    assert predicted.ranked[5, 0.07].shape == (0, 2)
    assert predicted.nearest.shape == (0,)


def test_wrong_shapes_are_rejected(sets):
    bank, labels, queries = sets
    with pytest.raises(ValueError, match="60 bank rows need as many labels"):
        classify(bank, labels[:-1], queries, [5], [0.07])
    with pytest.raises(ValueError, match=r"shape \(N, D\)"):
        classify(bank[0], labels, queries, [5], [0.07])
    with pytest.raises(ValueError, match=r"query_labels must have shape \(20,\)"):
        retrieval_metrics(bank, labels, queries, labels)
    with pytest.raises(ValueError, match="no query has another image"):
        retrieval_metrics(bank, np.arange(60))


def test_own_rows_do_not_vote_for_their_queries():
    """As leave-one-out where every query is a row of the bank, in any order and beside others."""
    rng = np.random.default_rng(0)
    bank, labels = rng.normal(size=(20, 4)).astype(np.float32), np.arange(20) % 3
    order = rng.permutation(20)
    alone = classify(bank, labels, None, [1, 5, 19, 50], [0.1])
    own = classify(bank, labels, bank[order], [1, 5, 19, 50], [0.1], own=order)
    for pair, ranked in alone.ranked.items():
        np.testing.assert_array_equal(own.ranked[pair], ranked[order])
    np.testing.assert_allclose(own.nearest, alone.nearest[order], rtol=1e-5)
    queries = np.concatenate([bank[:3], rng.normal(size=(2, 4)).astype(np.float32)])
    mixed = classify(bank, labels, queries, [50], [0.1], own=np.array([0, 1, 2, -1, -1])).ranked[50, 0.1]
    np.testing.assert_array_equal(mixed[:3], alone.ranked[50, 0.1][:3])
    np.testing.assert_array_equal(mixed[3:], classify(bank, labels, queries[3:], [50], [0.1]).ranked[50, 0.1])
