import math

import numpy as np
import pytest
import torch

from pretrain.health import Doctor, Health, collapse_of, effective_rank, explained_variance_auc, measure, output_std
from pretrain.model import Outputs, _mlp, simsiam_loss

HEALTHY = Health(0.98, 20.0, 15.0, 0.9, 0.2, -1.8)
POINT = Health(0.02, 1.0, 3.0, 0.99, 0.0, 0.0)
LINE = Health(0.4, 1.3, 9.0, 0.99, 0.2, -0.1)


def test_output_std_of_known_outputs():
    spread = torch.cat([torch.eye(6), -torch.eye(6)])
    assert output_std(spread).item() == pytest.approx(math.sqrt(6) * math.sqrt(2 / 12))
    assert output_std(torch.ones(5, 4)).item() == pytest.approx(0, abs=1e-6)
    assert output_std(torch.randn(4000, 50)).item() == pytest.approx(1, abs=0.02)
    assert output_std(7 * spread).item() == pytest.approx(output_std(spread).item())


@pytest.mark.parametrize("shape", [(40, 12), (12, 40)])
def test_ranks_of_known_spectra(shape):
    rng = np.random.default_rng(0)
    left, _ = np.linalg.qr(rng.normal(size=(shape[0], 10)))
    right, _ = np.linalg.qr(rng.normal(size=(shape[1], 10)))
    for spectrum in (np.ones(10), np.arange(1.0, 11), np.array([1.0] + [0] * 9), 0.5 ** np.arange(10.0)):
        rows = torch.from_numpy(left * spectrum @ right.T)
        shares = spectrum[spectrum > 0] / spectrum.sum()
        expected = math.exp(-(shares * np.log(shares)).sum())
        assert effective_rank(rows).item() == pytest.approx(expected, rel=1e-5)
        assert effective_rank(rows.float() * 1e3).item() == pytest.approx(expected, rel=2e-2)


def test_explained_variance_auc_against_the_svd():
    for shape in ((30, 8), (8, 30)):
        rows = torch.from_numpy(np.random.default_rng(1).normal(size=shape) * np.linspace(1, 3, shape[1]))
        variance = np.linalg.svd(rows - rows.mean(0), compute_uv=False) ** 2
        expected = (np.cumsum(variance) / variance.sum())[: min(shape[0] - 1, shape[1])].mean()
        assert explained_variance_auc(rows).item() == pytest.approx(expected, rel=1e-9)
    line = torch.arange(20.0)[:, None] * torch.ones(6)
    assert explained_variance_auc(line).item() == pytest.approx(1)
    flat = torch.cat([torch.eye(6), -torch.eye(6)])
    assert explained_variance_auc(flat).item() == pytest.approx(3.5 / 6)


def test_alignment_and_uniformity_against_a_double_loop():
    z1, z2 = torch.randn(2, 9, 5, dtype=torch.float64)
    health = measure(torch.randn(9, 7), z1, z2)
    one, two = (z / z.norm(dim=1, keepdim=True) for z in (z1, z2))
    alignment = sum(float(((a - b) ** 2).sum()) for a, b in zip(one, two, strict=True)) / 9
    pairs = [math.exp(-2 * float(((one[i] - one[j]) ** 2).sum())) for i in range(9) for j in range(i)]
    assert health.alignment == pytest.approx(alignment, rel=1e-5)
    assert health.uniformity == pytest.approx(math.log(sum(pairs) / len(pairs)), rel=1e-4)


def test_outputs_that_are_all_the_same_are_numbers_not_nan():
    health = measure(torch.ones(8, 4), torch.ones(8, 6), torch.ones(8, 6))
    assert all(math.isfinite(value) for value in health.to_dict().values())
    assert collapse_of(health) == "full"
    zeros = measure(torch.zeros(8, 4), torch.zeros(8, 6), torch.zeros(8, 6))
    assert all(math.isfinite(value) for value in zeros.to_dict().values())


def test_a_finding_must_last_and_is_told_once():
    doctor = Doctor()
    said = [doctor.diagnose(one) for one in (LINE, LINE, HEALTHY, LINE, LINE, LINE, LINE, POINT, POINT, POINT, POINT)]
    assert [bool(text) for text in said] == [False] * 5 + [True, False] + [False, False, True, False]
    assert "few directions" in said[5] and "effective rank 1.3" in said[5]
    assert "to a point" in said[9]
    assert "--lr" in said[9] and "--predictor" in said[9]


def test_the_state_goes_on():
    one, two = Doctor(), Doctor()
    for look in (LINE, LINE):
        one.diagnose(look)
        two.diagnose(look)
    two = Doctor(two.to_dict())
    assert one.diagnose(LINE) == two.diagnose(LINE) != ""


def diagnoses(stop_gradient=True, predictor=True, norms="all"):
    """What the doctor says of projector and predictor trained on noise: all its findings, and the state at the end."""
    torch.manual_seed(0)
    projector = _mlp([64, 64, 64, 32], norms, last_affine=False)
    head = _mlp([32, 8, 32], "hidden") if predictor else torch.nn.Sequential()
    parameters = [*projector.parameters(), *head.parameters()]
    optimiser = torch.optim.SGD(parameters, 0.5, momentum=0.9, weight_decay=1e-3)
    doctor, said = Doctor(), []
    for step in range(200):
        images = torch.randn(64, 64)
        features = [images + 2 * torch.randn(64, 64) for _ in range(2)]
        z1, z2 = map(projector, features)
        optimiser.zero_grad()
        simsiam_loss(Outputs(head(z1), head(z2), z1, z2, features[0]), stop_gradient).backward()
        optimiser.step()
        if step % 5 == 4:
            health = measure(features[0], z1.detach(), z2.detach())
            said += filter(None, [doctor.diagnose(health)])
    return said, collapse_of(health)


def test_a_healthy_run_is_left_in_peace():
    assert diagnoses() == ([], None)


def test_without_stop_gradient_the_collapse_is_seen():
    said, kind = diagnoses(stop_gradient=False)
    assert kind == "partial"
    assert "few directions" in said[0]


def test_without_a_predictor_the_collapse_is_seen():
    said, kind = diagnoses(predictor=False)
    assert kind == "partial"
    assert "few directions" in said[0]


def test_without_the_last_norm_it_is_a_point():
    said, kind = diagnoses(stop_gradient=False, norms="hidden")
    assert kind == "full"
    assert "to a point" in said[-1]
