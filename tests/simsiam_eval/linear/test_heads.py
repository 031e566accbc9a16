"""Heads trained together against a plain loop with nn.Linear, autograd and LARS or torch.optim.SGD."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as some
from torch.nn import functional

from simsiam_eval.linear.heads import Head, HeadStack, among_top, stacks_of
from simsiam_eval.linear.lars import LARS
from simsiam_eval.linear.protocols import HeadRecipe
from simsiam_eval.linear.scaling import Scaling
from simsiam_eval.linear.schedule import epoch_lr

PLAIN = HeadRecipe(epochs=12, batch_size=16, lr=8.0, lars=False, seed=3)


def separable(rows=90, classes=3, width=6):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(rows) % classes
    return 0.1 * torch.randn(rows, width, generator=generator) + torch.eye(classes, width)[labels], labels


def stack_of(*recipes, rows=None):
    return HeadStack(recipes, *separable(), 3, rows)


def trained(*recipes, rows=None):
    stack = stack_of(*recipes, rows=rows)
    losses = [stack.train_epoch(separable()[0], epoch) for epoch in range(recipes[0].epochs)]
    return stack, torch.stack(losses, dim=1)


def reference(recipe, rows=None):
    """The same head as nn.Linear, trained with autograd and LARS or torch's SGD: weight, bias, losses."""
    features, labels = separable()
    if rows is not None:
        features, labels = features[rows], labels[rows]
    features = Scaling.fit(recipe.scaling, features)(features)
    head = torch.nn.Linear(6, 3)
    with torch.no_grad():
        head.weight.copy_(torch.empty(3, 6).normal_(0, 0.01, generator=torch.Generator().manual_seed(recipe.seed)))
        head.bias.zero_()
    order, base = torch.Generator().manual_seed(recipe.seed + 2**32), recipe.lr * recipe.batch_size / 256
    kind = LARS if recipe.lars else torch.optim.SGD
    optimizer = kind(head.parameters(), lr=base, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    losses = []
    for epoch in range(recipe.epochs):
        optimizer.param_groups[0]["lr"] = epoch_lr(base, epoch, recipe.epochs, schedule=recipe.schedule)
        total = 0.0
        for batch in torch.randperm(len(labels), generator=order).split(recipe.batch_size):
            loss = functional.cross_entropy(head(features[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
        losses.append(total / len(labels))
    return head.weight.detach(), head.bias.detach(), losses


LARGE = dataclasses.replace(PLAIN, lars=True, lr=500.0)
KINDS = {
    "sgd": PLAIN,
    "lars": LARGE,
    "step, weight decay": dataclasses.replace(PLAIN, schedule="step", weight_decay=0.02),
    "lars, weight decay": dataclasses.replace(LARGE, weight_decay=0.02),
    "standard": dataclasses.replace(PLAIN, scaling="standard", lr=1.0),
    "l2": dataclasses.replace(LARGE, scaling="l2"),
    "one batch of all": dataclasses.replace(LARGE, batch_size=512, lr=20.0),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", [False, True])
def test_heads_trained_together_are_those_trained_alone_and_reference(kind, part):
    recipe = KINDS[kind]
    rows = torch.arange(0, 90, 2) if part else None
    lrs, decays = (recipe.lr, recipe.lr / 7, recipe.lr * 1.5), (recipe.weight_decay, 0.1, 0.0)
    recipes = [dataclasses.replace(recipe, lr=lr, weight_decay=decay) for lr, decay in zip(lrs, decays, strict=True)]
    together, losses = trained(*recipes, rows=rows)
    for number, one in enumerate(recipes):
        alone, loss = trained(one, rows=rows)
        weight, bias, by_epoch = reference(one, rows)
        for mine, head in ((together.head(number), losses[number]), (alone.head(0), loss[0])):
            torch.testing.assert_close(mine.weight, weight, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(mine.bias, bias, rtol=1e-4, atol=1e-5)
            assert head.tolist() == pytest.approx(by_epoch, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("recipe", [PLAIN, LARGE])
def test_separable_data_is_learned(recipe):
    features, labels = separable()
    stack, losses = trained(recipe)
    assert losses[0, -1] < 0.5 * losses[0, 0]
    top1, loss = stack.judge(features, labels)
    assert top1.tolist() == [1.0]
    scores = stack.head(0).scores(features)
    assert bool(among_top(scores, labels, 1).all())
    assert loss.item() == pytest.approx(functional.cross_entropy(scores, labels).item(), rel=1e-5)


def test_every_probability_is_a_normal_number():
    """Products of subnormal numbers are many times slower, and a head that fits makes them by the thousand."""
    features, labels = torch.ones(8, 1), torch.zeros(8, dtype=torch.int64)
    stack = HeadStack([PLAIN], features, labels, 3)
    sure = torch.tensor([[[95.0], [0.0], [0.0]]])
    stack.restore(stack.state() | {"weight": sure})
    tiny = torch.finfo(torch.float32).tiny
    assert 0 < torch.softmax(sure, dim=1)[0, 1] < tiny
    stack.train_epoch(features, 0)
    velocity = stack.state()["velocity"].abs()
    assert velocity.max() < 1e-30
    assert velocity[velocity > 0].min() > tiny


def test_the_seed_decides_and_nothing_else_does():
    first = trained(PLAIN)[0].head(0).weight
    torch.manual_seed(99)
    assert torch.equal(first, trained(PLAIN)[0].head(0).weight)
    assert not torch.equal(first, trained(dataclasses.replace(PLAIN, seed=4))[0].head(0).weight)


def test_weights_start_normal_and_bias_zero():
    labels = torch.tensor([0, 1, 0, 1])
    stack = HeadStack([dataclasses.replace(PLAIN, epochs=1)], torch.zeros(4, 3000), labels, 2)
    loss = stack.train_epoch(torch.zeros(4, 3000), 0)  # the weights get no gradient
    head = stack.head(0)
    assert float(head.weight.std()) == pytest.approx(0.01, rel=0.05)
    assert abs(float(head.weight.mean())) < 0.001
    assert not head.bias.any()  # balanced labels: the gradient of a bias at zero is zero
    assert loss.tolist() == pytest.approx([0.693147], abs=1e-5)


def test_a_head_that_diverges_leaves_the_others_alone():
    wild = dataclasses.replace(PLAIN, lr=1e30, weight_decay=1e9)
    together, losses = trained(PLAIN, wild)
    assert losses[0].isfinite().all() and not losses[1].isfinite().all()
    torch.testing.assert_close(together.head(0).weight, trained(PLAIN)[0].head(0).weight)


def test_a_stack_is_of_one_layer_and_scaling_and_stacks_are_as_few_as_can_be():
    with pytest.raises(ValueError, match="differ"):
        stack_of(PLAIN, dataclasses.replace(PLAIN, scaling="l2"))
    features, labels = separable()
    recipes = [
        dataclasses.replace(PLAIN, lr=lr, layer=layer, scaling=scaling)
        for lr in (1.0, 2.0)
        for layer in ("pool", "layer3")
        for scaling in ("none", "l2")
    ]
    stacks = stacks_of(recipes, {"pool": features, "layer3": features[:, :4]}, labels, 3)
    assert sorted(len(one.recipes) for one in stacks) == [2, 2, 2, 2]
    assert {one.weight.shape[2] for one in stacks if one.recipe.layer == "layer3"} == {4}


def test_the_top_are_the_highest_and_more_than_the_classes_are_all():
    scores = torch.tensor([[3.0, 2, 1], [3, 2, 1], [3, 2, 1]])
    labels = torch.tensor([0, 1, 2])
    found = {top: among_top(scores, labels, top).tolist() for top in (1, 2, 5)}
    assert found == {1: [True, False, False], 2: [True, True, False], 5: [True, True, True]}


@given(some.integers(1, 9), some.integers(2, 7), some.integers(1, 9), some.integers(0, 10**6))
def test_the_top_are_the_highest_scores_and_of_equal_ones_the_lower_classes(rows, classes, top, seed):
    rng = np.random.default_rng(seed)
    scores, labels = rng.integers(0, classes, (rows, classes)), rng.integers(classes, size=rows)  # with ties
    best = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    expected = (best == labels[:, None]).any(axis=1)
    assert among_top(torch.from_numpy(scores), torch.from_numpy(labels), top).tolist() == expected.tolist()


def test_scores_of_many_rows_are_those_of_each():
    head = Head(torch.eye(3), torch.tensor([0.0, 1, 0]), "pool", Scaling("none"))
    features = torch.randn(20000, 3)
    torch.testing.assert_close(head.scores(features), features + torch.tensor([0.0, 1, 0]))
