"""LARS against apex's LARC(clip=False) around SGD, written again in NumPy float64."""

import numpy as np
import pytest
import torch

from simsiam_eval.linear.lars import LARS

ETA, EPS = 0.001, 1e-8


def numpy_lars(weights, gradients, lr, momentum, decay):
    """Every weight along the steps; gradients[step][tensor]."""
    w = [weight.copy() for weight in weights]
    velocity = [None] * len(w)
    path = []
    for step in gradients:
        for i, g in enumerate(step):
            w_norm, g_norm = np.sqrt((w[i] ** 2).sum()), np.sqrt((g**2).sum())
            if w_norm > 0 and g_norm > 0:
                g = (g + decay * w[i]) * (ETA * w_norm / (g_norm + decay * w_norm + EPS))
            velocity[i] = g if velocity[i] is None else momentum * velocity[i] + g
            w[i] = w[i] - lr * velocity[i]
        path.append([one.copy() for one in w])
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
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_fifty_steps_agree_with_numpy(momentum, decay):
    weights, gradients = problem()
    parameters = parameters_of(weights)
    ours = our_path(LARS(parameters, 1.6, momentum, decay), parameters, gradients)
    for step, (mine, theirs) in enumerate(zip(ours, numpy_lars(weights, gradients, 1.6, momentum, decay), strict=True)):
        for a, b in zip(mine, theirs, strict=True):
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


@pytest.mark.parametrize("wrong", [{"lr": -1.0}, {"momentum": 1.0}, {"momentum": -0.1}, {"weight_decay": -1e-4}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError, match="impossible"):
        LARS(parameters_of([np.ones(2)]), **({"lr": 0.1} | wrong))
