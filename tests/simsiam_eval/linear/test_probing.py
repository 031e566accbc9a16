import dataclasses
import math

import numpy as np
import pytest
import torch

from simsiam_eval.errors import DataError
from simsiam_eval.linear.feeds import CropFeed, ViewFeed
from simsiam_eval.linear.logistic import fit_logistic
from simsiam_eval.linear.probing import fit_in_one_pass, fit_linear, judge
from simsiam_eval.linear.protocols import PROTOCOLS, HeadRecipe, LogisticRecipe
from simsiam_eval.linear.selection import Candidate, Probe, best_of
from simsiam_eval.linear.training import LabeledFeatures

RECIPE = HeadRecipe(epochs=8, batch_size=16, lr=2.0, lars=False)


def train_set(classes=3, rows=60):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(rows) % classes
    features = torch.randn(rows, 5, generator=generator) + 2 * torch.eye(classes, 5)[labels]
    return LabeledFeatures({"features": features}, labels)


def every_second(data):
    return LabeledFeatures({layer: values[::2] for layer, values in data.layers.items()}, data.labels[::2])


def fit(probe, data, **arguments):
    """The head of a probe, and the notes of its progress."""
    notes = []
    arguments = {"test": every_second(data), "held_out": 0.2} | arguments
    made = fit_linear(data.layers, data.labels, probe.recipes, rows=probe.rows, after_step=notes.append, **arguments)
    assert len(notes) == probe.steps(data.labels.numpy())
    return made, notes


def test_the_best_has_the_highest_top1_then_the_smallest_loss_and_has_not_diverged():
    values = [(0.5, 1.0), (0.7, 2.0), (0.7, 1.5), (None, math.nan), (None, math.inf)]
    candidates = [Candidate(RECIPE, top1, loss) for top1, loss in values]
    assert best_of(candidates) is candidates[2]
    with pytest.raises(DataError, match="All candidate heads diverged"):
        best_of(candidates[3:])


def test_arrays_and_tensors_give_the_same_head_and_labels_need_not_start_at_zero():
    data = train_set()
    X, y = data.layers["features"].numpy(), np.array([-2, 5, 40])[data.labels]
    recipes = PROTOCOLS["small"].recipes(seed=1)
    expected = fit_linear(torch.from_numpy(X), data.labels, recipes)
    assert expected.classes.tolist() == [0, 1, 2] and len(expected.train_loss) == 100 and expected.test_top1 == []
    X.flags.writeable = False
    for features in (X, X.astype(np.float64), X[:, ::-1][:, ::-1], {"features": X}):
        made = fit_linear(features, y, recipes)
        assert made.classes.tolist() == [-2, 5, 40]
        assert torch.equal(made.head.weight, expected.head.weight) and made.head.weight.shape == (3, 5)
        assert torch.equal(made.head.bias, expected.head.bias) and made.head.bias.shape == (3,)
        assert made.train_loss == expected.train_loss


def test_one_pass_gives_the_same_heads_as_one_after_the_other():
    data = train_set()
    probes = [
        Probe(tuple(dataclasses.replace(RECIPE, lr=lr) for lr in (1e-6, 2.0))),
        Probe((RECIPE,), np.arange(30)),
    ]
    notes = []
    together = fit_in_one_pass(
        probes, data, CropFeed(data.layers), test=every_second(data), held_out=0.2, after_step=notes.append
    )
    assert len(notes) == 8
    for probe, one in zip(probes, together, strict=True):
        alone, _ = fit(probe, data)
        assert one.recipe == alone.recipe
        torch.testing.assert_close(one.head.weight, alone.head.weight)
        assert one.train_loss == pytest.approx(alone.train_loss)
        assert one.test_top1 == pytest.approx(alone.test_top1)
        assert [each.top1 for each in one.candidates] == [each.top1 for each in alone.candidates]
    assert together[0].recipe.lr == 2.0 and together[1].candidates == ()
    test = every_second(data)
    assert judge(together[0].head, test.layers["features"], test.labels)[0] == pytest.approx(together[0].test_top1[-1])


def test_with_one_image_per_class_nothing_is_held_out_and_the_middle_recipe_is_used():
    data, one_each = train_set(), np.arange(3)
    made, _ = fit(Probe(tuple(dataclasses.replace(RECIPE, lr=lr) for lr in (1e-6, 2.0, 4.0)), one_each), data)
    assert made.recipe.lr == 2.0 and made.candidates == ()
    made, notes = fit(Probe(tuple(LogisticRecipe(c) for c in (0.1, 1.0, 10.0)), one_each), data)
    assert made.recipe.c == 1.0 and len(notes) == 1


def test_logistic_regression_chooses_c_on_the_held_out_rows():
    made, notes = fit(Probe(tuple(LogisticRecipe(c) for c in (1e-6, 1.0))), train_set())
    assert [candidate.recipe.c for candidate in made.candidates] == [1e-6, 1.0]
    assert made.recipe == best_of(made.candidates).recipe
    assert len(notes) == 3 and made.train_loss == made.test_top1 == []


def test_views_are_used_in_turn():
    views = torch.randn(4, 3, 2).half()
    feed = ViewFeed("pool", views, torch.device("cpu"))
    for epoch in range(7):
        assert torch.equal(feed(epoch)["pool"], views[:, epoch % 3].float())


def test_a_head_that_diverges_is_an_error():
    with pytest.raises(DataError, match=r"diverged in epoch \d. Try a smaller learning rate"):
        fit(Probe((dataclasses.replace(RECIPE, lr=1e30, weight_decay=1e9),)), train_set())


@pytest.mark.parametrize("diverging", [1, 2])
def test_a_head_that_diverges_in_the_last_step_is_seen(diverging):
    """The loss of an epoch is taken before its steps."""
    last = dataclasses.replace(RECIPE, lars=False, epochs=1, batch_size=1000, lr=1e36, weight_decay=1e9)
    with pytest.raises(DataError, match="diverged"):
        fit(Probe(tuple(dataclasses.replace(last, lr=last.lr / (1 + k)) for k in range(diverging))), train_set())
    large = train_set()
    large.layers["features"].mul_(100)
    with pytest.raises(DataError, match="diverged"):
        fit(Probe((dataclasses.replace(last, lr=3e35, weight_decay=0.0),)), large)
    probe = Probe((dataclasses.replace(last, lr=0.1, weight_decay=0.0), last))
    made, _ = fit(probe, train_set())
    assert made.recipe == probe.recipes[0]
    assert [candidate.top1 is None for candidate in made.candidates] == [False, True]


def test_a_diverged_head_is_seen_without_a_test_set():
    last = dataclasses.replace(RECIPE, epochs=1, batch_size=1000, lr=1e36, weight_decay=1e9)
    with pytest.raises(DataError, match="diverged"):
        fit(Probe((last,)), train_set(), test=None)


def test_unscaled_features_beyond_the_range_of_float32_gradients_are_rejected():
    data = train_set()
    data.layers["features"].mul_(1e17)
    with pytest.raises(DataError, match=r"layer features reach .*e\+17; .* Use l2 or standard scaling"):
        fit(Probe((RECIPE,)), data)
    assert fit(Probe((dataclasses.replace(RECIPE, scaling="l2"),)), data)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("scaling", ["none", "standard"])
def test_logistic_heads_have_the_probabilities_of_scikit_learn(classes, scaling):
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    data = train_set(classes)
    head = fit_logistic(LogisticRecipe(0.3, scaling=scaling), data.layers["features"], data.labels)
    features = data.layers["features"].numpy()
    features = StandardScaler().fit_transform(features) if scaling == "standard" else features
    model = LogisticRegression(C=0.3, max_iter=1000).fit(features, data.labels.numpy())
    expected = torch.from_numpy(model.predict_proba(features)).float()
    probabilities = torch.softmax(head.scores(data.layers["features"]), 1)
    torch.testing.assert_close(probabilities, expected, rtol=0, atol=2e-3)
