"""KNNClassifier: scikit-learn's own checks, and the numbers of the `knn` command."""

import numpy as np
import pytest
import torch
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import parametrize_with_checks

from simsiam_eval.api import open_features
from simsiam_eval.neighbors.estimator import KNNClassifier

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(60, 5)).astype(np.float32), RNG.integers(0, 3, 60)


@parametrize_with_checks(
    [
        KNNClassifier(n_neighbors=3, device="cpu"),
        KNNClassifier(n_neighbors=3, temperature=None, metric="l2", device="cpu"),
    ]
)
@pytest.mark.filterwarnings("ignore:n_neighbors")
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (20, 0.07), (200, 0.5), (20, None)])
def test_its_accuracy_is_the_commands(record, pipeline, k, temperature):
    train, test = open_features(pipeline / "train.h5"), open_features(pipeline / "test.h5")
    options = ["--vote", "majority"] if temperature is None else ["--temperature", temperature]
    metrics = record("knn", "--train", pipeline / "train.h5", "--test", pipeline / "test.h5", "-k", k, *options)[
        "metrics"
    ]
    assert KNNClassifier(n_neighbors=k, temperature=temperature).fit(*train).score(*test) == metrics["top1"]


def test_arrays_tensors_and_rows_on_the_disk_agree(pipeline):
    train, test = open_features(pipeline / "train.h5"), open_features(pipeline / "test.h5")
    arrays = np.asarray(train.X), np.asarray(test.X)
    expected = KNNClassifier().fit(arrays[0], train.y).predict(arrays[1])
    tensors = map(torch.from_numpy, arrays)
    assert np.array_equal(
        KNNClassifier().fit(next(tensors), torch.from_numpy(train.y)).predict(next(tensors)), expected
    )
    assert np.array_equal(KNNClassifier().fit(*train).predict(test.X), expected)


def test_a_grid_search_chooses_among_numbers_of_neighbors(pipeline):
    train = open_features(pipeline / "train.h5")
    search = GridSearchCV(KNNClassifier(), {"n_neighbors": [1, 20]}, cv=3).fit(*train)
    assert search.best_params_["n_neighbors"] in (1, 20)
    assert search.best_score_ > 0.3


def test_labels_are_of_any_kind():
    names = np.array(["ant", "bee", "cat"])[Y]
    assert set(KNNClassifier().fit(X, names).predict(X)) <= {"ant", "bee", "cat"}


def test_neighbors_are_the_most_similar_rows():
    similarities, rows = KNNClassifier(n_neighbors=4).fit(X, Y).kneighbors(X[:7])
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    expected = unit[:7] @ unit.T
    assert np.array_equal(rows, np.argsort(-expected, axis=1)[:, :4])
    assert np.allclose(similarities, -np.sort(-expected, axis=1)[:, :4], atol=1e-6)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_neighbors": 0}, "n_neighbors must be a positive integer, got 0"),
        ({"n_neighbors": 2.5}, "n_neighbors must be a positive integer, got 2.5"),
        ({"n_neighbors": True}, "n_neighbors must be a positive integer, got True"),
        ({"temperature": "x"}, "temperature must be above 0 or None, got 'x'"),
        ({"temperature": 0}, "temperature must be above 0 or None, got 0"),
        ({"metric": "cos"}, "metric must be one of cosine, l2, got 'cos'"),
    ],
)
def test_a_wrong_parameter_is_named(parameters, message):
    with pytest.raises(ValueError, match=message):
        KNNClassifier(**parameters).fit(X, Y)
    fitted = KNNClassifier(n_neighbors=3).fit(X, Y).set_params(**parameters)
    for predict in (fitted.predict, fitted.predict_proba):
        with pytest.raises(ValueError, match=message):
            predict(X)


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (7, 0.07), (7, 1e-6), (60, None), (4, None)])
def test_probabilities_are_shares_of_the_votes(k, temperature):
    names = np.array(["cat", "ant", "bee"])[Y]
    rows = np.round(X)  # equal similarities, and so ties
    classifier = KNNClassifier(n_neighbors=k, temperature=temperature).fit(rows, names)
    shares = classifier.predict_proba(rows)
    assert shares.shape == (60, 3) and classifier.classes_.tolist() == ["ant", "bee", "cat"]
    assert np.allclose(shares.sum(axis=1), 1) and (shares >= 0).all()
    assert np.array_equal(classifier.classes_[shares.argmax(axis=1)], classifier.predict(rows))
    similarities, neighbors = classifier.kneighbors(rows)
    weights = np.ones(similarities.shape)
    if temperature is not None:
        weights = np.exp((similarities.astype(float) - similarities[:, :1]) / temperature)
    expected = np.stack([(weights * (names[neighbors] == name)).sum(axis=1) for name in classifier.classes_], axis=1)
    assert np.allclose(shares, expected / expected.sum(axis=1, keepdims=True), atol=1e-5)


def test_neighbors_of_the_training_rows_leave_each_out():
    classifier = KNNClassifier(n_neighbors=3).fit(X, Y)
    similarities, rows = classifier.kneighbors()
    assert similarities.shape == rows.shape == (60, 3)
    assert not (rows == np.arange(60)[:, None]).any()
    assert np.array_equal(rows, classifier.kneighbors(X, 4)[1][:, 1:])
    with pytest.raises(ValueError, match="n_neighbors must be a positive integer, got 0"):
        classifier.kneighbors(n_neighbors=0)


def test_wrong_widths_are_rejected(pipeline):
    rows = open_features(pipeline / "test.h5").X
    with pytest.raises(ValueError, match="expecting 5 features"):
        KNNClassifier().fit(X, Y).predict(rows)
    with pytest.raises(ValueError, match="rows and y has shape"):
        KNNClassifier().fit(rows, Y)


def test_fewer_training_rows_than_neighbors_are_warned_of():
    with pytest.warns(UserWarning, match="only 60 training rows"):
        KNNClassifier(n_neighbors=61).fit(X, Y)
