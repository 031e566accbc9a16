import sys

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from simsiam_eval.errors import UsageError
from simsiam_eval.linear import out_of_fold as module
from simsiam_eval.linear.heads import Head
from simsiam_eval.linear.out_of_fold import (
    confident_learning,
    head_probabilities,
    out_of_fold,
    probability_suspects,
)
from simsiam_eval.linear.scaling import Scaling


@pytest.fixture(scope="module")
def planted():
    """400 digits, 20 of them with a wrong label: features, labels, wrong rows."""
    features, labels = load_digits(return_X_y=True)
    features, labels = features[:400].astype(np.float32), labels[:400].astype(np.int64)
    rows = np.random.default_rng(0).choice(400, 20, replace=False)
    labels[rows] = (labels[rows] + 4) % 10
    return features, labels, rows


def together(blocks, count):
    rows, probabilities = zip(*blocks, strict=True)
    rows = np.concatenate(rows)
    assert sorted(rows) == list(range(count))
    return np.concatenate(probabilities)[np.argsort(rows)]


def test_each_row_is_predicted_once_by_a_classifier_that_did_not_see_it(planted, monkeypatch):
    features, labels, rows = planted
    monkeypatch.setattr(module, "_BLOCK", 13)
    probabilities = together(out_of_fold(features, labels, folds=4), len(labels))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    right = probabilities.argmax(axis=1) == labels
    assert right[rows].mean() < 0.2 and np.delete(right, rows).mean() > 0.85


def test_a_class_that_only_one_fold_has_gets_no_probability():
    features = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    labels = np.array([0] * 10 + [1] * 9 + [2])
    probabilities = together(out_of_fold(features, labels, folds=3), 20)
    assert probabilities[19, 2] == 0
    found = probability_suspects(out_of_fold(features, labels, folds=3), labels)
    assert np.isnan(found.margin[19]) and found.suggested[19] == -1 and len(found.order()) == 19


def test_more_folds_than_images_and_a_limit_of_rows(monkeypatch):
    features = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    together(out_of_fold(features, np.array([0, 0, 1, 1]), folds=50), 4)
    together(out_of_fold(features[:2], np.array([0, 1]), folds=2), 2)  # each fold knows one class
    monkeypatch.setattr(module, "_FITTED", 10)
    many = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    together(out_of_fold(many, np.arange(60) % 2), 60)


def test_planted_labels_are_found_by_both_judges(planted):
    features, labels, rows = planted
    logistic = probability_suspects(out_of_fold(features, labels), labels)
    assert np.isin(logistic.order()[:20], rows).mean() > 0.7
    pytest.importorskip("cleanlab")
    confident, pruned = confident_learning(out_of_fold(features, labels), labels)
    assert np.isin(confident.order()[:20], rows).mean() > 0.7
    assert pruned == (confident.margin < 0).sum() and 5 < pruned < 100
    assert confident.margin.min() >= -1 and confident.margin.max() <= 1


def test_a_head_with_other_classes_in_another_order():
    head = Head(torch.eye(3), torch.zeros(3), "pool", Scaling("none"))
    ((rows, probabilities),) = head_probabilities(head, 9 * np.eye(3, dtype=np.float32), np.array([1, -1, 0]), 2)
    assert rows.tolist() == [0, 1, 2]
    assert probabilities[[0, 2]].argmax(axis=1).tolist() == [1, 0] and probabilities[1].max() < 0.01


def test_cleanlab_is_missing_or_has_too_much_to_hold(planted, monkeypatch):
    features, labels, _ = planted
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "cleanlab", None)
        patch.setitem(sys.modules, "cleanlab.filter", None)
        with pytest.raises(UsageError, match=r"requires an extra: pip install .*\[cleanlab\]"):
            confident_learning(iter(()), labels)
    pytest.importorskip("cleanlab")
    monkeypatch.setattr(module, "_CONFIDENT_BYTES", 1000)
    with pytest.raises(UsageError, match="too many for 400 images of 10 classes"):
        confident_learning(out_of_fold(features, labels), labels)
