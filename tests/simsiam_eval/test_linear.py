import dataclasses

import pytest
import torch
from torch.nn import functional

from simsiam_eval.linear import HeadRecipe, correct_predictions, train_linear_head

PLAIN = HeadRecipe(epochs=12, batch_size=16, lr=8.0, momentum=0.9, weight_decay=0.0, lars=False, seed=3)


def separable(rows=90, classes=3, width=6):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(rows) % classes
    return 0.1 * torch.randn(rows, width, generator=generator) + torch.eye(classes, width)[labels], labels


def train(recipe, features=None, labels=None, classes=3):
    if features is None:
        features, labels = separable()
    losses, weights = [], []

    def note(epoch, head, loss):
        assert epoch == len(losses)
        losses.append(loss)
        weights.append(head.weight.detach().clone())

    return train_linear_head(features, labels, classes, recipe, note), losses, weights


@pytest.mark.parametrize("recipe", [PLAIN, dataclasses.replace(PLAIN, lars=True, lr=500.0)])
def test_separable_data_is_learned(recipe):
    features, labels = separable()
    head, losses, _ = train(recipe)
    assert len(losses) == 12
    assert losses[-1] < 0.5 * losses[0]
    assert bool(correct_predictions(head, features, labels, 1).all())


def test_the_seed_decides_and_nothing_else_does():
    first = train(PLAIN)
    torch.manual_seed(99)
    again, other = train(PLAIN), train(dataclasses.replace(PLAIN, seed=4))
    assert torch.equal(first[0].weight, again[0].weight) and torch.equal(first[0].bias, again[0].bias)
    assert first[1] == again[1]
    assert not torch.equal(first[0].weight, other[0].weight)


def test_weights_start_normal_and_bias_zero():
    features = torch.zeros(4, 3000)  # the weights get no gradient
    labels = torch.tensor([0, 1, 0, 1])
    seen = []
    recipe = dataclasses.replace(PLAIN, epochs=1)
    head = train_linear_head(features, labels, 2, recipe, lambda epoch, head, loss: seen.append(loss))
    weight = head.weight.detach()
    assert float(weight.std()) == pytest.approx(0.01, rel=0.05)
    assert abs(float(weight.mean())) < 0.001
    assert not head.bias.any()  # balanced labels: the gradient of a bias at zero is zero
    assert seen == pytest.approx([0.693147], abs=1e-5)


def test_a_batch_larger_than_the_data_is_one_full_step_at_the_lr_of_the_batch():
    features, labels = separable(10)
    recipe = dataclasses.replace(PLAIN, epochs=2, batch_size=512, lr=0.3)
    _, losses, weights = train(recipe, features, labels)
    # By hand from the first epoch's weights: lr .6 times 1, then times 1/2, with momentum.
    generator = torch.Generator().manual_seed(recipe.seed)
    weight = torch.empty(3, 6).normal_(0, 0.01, generator=generator).requires_grad_()
    bias = torch.zeros(3, requires_grad=True)
    velocity = [0.0, 0.0]
    for epoch, lr in enumerate((0.6, 0.3)):
        loss = functional.cross_entropy(features @ weight.T + bias, labels)
        gradients = torch.autograd.grad(loss, (weight, bias))
        velocity = [0.9 * old + new for old, new in zip(velocity, gradients, strict=True)]
        with torch.no_grad():
            weight -= lr * velocity[0]
            bias -= lr * velocity[1]
        assert losses[epoch] == pytest.approx(loss.item(), rel=1e-5)
        torch.testing.assert_close(weights[epoch], weight.detach(), rtol=1e-5, atol=1e-6)


def test_a_smaller_last_batch_is_trained_on_and_weighed_by_its_rows(monkeypatch):
    sizes, each = [], []

    def noted(scores, labels):
        loss = functional_cross_entropy(scores, labels)
        sizes.append(len(labels))
        each.append(loss.item())
        return loss

    functional_cross_entropy = functional.cross_entropy
    monkeypatch.setattr(functional, "cross_entropy", noted)
    _, losses, _ = train(dataclasses.replace(PLAIN, epochs=1, batch_size=40))
    assert sizes == [40, 40, 10]
    assert losses[0] == pytest.approx(sum(n * loss for n, loss in zip(sizes, each, strict=True)) / 90, rel=1e-5)
    assert losses[0] != pytest.approx(sum(each) / 3, rel=1e-5)


def test_correct_predictions_counts_the_top_and_more_than_the_classes_is_all():
    head = torch.nn.Linear(3, 3, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.eye(3))
    features = torch.tensor([[3.0, 2, 1], [3, 2, 1], [3, 2, 1]])
    labels = torch.tensor([0, 1, 2])
    found = {top: correct_predictions(head, features, labels, top).tolist() for top in (1, 2, 5)}
    assert found == {1: [True, False, False], 2: [True, True, False], 5: [True, True, True]}
    many = features.repeat(3000, 1)  # more than one block
    assert correct_predictions(head, many, labels.repeat(3000), 1).sum() == 3000
