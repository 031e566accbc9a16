"""LARS against apex's LARC(clip=False) around SGD, written again in NumPy float64."""

import numpy as np
import pytest
import torch

from simsiam_eval.linear.lars import LARS

ETA, EPS = 0.001, 1e-8


def numpy_lars(weights, gradients, lr, momentum, decay, nesterov=False):
    """The weights after every step; gradients[step][tensor]."""
    w = [weight.copy() for weight in weights]
    velocity = [None] * len(w)
    path = []
    for step in gradients:
        for i, g in enumerate(step):
            w_norm, g_norm = np.sqrt((w[i] ** 2).sum()), np.sqrt((g**2).sum())
            if w_norm > 0 and g_norm > 0:
                g = (g + decay * w[i]) * (ETA * w_norm / (g_norm + decay * w_norm + EPS))
            velocity[i] = g if velocity[i] is None else momentum * velocity[i] + g
            w[i] = w[i] - lr * (g + momentum * velocity[i] if nesterov else velocity[i])
        path.append([array.copy() for array in w])
    return path


def our_path(optimizer, parameters, gradients):
    path = []
    for step in gradients:
        for parameter, gradient in zip(parameters, step, strict=True):
            parameter.grad = torch.tensor(gradient)
        optimizer.step()
        path.append([parameter.detach().numpy().copy() for parameter in parameters])
    return path


def problem():
    rng = np.random.default_rng(1)
    weights = [rng.normal(0, 0.01, (4, 6)), np.zeros(4)]
    gradients = [[rng.normal(size=(4, 6)), rng.normal(size=4)] for _ in range(50)]
    gradients[7][0][:] = 0  # a zero gradient on the weight, and on the bias
    gradients[9][1][:] = 0
    return weights, gradients


def parameters_of(weights):
    return [torch.nn.Parameter(torch.tensor(weight)) for weight in weights]


@pytest.mark.parametrize("decay", [0.0, 0.03])
@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_fifty_steps_agree_with_numpy(momentum, nesterov, decay):
    weights, gradients = problem()
    parameters = parameters_of(weights)
    optimizer = LARS(parameters, lr=1.6, momentum=momentum, weight_decay=decay, nesterov=nesterov)
    expected = numpy_lars(weights, gradients, 1.6, momentum, decay, nesterov)
    assert_same_path(our_path(optimizer, parameters, gradients), expected)


def assert_same_path(path, expected):
    for step, (weights, expected_weights) in enumerate(zip(path, expected, strict=True)):
        for a, b in zip(weights, expected_weights, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-14, err_msg=f"step {step}")


def test_the_first_step_of_a_zero_bias_is_unscaled_and_the_second_scaled():
    bias = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
    optimizer = LARS([bias], 0.5, momentum=0.0)
    bias.grad = torch.tensor([3.0, 4.0], dtype=torch.float64)
    optimizer.step()
    np.testing.assert_allclose(bias.detach().numpy(), [-1.5, -2.0])
    optimizer.step()  # |w| = 2.5, |g| = 5: scaled by .001 / 2
    np.testing.assert_allclose(bias.detach().numpy(), [-1.5 - 0.5 * 3 * 0.0005, -2 - 0.5 * 4 * 0.0005], rtol=1e-10)


def test_zero_gradient_is_left_as_it_is_even_with_weight_decay():
    weight = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer = LARS([weight], 1.0, weight_decay=0.1)
    weight.grad = torch.zeros(3, dtype=torch.float64)
    optimizer.step()
    assert torch.equal(weight.detach(), torch.ones(3, dtype=torch.float64))


def test_without_weight_decay_it_is_not_plain_sgd():
    weights, gradients = problem()
    ours, plain = parameters_of(weights), parameters_of(weights)
    mine = our_path(LARS(ours, 1.6, 0.9, 0.0), ours, gradients)[0][0] - weights[0]
    sgd = our_path(torch.optim.SGD(plain, 1.6, momentum=0.9), plain, gradients)[0][0] - weights[0]
    expected = ETA * np.linalg.norm(weights[0]) / (np.linalg.norm(gradients[0][0]) + EPS)
    np.testing.assert_allclose(mine, expected * sgd, rtol=1e-6)
    assert expected < 0.01


def test_a_parameter_without_a_gradient_stays_and_gradients_are_not_changed():
    still, moved = parameters_of([np.ones(2), np.ones(2)])
    moved.grad = torch.tensor([1.0, -2.0], dtype=torch.float64)
    LARS([still, moved], 1.0, weight_decay=0.5).step()
    assert still.tolist() == [1, 1]
    assert moved.tolist() != [1, 1]
    assert moved.grad.tolist() == [1, -2]


def test_parameter_groups_have_their_own_values():
    weights, gradients = problem()
    parameters = parameters_of(weights)
    optimizer = LARS([{"params": parameters[:1], "weight_decay": 0.1}, {"params": parameters[1:], "lr": 0.5}], lr=1.6)
    path = our_path(optimizer, parameters, gradients)
    first = numpy_lars(weights[:1], [step[:1] for step in gradients], 1.6, 0.9, 0.1)
    second = numpy_lars(weights[1:], [step[1:] for step in gradients], 0.5, 0.9, 0.0)
    assert_same_path(path, [a + b for a, b in zip(first, second, strict=True)])


def test_a_learning_rate_scheduler_sets_its_rate():
    weights, gradients = problem()
    parameters = parameters_of(weights)
    optimizer = LARS(parameters, lr=1.6, momentum=0.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    our_path(optimizer, parameters, gradients[:1])
    scheduler.step()
    before = [parameter.detach().numpy().copy() for parameter in parameters]
    path = our_path(optimizer, parameters, gradients[1:2])
    assert_same_path(path, numpy_lars(before, gradients[1:2], 0.8, 0.0, 0.0))


def test_a_saved_state_continues_as_if_it_was_not_interrupted(tmp_path):
    weights, gradients = problem()
    parameters = parameters_of(weights)
    optimizer = LARS(parameters, lr=1.6, weight_decay=0.03, trust_coefficient=0.002, nesterov=True)
    our_path(optimizer, parameters, gradients[:10])
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    resumed = parameters_of([parameter.detach().numpy() for parameter in parameters])
    other = LARS(resumed, lr=0.1)
    other.load_state_dict(torch.load(tmp_path / "optimizer.pt", weights_only=True))
    assert other.param_groups[0]["trust_coefficient"] == 0.002
    path = our_path(optimizer, parameters, gradients[10:])
    for after, expected in zip(our_path(other, resumed, gradients[10:]), path, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(after, expected, strict=True))


def test_a_closure_is_evaluated_with_gradients_and_its_loss_returned():
    weight = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    optimizer = LARS([weight], lr=1.0)

    def closure():
        optimizer.zero_grad()
        loss = (weight * torch.tensor([0.6, 0.8])).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == pytest.approx(5.0)
    torch.testing.assert_close(weight.detach(), torch.tensor([2.997, 3.996]))


def test_sparse_gradients_are_rejected():
    embedding = torch.nn.Embedding(4, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match="LARS does not support sparse gradients"):
        LARS(embedding.parameters(), lr=1.0).step()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lr": -1.0}, "Invalid lr: -1.0"),
        ({"lr": float("nan")}, "Invalid lr: nan"),
        ({"momentum": -0.1}, "Invalid momentum"),
        ({"weight_decay": -1e-4}, "Invalid weight_decay"),
        ({"trust_coefficient": -1.0}, "Invalid trust_coefficient"),
        ({"eps": -1.0}, "Invalid eps"),
        ({"momentum": 0.0, "nesterov": True}, "Nesterov momentum requires a momentum"),
    ],
)
def test_invalid_values_are_rejected(values, message):
    with pytest.raises(ValueError, match=message):
        LARS(parameters_of([np.ones(2)]), **({"lr": 0.1} | values))


def test_the_learning_rate_is_required():
    with pytest.raises(TypeError, match="lr"):
        LARS(parameters_of([np.ones(2)]))
