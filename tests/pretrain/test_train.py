"""The loss and ten steps of the loop, against NumPy in float64 written from the paper's formulas; learning rates."""

import copy

import numpy as np
import pytest
import torch

from pretrain.build import build_model, build_optimizer, training_recipe
from pretrain.callback import Callback, Position
from pretrain.model import Outputs, SimSiam, parameter_groups
from pretrain.settings import PretrainSettings
from pretrain.train import Recipe, negative_similarity, set_learning_rate, train
from simsiam_eval.runtime.processes import Processes

CPU = torch.device("cpu")
EPS = 1e-5  # of BN


@pytest.fixture(scope="module")
def small():
    """Built once, to be copied: drawing a trunk's weights takes longer than the tests."""
    torch.manual_seed(5)
    return SimSiam("resnet18", "cifar", dim=12, pred_dim=5, projector_hidden=16)


def symmetric_loss(p1, p2, z1, z2, loss="cosine", stop_gradient=True):
    D = negative_similarity(loss, stop_gradient)
    return 0.5 * (D(p1, z2) + D(p2, z1))


def cosine_and_gradient(p, z):
    """cos(p, z) of every row, and its gradient by p: (z/|z| - cos p/|p|) / |p|."""
    p_length, z_length = (np.linalg.norm(x, axis=1, keepdims=True) for x in (p, z))
    cosine = (p * z).sum(axis=1, keepdims=True) / (p_length * z_length)
    return cosine[:, 0], (z / z_length - cosine * p / p_length) / p_length


def numpy_loss(p1, p2, z1, z2):
    """The loss and its gradients by p1, p2, z1, z2 (those by z as without the stop-gradient)."""
    n = len(p1)
    first, second = cosine_and_gradient(p1, z2), cosine_and_gradient(p2, z1)
    gradients = (first[1], second[1], cosine_and_gradient(z1, p2)[1], cosine_and_gradient(z2, p1)[1])
    return -0.5 * (first[0].mean() + second[0].mean()), [-0.5 / n * gradient for gradient in gradients]


@pytest.mark.parametrize("stop_gradient", [True, False])
@pytest.mark.parametrize("shape", [(1, 3), (7, 5), (32, 64)])
def test_loss_and_gradients_against_the_formula(shape, stop_gradient):
    arrays = np.random.default_rng(3).normal(size=(4, *shape)) * np.array([0.1, 1, 3, 20]).reshape(4, 1, 1)
    tensors = [torch.tensor(array, requires_grad=True) for array in arrays]
    loss = symmetric_loss(*tensors, stop_gradient=stop_gradient)
    loss.backward()
    expected, gradients = numpy_loss(*arrays)
    assert loss.item() == pytest.approx(expected, abs=1e-12)
    for tensor, gradient, is_z in zip(tensors, gradients, (False, False, True, True), strict=True):
        if is_z and stop_gradient:
            assert tensor.grad is None
        else:
            np.testing.assert_allclose(tensor.grad.numpy(), gradient, rtol=1e-10, atol=1e-14)


def test_the_gradient_stops_at_z_and_the_loss_is_minus_one_where_all_agree():
    x = torch.randn(6, 9, dtype=torch.float64, requires_grad=True)
    z = torch.randn(6, 9, dtype=torch.float64, requires_grad=True)
    symmetric_loss(x, x, z, z).backward()
    assert z.grad is None
    assert symmetric_loss(x, 2 * x, 3 * x, x).item() == pytest.approx(-1)


def log_softmax(x):
    x = x - x.max(axis=1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


def test_cross_entropy_against_the_formula():
    p1, p2, z1, z2 = np.random.default_rng(4).normal(size=(4, 6, 5))
    terms = [-(np.exp(log_softmax(z)) * log_softmax(p)).sum(axis=1).mean() for p, z in ((p1, z2), (p2, z1))]
    loss = symmetric_loss(*map(torch.tensor, (p1, p2, z1, z2)), loss="cross-entropy")
    assert loss.item() == pytest.approx(np.mean(terms), abs=1e-12)


def test_the_asymmetric_loss_is_that_of_the_first_prediction(small):
    heads, losses, batch = Heads(copy.deepcopy(small)), Losses(), torch.randn(2, 4, 512)
    with torch.no_grad():
        p1, _, _, z2, _ = heads(*batch)
    optimizer = torch.optim.SGD(heads.parameters(), 0.1)
    train(heads, optimizer, iter([batch]), Recipe(1, 1, lr=0.1, symmetric=False), Position(), losses)
    assert losses.losses[0] == pytest.approx(-cosine_and_gradient(p1.numpy(), z2.numpy())[0].mean(), abs=1e-6)


def test_half_precision_is_compared_in_float32():
    p, z = torch.randn(2, 8, 16).bfloat16()
    assert negative_similarity()(p, z).dtype == torch.float32


class NumpyNet:
    """[Linear - BN - (ReLU)] ... by hand: `plan` names the layers, `w` holds the parameters under those names."""

    def __init__(self, plan, w):
        self.plan, self.w = plan, w

    def forward(self, x):
        tape = []
        for kind, name in self.plan:
            if kind == "linear":
                tape.append(x)
                x = x @ self.w[f"{name}.weight"].T + self.w.get(f"{name}.bias", 0.0)
            elif kind == "norm":
                deviation = np.sqrt(x.var(axis=0) + EPS)  # the biased variance normalizes
                unit = (x - x.mean(axis=0)) / deviation
                tape.append((unit, deviation))
                x = unit * self.w.get(f"{name}.weight", 1.0) + self.w.get(f"{name}.bias", 0.0)
            else:
                tape.append(x > 0)
                x = np.maximum(x, 0)
        return x, tape

    def backward(self, g, tape, gradients):
        for (kind, name), kept in zip(reversed(self.plan), reversed(tape), strict=True):
            gradient = {}
            if kind == "linear":
                gradient = {"weight": g.T @ kept, "bias": g.sum(axis=0)}
                g = g @ self.w[f"{name}.weight"]
            elif kind == "norm":
                unit, deviation = kept
                gradient = {"weight": (g * unit).sum(axis=0), "bias": g.sum(axis=0)}
                g = g * self.w.get(f"{name}.weight", 1.0)
                g = (g - g.mean(axis=0) - unit * (g * unit).mean(axis=0)) / deviation
            else:
                g = g * kept
            for key, value in gradient.items():
                if f"{name}.{key}" in self.w:
                    gradients[f"{name}.{key}"] = gradients.get(f"{name}.{key}", 0.0) + value
        return g


PROJECTOR = [("linear", "fc.0"), ("norm", "fc.1"), ("relu", ""), ("linear", "fc.3"), ("norm", "fc.4"), ("relu", "")]
PROJECTOR += [("linear", "fc.6"), ("norm", "fc.7")]
PREDICTOR = [("linear", "pred.0"), ("norm", "pred.1"), ("relu", ""), ("linear", "pred.3")]
LRS = [0.4 * 0.5 * (1 + np.cos(np.pi * step / 10)) for step in range(10)]  # a new one every step, to tell the groups
DECAY, MOMENTUM = 0.02, 0.9


def numpy_run(w, batches, stop_gradient, fix_pred_lr):
    """Ten SGD steps on `w`; the losses. fc.6.bias is frozen."""
    projector, predictor = NumpyNet(PROJECTOR, w), NumpyNet(PREDICTOR, w)
    velocity, losses = {}, []
    for lr, (x1, x2) in zip(LRS, batches, strict=True):
        (z1, tape1), (z2, tape2) = projector.forward(x1), projector.forward(x2)
        (p1, head1), (p2, head2) = predictor.forward(z1), predictor.forward(z2)
        loss, (by_p1, by_p2, by_z1, by_z2) = numpy_loss(p1, p2, z1, z2)
        losses.append(loss)
        gradients = {}
        through1 = predictor.backward(by_p1, head1, gradients)
        through2 = predictor.backward(by_p2, head2, gradients)
        projector.backward(through1 + (0 if stop_gradient else by_z1), tape1, gradients)
        projector.backward(through2 + (0 if stop_gradient else by_z2), tape2, gradients)
        for name in w:
            if name != "fc.6.bias":
                step = gradients[name] + DECAY * w[name]
                velocity[name] = MOMENTUM * velocity[name] + step if name in velocity else step
                rate = LRS[0] if fix_pred_lr and name.startswith("pred.") else lr
                w[name] = w[name] - rate * velocity[name]
    return losses


class Heads(torch.nn.Module):
    """Projector and predictor alone, with features as views."""

    def __init__(self, model):
        super().__init__()
        self.fc, self.pred = model.encoder.fc, model.predictor

    def forward(self, x1, x2):
        z1, z2 = self.fc(x1), self.fc(x2)
        return Outputs(self.pred(z1), self.pred(z2), z1, z2, x1)

    def weights(self):
        return {name: value.detach().numpy().copy() for name, value in self.named_parameters()}


class Losses(Callback):
    def __init__(self):
        self.losses = []

    def after_step(self, result):
        self.losses.append(result.loss.item())


@pytest.mark.parametrize("fix_pred_lr", [False, True])
@pytest.mark.parametrize("stop_gradient", [True, False])
def test_ten_steps_agree_with_numpy(small, stop_gradient, fix_pred_lr):
    model = copy.deepcopy(small).double().train()
    groups = parameter_groups(model, "constant" if fix_pred_lr else "cosine")
    optimizer = torch.optim.SGD(groups, 1.0, momentum=MOMENTUM, weight_decay=DECAY)
    heads, losses, position = Heads(model), Losses(), Position()
    start = heads.weights()
    batches = np.random.default_rng(6).normal(size=(10, 2, 9, 512))
    recipe = Recipe(epochs=10, steps=1, lr=LRS[0], stop_gradient=stop_gradient)
    train(heads, optimizer, iter(torch.tensor(batches)), recipe, position, losses)
    expected = {name: value.copy() for name, value in start.items()}
    expected_losses = numpy_run(expected, batches, stop_gradient, fix_pred_lr)
    np.testing.assert_allclose(losses.losses, expected_losses, rtol=1e-6, atol=1e-7)  # losses are float32
    assert (position.epoch, position.step) == (10, 0)
    assert position.history == [{"epoch": epoch} for epoch in range(10)]
    after = heads.weights()
    assert set(after) == set(expected)
    for name, value in after.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-7, atol=1e-9, err_msg=name)
        assert np.array_equal(value, start[name]) == (name == "fc.6.bias")


def test_accumulated_gradients_are_those_of_the_whole_batch(small):
    """Without BN, whose statistics are those of a part."""
    torch.manual_seed(3)
    batch = torch.randn(2, 8, 512).double()
    runs = []
    for accumulate in (1, 4):
        heads = Heads(copy.deepcopy(small)).double().eval()
        losses, optimizer = Losses(), torch.optim.SGD(heads.parameters(), 0.1)
        train(heads, optimizer, iter([batch]), Recipe(1, 1, lr=0.1, accumulate=accumulate), Position(), losses)
        runs.append((losses.losses[0], heads.weights()))
    assert runs[0][0] == pytest.approx(runs[1][0], abs=1e-6)
    for name, value in runs[0][1].items():
        np.testing.assert_allclose(runs[1][1][name], value, rtol=1e-9, atol=1e-12)


def test_a_run_starts_at_its_position(small):
    """The batches of earlier steps are not asked for."""
    heads, losses = Heads(copy.deepcopy(small)), Losses()
    optimizer = torch.optim.SGD(heads.parameters(), 0.1)
    batches = iter(torch.randn(4, 2, 4, 512))
    train(heads, optimizer, batches, Recipe(epochs=3, steps=3, lr=0.1), Position(epoch=1, step=2), losses)
    assert len(losses.losses) == 4
    assert next(batches, None) is None


@pytest.mark.parametrize(("predictor", "expected"), [("cosine", [1, 1, 1, 0.5]), ("constant", [1, 1, 1, 1])])
def test_the_predictor_has_no_warm_up(predictor, expected):
    options = dict(preset="cifar10", dim=8, pred_dim=4, projector_hidden=8, predictor=predictor, lr=0.5, batch_size=512)
    settings = PretrainSettings(data="-", out="-", epochs=4, warmup_epochs=2, **options)
    model, lrs = build_model(settings, Processes(CPU)), []
    optimizer, recipe = build_optimizer(settings, model, CPU), training_recipe(settings, 1, CPU)
    of_predictor = {id(value) for value in model.predictor.parameters()}
    for epoch in range(4):
        set_learning_rate(optimizer, recipe, epoch)
        rates = {id(value): group["lr"] for group in optimizer.param_groups for value in group["params"]}
        (encoder,) = {rate for key, rate in rates.items() if key not in of_predictor}
        lrs.append((encoder, *{rate for key, rate in rates.items() if key in of_predictor}))
    assert lrs == [pytest.approx(pair) for pair in zip([0.5, 1, 1, 0.5], expected, strict=True)]
