"""SimSiam's names, loss and steps, against NumPy in float64 written from the paper's formulas."""

import copy

import numpy as np
import pytest
import torch
import torchvision

from pretrain.model import Outputs, SimSiam, parameter_groups, simsiam_loss
from pretrain.settings import PretrainSettings
from pretrain.step import TrainingStep
from simsiam_eval.runtime.processes import Processes

EPS = 1e-5  # of BN


@pytest.fixture(scope="module")
def small():
    """Built once, to be copied: drawing a trunk's weights takes longer than the tests."""
    torch.manual_seed(5)
    return SimSiam("resnet18", "cifar", dim=12, pred_dim=5, projector_hidden=16)


def norm_shapes(name, width, affine=True):
    shapes = {f"{name}.{key}": (width,) for key in ("running_mean", "running_var", *(("weight", "bias") * affine))}
    return shapes | {f"{name}.num_batches_tracked": ()}


def reference_shapes(arch, width):
    with torch.device("meta"):
        resnet = getattr(torchvision.models, arch)()
    shapes = {f"encoder.{key}": tuple(value.shape) for key, value in resnet.state_dict().items() if key[:3] != "fc."}
    shapes |= {"encoder.fc.0.weight": (width, width), "encoder.fc.3.weight": (width, width)}
    shapes |= {"encoder.fc.6.weight": (2048, width), "encoder.fc.6.bias": (2048,)}
    shapes |= norm_shapes("encoder.fc.1", width) | norm_shapes("encoder.fc.4", width)
    shapes |= norm_shapes("encoder.fc.7", 2048, affine=False) | norm_shapes("predictor.1", 512)
    shapes |= {"predictor.0.weight": (512, 2048), "predictor.3.weight": (2048, 512), "predictor.3.bias": (2048,)}
    return shapes


@pytest.mark.parametrize(("arch", "width"), [("resnet18", 512), ("resnet50", 2048)])
def test_state_dict_has_the_references_keys_and_shapes(arch, width):
    with torch.device("meta"):
        model = SimSiam(arch)
    assert {key: tuple(value.shape) for key, value in model.state_dict().items()} == reference_shapes(arch, width)


def test_only_the_last_projector_bias_is_frozen_and_residual_branches_start_at_zero(small):
    assert [name for name, value in small.named_parameters() if not value.requires_grad] == ["encoder.fc.6.bias"]
    assert not small.encoder.layer3[1].bn2.weight.any()
    assert small.encoder.layer3[1].bn1.weight.all()


def test_the_cifar_projector_has_two_layers():
    with torch.device("meta"):
        model = SimSiam("resnet18", "cifar", projector_layers=2, projector_hidden=2048)
    shapes = {key: tuple(value.shape) for key, value in model.encoder.fc.state_dict().items()}
    expected = {"0.weight": (2048, 512), "3.weight": (2048, 2048), "3.bias": (2048,)}
    assert shapes == expected | norm_shapes("1", 2048) | norm_shapes("4", 2048, affine=False)


def test_each_view_has_its_own_batch_statistics(small):
    model = copy.deepcopy(small).train()
    torch.manual_seed(0)
    view1, view2 = torch.randn(4, 3, 8, 8), 5 * torch.randn(4, 3, 8, 8) + 3
    p1, p2, z1, z2, features = model(view1, view2)
    torch.testing.assert_close(model.encoder.fc(features), z1)
    for p, z, view in ((p1, z1, view1), (p2, z2, view2)):
        torch.testing.assert_close(z, model.encoder(view))
        torch.testing.assert_close(p, model.predictor(z))
        torch.testing.assert_close(z.mean(dim=0), torch.zeros(12), atol=1e-5, rtol=0)
    assert int(model.encoder.bn1.num_batches_tracked) == 4  # two in the forward pass, two below


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
    loss = simsiam_loss(Outputs(*tensors, None), stop_gradient)
    loss.backward()
    expected, gradients = numpy_loss(*arrays)
    assert loss.item() == pytest.approx(expected, abs=1e-12)
    for tensor, gradient, is_z in zip(tensors, gradients, (False, False, True, True), strict=True):
        if is_z and stop_gradient:
            assert tensor.grad is None
        else:
            np.testing.assert_allclose(tensor.grad.numpy(), gradient, rtol=1e-10, atol=1e-14)


def test_loss_stops_the_gradient_unless_told_and_is_minus_one_where_all_agree():
    x = torch.randn(6, 9, dtype=torch.float64, requires_grad=True)
    z = torch.randn(6, 9, dtype=torch.float64, requires_grad=True)
    simsiam_loss(Outputs(x, x, z, z, None)).backward()
    assert z.grad is None
    assert simsiam_loss(Outputs(x, 2 * x, 3 * x, x, None)).item() == pytest.approx(-1)


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
            found = {}
            if kind == "linear":
                found = {"weight": g.T @ kept, "bias": g.sum(axis=0)}
                g = g @ self.w[f"{name}.weight"]
            elif kind == "norm":
                unit, deviation = kept
                found = {"weight": (g * unit).sum(axis=0), "bias": g.sum(axis=0)}
                g = g * self.w.get(f"{name}.weight", 1.0)
                g = (g - g.mean(axis=0) - unit * (g * unit).mean(axis=0)) / deviation
            else:
                g = g * kept
            for key, value in found.items():
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
                own = LRS[0] if fix_pred_lr and name.startswith("pred.") else lr
                w[name] = w[name] - own * velocity[name]
    return losses


@pytest.mark.parametrize("fix_pred_lr", [False, True])
@pytest.mark.parametrize("stop_gradient", [True, False])
def test_ten_steps_agree_with_numpy(small, stop_gradient, fix_pred_lr):
    model = copy.deepcopy(small).double().train()
    optimizer = torch.optim.SGD(
        parameter_groups(model, "constant" if fix_pred_lr else "cosine"), LRS[0], momentum=MOMENTUM, weight_decay=DECAY
    )
    modules = {"fc": model.encoder.fc, "pred": model.predictor}

    def weights():
        named = (
            (f"{place}.{name}", value) for place, part in modules.items() for name, value in part.named_parameters()
        )
        return {name: value.detach().numpy().copy() for name, value in named}

    ours, start = [], weights()
    batches = list(np.random.default_rng(6).normal(size=(10, 2, 9, 512)))
    for lr, (x1, x2) in zip(LRS, batches, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = LRS[0] if group.get("fix_lr") else lr
        z1, z2 = model.encoder.fc(torch.tensor(x1)), model.encoder.fc(torch.tensor(x2))
        loss = simsiam_loss(Outputs(model.predictor(z1), model.predictor(z2), z1, z2, x1), stop_gradient)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ours.append(loss.item())
    expected = {name: value.copy() for name, value in start.items()}
    losses = numpy_run(expected, batches, stop_gradient, fix_pred_lr)
    np.testing.assert_allclose(ours, losses, rtol=1e-8, atol=1e-10)
    after = weights()
    assert set(after) == set(expected)
    for name, value in after.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-7, atol=1e-9, err_msg=name)
        assert np.array_equal(value, start[name]) == (name == "fc.6.bias")


@pytest.mark.parametrize("fix_pred_lr", [False, True])
def test_every_parameter_is_in_one_group_and_only_the_predictor_keeps_its_lr(fix_pred_lr):
    with torch.device("meta"):
        model = SimSiam("resnet18", "cifar", dim=8, pred_dim=4)
    groups = parameter_groups(model, "constant" if fix_pred_lr else "cosine")
    assert sorted(id(one) for group in groups for one in group["params"]) == sorted(map(id, model.parameters()))
    fixed = {id(one) for group in groups if group.get("fix_lr") for one in group["params"]}
    assert fixed == ({id(one) for one in model.predictor.parameters()} if fix_pred_lr else set())


@pytest.mark.parametrize(("predictor", "expected"), [("cosine", [1, 1, 1, 0.5]), ("constant", [1, 1, 1, 1])])
def test_the_predictor_has_no_warm_up(predictor, expected):
    chosen = dict(preset="cifar10", dim=8, pred_dim=4, projector_hidden=8, predictor=predictor, lr=0.5, batch_size=512)
    settings = PretrainSettings(data="-", out="-", epochs=4, warmup_epochs=2, **chosen)
    step, lrs = TrainingStep(settings, Processes(torch.device("cpu"))), []
    own = {id(one) for one in step.model.predictor.parameters()}
    for epoch in range(4):
        encoder = step.set_lr(epoch)
        rates = {id(one): group["lr"] for group in step.optimizer.param_groups for one in group["params"]}
        assert {rate for one, rate in rates.items() if one not in own} == {encoder}
        lrs.append((encoder, *{rate for one, rate in rates.items() if one in own}))
    assert lrs == [pytest.approx(pair) for pair in zip([0.5, 1, 1, 0.5], expected, strict=True)]


def log_softmax(x):
    x = x - x.max(axis=1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


def test_cross_entropy_and_the_asymmetric_loss_against_the_formula():
    p1, p2, z1, z2 = np.random.default_rng(4).normal(size=(4, 6, 5))
    outputs = Outputs(*map(torch.tensor, (p1, p2, z1, z2)), None)
    terms = [-(np.exp(log_softmax(z)) * log_softmax(p)).sum(axis=1).mean() for p, z in ((p1, z2), (p2, z1))]
    assert simsiam_loss(outputs, similarity="cross-entropy").item() == pytest.approx(np.mean(terms), abs=1e-12)
    one = simsiam_loss(outputs, similarity="cross-entropy", symmetric=False).item()
    assert one == pytest.approx(terms[0], abs=1e-12)
    cosine = simsiam_loss(outputs, symmetric=False).item()
    assert cosine == pytest.approx(-cosine_and_gradient(p1, z2)[0].mean(), abs=1e-12)


def kinds(sequence):
    return [type(step).__name__ for step in sequence]


@pytest.mark.parametrize(
    ("norms", "projector", "predictor"),
    [
        ("none", ["Linear", "ReLU", "Linear"], ["Linear", "ReLU", "Linear"]),
        ("hidden", ["Linear", "BatchNorm1d", "ReLU", "Linear"], ["Linear", "BatchNorm1d", "ReLU", "Linear"]),
        ("all", ["Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d"],
         ["Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d"]),
    ],
)  # fmt: skip
def test_norms_of_the_heads(norms, projector, predictor):
    with torch.device("meta"):
        model = SimSiam("resnet18", projector_layers=2, projector_bn=norms, predictor_bn=norms)
    assert kinds(model.encoder.fc) == projector
    assert kinds(model.predictor) == predictor
    for head in (model.encoder.fc, model.predictor):
        for linear, following in zip(head, [*list(head)[1:], None], strict=True):
            if isinstance(linear, torch.nn.Linear) and head[-1] is not following and linear is not head[-1]:
                assert (linear.bias is None) == isinstance(following, torch.nn.BatchNorm1d)


def test_a_head_without_norm_trains_its_bias():
    with torch.device("meta"):
        model = SimSiam("resnet18", projector_bn="hidden")
    assert all(value.requires_grad for value in model.parameters())


def test_without_a_predictor_p_is_z_and_a_fixed_one_is_not_trained(small):
    with torch.device("meta"):
        none = SimSiam("resnet18", predictor="none")
        fixed = SimSiam("resnet18", predictor="fixed")
    z = torch.randn(3, 2048)
    assert none.predictor(z) is z
    assert not any(value.requires_grad for value in fixed.predictor.parameters())
    assert [key for key in none.state_dict() if key.startswith("predictor.")] == []
    assert all(value.requires_grad for value in fixed.encoder.layer1.parameters())


@pytest.mark.parametrize(
    ("size", "given", "last"), [(10, None, False), (32, None, True), (10, True, True), (32, False, False)]
)
def test_memory_format(size, given, last):
    settings = PretrainSettings(data="-", out="-", preset="digits", image_size=size, channels_last=given)
    weight = TrainingStep(settings, Processes(torch.device("cpu"))).model.encoder.layer4[0].conv2.weight
    assert weight.is_contiguous(memory_format=torch.channels_last) is last


def test_it_compiles_to_one_graph(small):
    """A break would leave each block to itself, the last ones uncompiled, as torch 2.11 did where sets were compared; later
    ones compile that too. (The eager backend needs no C++ compiler.)"""
    views = torch.randn(2, 4, 3, 16, 16)
    expected = copy.deepcopy(small)(*views)
    found = torch.compile(copy.deepcopy(small), backend="eager", fullgraph=True)(*views)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
