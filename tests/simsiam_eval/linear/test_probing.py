import dataclasses
import math

import numpy as np
import pytest
import torch

from simsiam_eval.errors import DataError
from simsiam_eval.linear.heads import HeadRecipe
from simsiam_eval.linear.logistic import LogisticRecipe, fit_logistic, fits
from simsiam_eval.linear.probing import CropFeed, Probe, ProbeData, ViewFeed, best_of, fit_probes, judge, passes

RECIPE = HeadRecipe(epochs=8, batch_size=16, lr=2.0, lars=False)


def data_of(classes=3, rows=60):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(rows) % classes
    features = torch.randn(rows, 5, generator=generator) + 2 * torch.eye(classes, 5)[labels]
    names = [f"class {number}" for number in range(classes)]
    return ProbeData({"pool": features}, labels, {"pool": features[::2]}, labels[::2], names)


def fit(probes, data, feed=None):
    notes = []
    return fit_probes(probes, data, feed or CropFeed(data.train), 0.2, notes.append), notes


def test_the_best_is_of_the_highest_top1_then_the_smallest_loss_and_never_a_diverged_one():
    tried = [(0.5, 1.0), (0.7, 2.0), (0.7, 1.5), (None, math.nan), (None, math.inf)]
    assert best_of([{"held_out_top1": top1, "held_out_loss": loss} for top1, loss in tried]) == 2


def test_a_costly_feed_gives_the_same_heads_in_one_pass():
    data = data_of()
    probes = [
        Probe(tuple(dataclasses.replace(RECIPE, lr=lr) for lr in (1e-6, 2.0))),
        Probe((RECIPE,), np.arange(30)),
    ]

    class Costly(CropFeed):
        costly = True

    two, notes = fit(probes, data)
    one, fewer = fit(probes, data, Costly(data.train))
    assert len(notes) == 8 * passes(probes, data, CropFeed({})) == 16
    assert len(fewer) == 8 * passes(probes, data, Costly({})) == 8
    for mine, other in zip(two, one, strict=True):
        assert mine.recipe == other.recipe
        torch.testing.assert_close(mine.head.weight, other.head.weight)
        assert mine.train_loss == pytest.approx(other.train_loss)
        assert mine.test_top1 == pytest.approx(other.test_top1)
        assert [one["held_out_top1"] for one in mine.tried] == [one["held_out_top1"] for one in other.tried]
    assert two[0].recipe.lr == 2.0 and two[1].tried == []
    top1, _ = judge(two[0].head, data.test["pool"], data.test_labels)
    assert top1 == pytest.approx(two[0].test_top1[-1])


def test_with_one_image_a_class_nothing_is_held_out_and_the_middle_is_fitted():
    data, one_each = data_of(), np.arange(3)
    probe = Probe(tuple(dataclasses.replace(RECIPE, lr=lr) for lr in (1e-6, 2.0, 4.0)), one_each)
    (fitted,), notes = fit([probe], data)
    assert fitted.recipe.lr == 2.0 and fitted.tried == []
    assert len(notes) == 8 * passes([probe], data, CropFeed({})) == 8
    logistic, told = Probe(tuple(LogisticRecipe(c) for c in (0.1, 1.0, 10.0)), one_each), []
    assert fit_logistic([logistic], data, 0.2, told.append)[0].recipe.c == 1.0
    assert len(told) == fits([logistic], data) == 1


def test_views_come_in_turn():
    views = torch.randn(4, 3, 2).half()
    feed = ViewFeed("pool", views, torch.device("cpu"))
    for epoch in range(7):
        assert torch.equal(feed(epoch)["pool"], views[:, epoch % 3].float())


def test_a_head_that_diverges_alone_is_refused():
    with pytest.raises(DataError, match=r"diverged in epoch \d: try a smaller --lr"):
        fit([Probe((dataclasses.replace(RECIPE, lr=1e30, weight_decay=1e9),))], data_of())


@pytest.mark.parametrize("diverging", [1, 2])
def test_a_head_that_diverges_in_the_last_step_is_seen(diverging):
    """The loss of an epoch is that before its steps."""
    last = dataclasses.replace(RECIPE, lars=False, epochs=1, batch_size=1000, lr=1e36, weight_decay=1e9)
    with pytest.raises(DataError, match="diverged: try smaller values of --lr"):
        fit([Probe(tuple(dataclasses.replace(last, lr=last.lr / (1 + one)) for one in range(diverging)))], data_of())
    scores_only = data_of()
    for features in (scores_only.train["pool"], scores_only.test["pool"]):
        features *= 100
    with pytest.raises(DataError, match="diverged"):
        fit([Probe((dataclasses.replace(last, lr=3e35, weight_decay=0.0),))], scores_only)
    probe = Probe((dataclasses.replace(last, lr=0.1, weight_decay=0.0), last))
    (fitted,), _ = fit([probe], data_of())
    assert fitted.recipe == probe.recipes[0]
    assert [one["held_out_top1"] is None for one in fitted.tried] == [False, True]


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("scaling", ["none", "standard"])
def test_logistic_heads_have_scikit_learns_probabilities(classes, scaling):
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    data = data_of(classes)
    probe = Probe((LogisticRecipe(0.3, scaling=scaling),))
    notes = []
    head = fit_logistic([probe], data, 0.2, notes.append)[0].head
    assert len(notes) == fits([probe], data) == 1
    features = data.train["pool"].numpy()
    features = StandardScaler().fit_transform(features) if scaling == "standard" else features
    model = LogisticRegression(C=0.3, max_iter=1000).fit(features, data.train_labels.numpy())
    expected = torch.from_numpy(model.predict_proba(features)).float()
    torch.testing.assert_close(torch.softmax(head.scores(data.train["pool"]), 1), expected, rtol=0, atol=2e-3)
