import numpy as np
import pytest
import torch

from pretrain.health import output_std


def test_constant_output_is_zero_whatever_its_length():
    row = torch.randn(1, 64)
    lengths = torch.linspace(0.5, 20, 32)[:, None]
    assert output_std(row.expand(32, 64)).item() == pytest.approx(0, abs=1e-5)
    assert output_std(row * lengths).item() == pytest.approx(0, abs=1e-5)  # only the direction counts


@pytest.mark.parametrize("width", [32, 2048])
def test_random_directions_are_about_one(width):
    z = 7 * torch.randn(1000, width, generator=torch.Generator().manual_seed(0))
    assert output_std(z).item() == pytest.approx(1, abs=0.02)


def test_against_numpy_and_without_a_gradient():
    z = np.random.default_rng(0).normal(2, 1, (9, 5))
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    expected = np.sqrt(((unit - unit.mean(axis=0)) ** 2).mean(axis=0)).mean() * np.sqrt(5)
    assert 0.1 < expected < 0.9
    found = output_std(torch.tensor(z, requires_grad=True))
    assert found.item() == pytest.approx(expected, rel=1e-5)
    assert not found.requires_grad


def test_half_precision_is_computed_in_float32():
    z = torch.randn(64, 512, generator=torch.Generator().manual_seed(1)).bfloat16()
    assert output_std(z).dtype == torch.float32
    assert output_std(z).item() == pytest.approx(output_std(z.float()).item(), abs=1e-6)
