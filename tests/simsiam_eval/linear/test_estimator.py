"""LinearProbe: scikit-learn's own checks, and the numbers of the `linear-eval` command."""

import numpy as np
import pytest
import torch
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import parametrize_with_checks

from simsiam_eval.api import open_features
from simsiam_eval.linear.estimator import LinearProbe

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(60, 5)).astype(np.float32), RNG.integers(0, 3, 60)
# LARS moves weights by a thousandth of their length times the lr: the published 90 epochs of one step each are too few to
# separate two-dimensional blobs, which this check asks for. With lr=100 it passes.
TOO_FEW_STEPS = {"check_classifiers_train": "90 steps of LARS at the protocol's lr do not fit 2-D blobs"}


@parametrize_with_checks(
    [
        LinearProbe(device="cpu"),
        LinearProbe("small", lr=100.0, device="cpu"),
        LinearProbe("moco-sgd", lr=1.0, epochs=60, device="cpu"),
        LinearProbe("logistic", c=1.0, device="cpu"),
    ],
    expected_failed_checks=lambda probe: TOO_FEW_STEPS if probe.protocol == "simsiam-code" else {},
)
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize(
    ("parameters", "options"),
    [
        ({}, []),
        ({"protocol": "small", "epochs": 5, "random_state": 3}, ["--preset", "small", "--epochs", 5, "--seed", 3]),
        (
            {"protocol": "moco-sgd", "epochs": 3, "scaling": "l2"},
            ["--preset", "moco-sgd", "--epochs", 3, "--scaling", "l2"],
        ),
        ({"protocol": "small", "epochs": 3, "lr": [1.0, 10.0]}, ["--preset", "small", "--epochs", 3, "--lr", "1,10"]),
        ({"protocol": "logistic", "c": [1e-4, 1e-3]}, ["--preset", "logistic", "-C", "1e-4,1e-3"]),
    ],
)
def test_its_accuracy_is_the_commands(record, pipeline, parameters, options):
    train, test = open_features(pipeline / "train.h5"), open_features(pipeline / "test.h5")
    metrics = record("linear-eval", "--train", pipeline / "train.h5", "--test", pipeline / "test.h5", *options)[
        "metrics"
    ]
    assert LinearProbe(**parameters).fit(*train).score(*test) == metrics["top1"]


def test_what_was_learned_can_be_read():
    probe = LinearProbe("small", epochs=4).fit(X, np.array(["ant", "bee", "cat"])[Y])
    assert (probe.coef_.shape, probe.intercept_.shape, len(probe.loss_curve_)) == ((3, 5), (3,), 4)
    assert probe.recipe_.epochs == 4
    scores = X @ probe.coef_.T + probe.intercept_
    assert np.allclose(probe.decision_function(X), scores, atol=1e-5)
    assert probe.predict(X).tolist() == np.array(["ant", "bee", "cat"])[scores.argmax(axis=1)].tolist()
    assert np.allclose(probe.predict_proba(X).sum(axis=1), 1)


def test_arrays_tensors_and_rows_on_the_disk_agree(pipeline):
    train, test = open_features(pipeline / "train.h5"), open_features(pipeline / "test.h5")
    probe = LinearProbe("small", epochs=3).fit(*train)
    arrays = LinearProbe("small", epochs=3).fit(np.asarray(train.X), train.y)
    tensors = LinearProbe("small", epochs=3).fit(torch.from_numpy(train.X[:]), torch.from_numpy(train.y))
    assert np.array_equal(probe.coef_, arrays.coef_) and np.array_equal(probe.coef_, tensors.coef_)
    assert np.array_equal(probe.predict(test.X), arrays.predict(torch.from_numpy(test.X[:])))


def test_a_grid_search_chooses_a_learning_rate(pipeline):
    train = open_features(pipeline / "train.h5")
    search = GridSearchCV(LinearProbe("small", epochs=20), {"lr": [1.0, 10.0]}, cv=2).fit(*train)
    assert search.best_score_ > 0.2


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"protocol": "best"}, "protocol must be one of simsiam-code, simsiam-paper, .*, got 'best'"),
        ({"c": 1.0}, "c cannot be used with protocol='simsiam-code'"),
        ({"protocol": "logistic", "lr": 1.0}, "lr cannot be used with protocol='logistic'"),
        ({"random_state": None}, "random_state must be an integer of at least 0, got None"),
        ({"lr": -1.0}, "lr must be above 0, got -1.0"),
        ({"lr": "a"}, "lr must be a number, got 'a'"),
        ({"epochs": "3"}, "epochs must be an integer, got '3'"),
        ({"epochs": 2.5}, "epochs must be an integer, got 2.5"),
        ({"batch_size": True}, "batch_size must be an integer, got True"),
        ({"held_out": "a"}, "held_out must be between 0 and 1, got 'a'"),
        ({"random_state": True}, "random_state must be an integer of at least 0, got True"),
        ({"protocol": ["small"]}, "protocol must be one of"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"scaling": "minmax"}, "scaling must be one of none, l2, standard, got 'minmax'"),
        ({"schedule": "linear"}, "schedule must be one of cosine, step, got 'linear'"),
        ({"held_out": 1.0}, "held_out must be between 0 and 1, got 1.0"),
        ({"lr": []}, "lr requires a value"),
    ],
)
def test_a_wrong_parameter_is_named(parameters, message, messages_name_arguments):
    with pytest.raises(ValueError, match=message):
        LinearProbe(**parameters).fit(X, Y)


@pytest.mark.parametrize("parameters", [{"protocol": "small", "epochs": 20}, {"protocol": "logistic", "c": 1.0}])
def test_standard_scaling_is_folded_into_the_weights(pipeline, parameters):
    train, test = open_features(pipeline / "train.h5"), open_features(pipeline / "test.h5")
    probe = LinearProbe(scaling="standard", **parameters).fit(*train)
    scores = test.X[:] @ probe.coef_.T + probe.intercept_
    expected = probe.decision_function(test.X)
    assert np.abs(scores - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.filterwarnings("error")
def test_arrays_that_are_read_only_are_not_warned_of():
    rows = X.copy()
    rows.flags.writeable = False
    LinearProbe("small", epochs=2).fit(rows, Y).predict_proba(rows)


def test_one_class_is_named_as_a_plain_value():
    with pytest.raises(ValueError, match=r"got one class: 'ant'$"):
        LinearProbe().fit(X, np.full(len(X), "ant"))
