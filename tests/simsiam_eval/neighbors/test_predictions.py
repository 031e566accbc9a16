"""Predictions of single images agree with `classify`, and neighbors with `search`."""

import numpy as np

from simsiam_eval.neighbors.classify import classify
from simsiam_eval.neighbors.exact import search
from simsiam_eval.neighbors.predictions import predict_by_neighbors


def made():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 200) * 3  # classes 0, 3, 6, 9
    features = np.eye(10, 12)[labels] + 0.6 * rng.normal(size=(200, 12))
    return features.astype(np.float32), labels


def test_as_classify_and_search():
    features, labels = made()
    for queries in (None, features[:50] + 0.1):
        found = predict_by_neighbors(features, labels, queries, k=7, temperature=0.07, kept=3)
        expected = classify(features, labels, queries, [7], [0.07]).ranked[7, 0.07][:, 0]
        np.testing.assert_array_equal(found.labels, expected)
        similarities, rows = search(features, queries, 3)
        np.testing.assert_array_equal(found.neighbors, rows)
        np.testing.assert_allclose(found.similarities, similarities)
        assert ((found.confidence > 0.2) & (found.confidence <= 1)).all()


def test_unlabeled_rows_do_not_vote_and_few_rows_are_enough():
    features, labels = made()
    nobody = predict_by_neighbors(features, np.full(200, -1), None)
    assert (nobody.labels == -1).all()
    assert (nobody.confidence == 0).all()
    half = np.where(np.arange(200) % 2, labels, -1)
    found = predict_by_neighbors(features, half, None, k=20)
    assert set(found.labels.tolist()) <= {0, 3, 6, 9}
    assert found.confidence.max() <= 1
    two = predict_by_neighbors(features[:2], labels[:2], None)
    assert two.labels.tolist() == labels[[1, 0]].tolist()
    assert two.neighbors.tolist() == [[1], [0]]


def test_an_image_in_both_sets_is_not_its_own_neighbor():
    features, labels = made()
    own = np.where(np.arange(50) % 2, np.arange(50), -1)
    found = predict_by_neighbors(features, labels, features[:50], k=7, temperature=0.07, own=own)
    expected = classify(features, labels, features[:50], [7], [0.07], own=own).ranked[7, 0.07][:, 0]
    np.testing.assert_array_equal(found.labels, expected)
    assert not (found.neighbors[1::2] == own[1::2, None]).any()
    assert (found.neighbors[::2, 0] == np.arange(50)[::2]).all()
    alone = predict_by_neighbors(features[:1], labels[:1], features[:1], own=np.array([0]))
    assert (alone.labels.tolist(), alone.confidence.tolist(), alone.neighbors.tolist()) == ([-1], [0.0], [[-1]])
