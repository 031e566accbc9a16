"""The measures against closed forms and plain NumPy; the collapse monitor on runs that collapse and on one that does not."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

from pretrain.health import CollapseMonitor, Health, measure
from simsiam_eval.metrics.spread import effective_rank, explained_variance_auc, output_std

WELL = Health(
    output_std=0.99,
    output_rank=12.0,
    rank_limit=64.0,
    feature_rank=20.0,
    feature_auc=0.8,
    alignment=0.1,
    uniformity=-2.5,
)
ONE_POINT = replace(WELL, output_std=0.3, output_rank=1.2)
ONE_LINE = replace(WELL, output_rank=1.8)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_spectrum(values, rows, width):
    """(rows, width) with these singular values and, of float64, a mean row of 0."""
    left = torch.linalg.qr(torch.cat((torch.ones(rows, 1), normal(rows, len(values))), dim=1)).Q[:, 1:]
    right = torch.linalg.qr(normal(width, len(values), seed=1)).Q
    return left @ torch.diag(torch.as_tensor(values, dtype=torch.float64)) @ right.T


def test_the_std_of_a_constant_output_is_zero_whatever_its_length():
    row = torch.randn(1, 64)
    lengths = torch.linspace(0.5, 20, 32)[:, None]
    assert output_std(row.expand(32, 64)).item() == pytest.approx(0, abs=1e-5)
    assert output_std(row * lengths).item() == pytest.approx(0, abs=1e-5)  # only the direction counts


@pytest.mark.parametrize("width", [32, 2048])
def test_the_std_of_random_directions_is_about_one(width):
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


@pytest.mark.parametrize("rows, width", [(40, 100), (100, 40)])
def test_effective_rank_of_known_spectra(rows, width):
    assert effective_rank(with_spectrum([3.0] * 10, rows, width)).item() == pytest.approx(10)
    assert effective_rank(with_spectrum([5.0], rows, width)).item() == pytest.approx(1)
    shares = np.array([0.5, 0.25, 0.25])  # entropy 1.5 ln 2
    assert effective_rank(with_spectrum(8 * shares, rows, width)).item() == pytest.approx(2**1.5)


@pytest.mark.parametrize("rows, width", [(40, 100), (100, 40)])
def test_explained_variance_of_known_spectra(rows, width):
    directions = min(rows - 1, width)
    flat = with_spectrum([2.0] * directions, rows, width)
    assert explained_variance_auc(flat).item() == pytest.approx((directions + 1) / (2 * directions))
    assert explained_variance_auc(with_spectrum([7.0], rows, width)).item() == pytest.approx(1)
    two = with_spectrum([3.0, 1.0], rows, width)  # .75, 1, 1, ...
    assert explained_variance_auc(two).item() == pytest.approx(1 - 0.25 / directions)


@pytest.mark.parametrize("rows, width", [(8, 200), (200, 8), (50, 50), (2, 3)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_ranks_agree_with_numpys_svd(rows, width, dtype):
    x = (normal(rows, width) @ torch.diag(torch.logspace(0, -3, width, dtype=torch.float64)) + 1).to(dtype)
    exact = x.double().numpy()
    values = np.linalg.svd(exact, compute_uv=False)
    shares = values / values.sum()
    assert effective_rank(x).item() == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-5)
    values = np.linalg.svd(exact - exact.mean(axis=0), compute_uv=False)[: min(rows - 1, width)]
    area = np.mean([values[: k + 1].sum() / values.sum() for k in range(len(values))])
    assert explained_variance_auc(x).item() == pytest.approx(area, rel=1e-5)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_rank_and_area_do_not_depend_on_scale(scale):
    x = normal(20, 30)
    assert effective_rank((x * scale).float()).item() == pytest.approx(effective_rank(x).item(), rel=1e-5)
    assert explained_variance_auc((x * scale).float()).item() == pytest.approx(
        explained_variance_auc(x).item(), rel=1e-5
    )


def test_rank_and_area_do_not_depend_on_rounding():
    row = normal(1, 512).float()
    x = row * torch.linspace(0.5, 20, 64)[:, None]
    assert effective_rank(x).item() == pytest.approx(1, abs=1e-3)
    assert explained_variance_auc(x).item() == pytest.approx(1, abs=1e-3)
    constant = 100 + row.expand(64, 512)
    assert effective_rank(constant).item() == pytest.approx(1, abs=1e-3)
    assert explained_variance_auc(constant).item() == 1


def test_alignment_and_uniformity_against_a_double_loop():
    z1, z2 = normal(9, 5), normal(9, 5, seed=1)
    health = measure(normal(9, 4, seed=2), z1.float(), z2.float())
    units = [z.numpy() / np.linalg.norm(z.numpy(), axis=1, keepdims=True) for z in (z1, z2)]
    squared = [sum((a - b) ** 2) for a, b in zip(*units, strict=True)]
    assert health.alignment == pytest.approx(np.mean(squared), rel=1e-5)
    logs = []
    for unit in units:
        potentials = [np.exp(-2 * sum((unit[i] - unit[j]) ** 2)) for i in range(9) for j in range(i)]
        logs.append(np.log(np.mean(potentials)))
    assert health.uniformity == pytest.approx(np.mean(logs), rel=1e-5)


def test_each_measure_is_of_the_tensor_in_its_name():
    features, z1, z2 = normal(20, 12), normal(20, 30, seed=1), normal(20, 30, seed=2)
    health = measure(features, z1.requires_grad_(), z2)
    assert health.output_std == pytest.approx(output_std(z1).item())
    assert health.output_rank == pytest.approx(effective_rank(z1).item())
    assert health.feature_rank == pytest.approx(effective_rank(features).item())
    assert health.feature_auc == pytest.approx(explained_variance_auc(features).item())
    assert health.rank_limit == 20
    assert all(type(value) is float for value in health.to_dict().values())
    assert Health(**json.loads(json.dumps(health.to_dict()))) == health


def test_spectra_of_a_large_batch_are_of_its_first_rows():
    x = normal(600, 400)
    health = measure(x, x, x)
    assert health.rank_limit == 256
    assert health.output_rank == pytest.approx(effective_rank(x[:256]).item())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_constant_input_is_a_full_collapse_and_no_nan(dtype, value):
    x = torch.full((16, 64), value, dtype=dtype)
    health = measure(x, x, x)
    assert np.isfinite(list(health.to_dict().values())).all()
    assert health.output_std == 0
    assert health.output_rank == health.feature_rank == pytest.approx(value)
    assert health.feature_auc == 1
    assert health.alignment == pytest.approx(0, abs=1e-6)
    assert health.uniformity == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_do_not_count(bad):
    x = torch.randn(8, 16)
    spoilt = x.clone()
    spoilt[3, 3] = bad
    for tensors in ((spoilt, x, x), (x, spoilt, x), (x, x, spoilt)):
        health = measure(*tensors)
        assert np.isnan(health.output_rank)
        monitor = CollapseMonitor()
        said = [bool(monitor.check(one)) for one in (ONE_LINE, ONE_LINE, health, ONE_LINE)]
        assert said == [False, False, False, True]


def test_wrong_shapes_are_rejected():
    x = torch.randn(4, 8)
    for tensors in ((x[:3], x, x), (x, x, x[:, :4]), (x[:1], x[:1], x[:1]), (x, x[0], x[0])):
        with pytest.raises(ValueError, match="features"):
            measure(*tensors)


def warnings_of(monitor, *healths):
    return [monitor.check(health).split(" ")[0] for health in healths]


def test_a_collapse_is_reported_after_three_consecutive_checks():
    monitor = CollapseMonitor()
    assert warnings_of(monitor, ONE_POINT, ONE_POINT, WELL, ONE_LINE, ONE_LINE, WELL) == [""] * 6
    assert warnings_of(monitor, ONE_LINE, ONE_LINE) == ["", ""]
    assert monitor.collapse == ""
    assert warnings_of(monitor, ONE_LINE) == ["Partial"]
    assert monitor.collapse == "partial"
    assert warnings_of(monitor, WELL) == [""]
    assert monitor.collapse == ""


def test_a_lasting_collapse_is_reported_less_and_less_often():
    said = [at for at, words in enumerate(warnings_of(CollapseMonitor(), *[ONE_POINT] * 50), 1) if words]
    assert said == [3, 6, 12, 24, 48]


def test_partial_that_becomes_full_is_reported_and_the_reverse_is_not():
    monitor = CollapseMonitor()
    assert warnings_of(monitor, *[ONE_LINE] * 3, *[ONE_POINT] * 3) == ["", "", "Partial", "", "", "Full"]
    assert warnings_of(monitor, *[ONE_LINE] * 5, ONE_POINT) == [""] * 5 + ["Full"]  # the 12th look, not news
    assert warnings_of(monitor, WELL, *[ONE_LINE] * 3) == ["", "", "", "Partial"]


def test_a_full_collapse_in_one_of_three_checks_is_partial():
    assert warnings_of(CollapseMonitor(), ONE_LINE, ONE_POINT, ONE_LINE) == ["", "", "Partial"]


def test_the_low_rank_of_a_small_batch_is_no_collapse():
    for limit in (2, 4, 8):
        few = replace(WELL, rank_limit=limit, output_rank=0.35 * limit, feature_rank=0.35 * limit)
        assert warnings_of(CollapseMonitor(), *[few] * 5) == [""] * 5


def test_features_on_one_direction_are_partial():
    assert warnings_of(CollapseMonitor(), *[replace(WELL, feature_rank=1.3)] * 3)[-1] == "Partial"


@pytest.mark.parametrize("cut", range(8))
def test_a_resumed_monitor_reports_the_same(cut):
    healths = [ONE_LINE, WELL, *[ONE_LINE] * 3, *[ONE_POINT] * 3]
    whole = CollapseMonitor()
    expected = [whole.check(health) for health in healths]
    first = CollapseMonitor()
    said = [first.check(health) for health in healths[:cut]]
    second = CollapseMonitor(json.loads(json.dumps(first.to_dict())))
    said += [second.check(health) for health in healths[cut:]]
    assert said == expected
    assert second.to_dict() == whole.to_dict()


def test_the_warning_has_the_numbers_and_advice():
    message = ""
    for _ in range(3):
        message = CollapseMonitor({"full": 2, "any": 2}).check(ONE_POINT)
    for part in ("0.30", "1.2 of 64", "20.0", "--lr", "--weight-decay", "--batch-size", "predictor"):
        assert part in message
    off = CollapseMonitor({"full": 2, "any": 2}, stop_gradient=False, trained_predictor=False).check(ONE_POINT)
    assert "no stop-gradient and no trained predictor" in off
    assert "--lr" not in off


def train(stop_gradient=True, predictor=True, last_norm=True, weight_decay=1e-3, batch_size=64, steps=400, seed=0):
    """A perceptron as the encoder and SimSiam's heads, on handwritten digits with noise for views; health every 10 steps."""
    noise = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    images = torch.tensor(load_digits().data, dtype=torch.float32) / 8 - 1

    def mlp(*widths):
        steps = []
        for before, after in pairwise(widths):
            steps += [nn.Linear(before, after, bias=False), nn.BatchNorm1d(after), nn.ReLU()]
        return steps

    encoder = nn.Sequential(*mlp(64, 128, 128))
    projector = nn.Sequential(*mlp(128, 128), nn.Linear(128, 64), *[nn.BatchNorm1d(64, affine=False)] * last_norm)
    head = nn.Sequential(*mlp(64, 16), nn.Linear(16, 64)) if predictor else nn.Identity()
    parameters = nn.ModuleList([encoder, projector, head]).parameters()
    optimizer = torch.optim.SGD(parameters, 0.5, momentum=0.9, weight_decay=weight_decay)
    found = []
    for step in range(steps):
        batch = images[torch.randint(len(images), (batch_size,), generator=noise)]
        features = [encoder(batch + 0.5 * torch.randn(batch.shape, generator=noise)) for _ in range(2)]
        z1, z2 = map(projector, features)
        targets = (z2.detach(), z1.detach()) if stop_gradient else (z2, z1)
        pairs = zip((head(z1), head(z2)), targets, strict=True)
        loss = sum(-0.5 * functional.cosine_similarity(p, target).mean() for p, target in pairs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 10 == 9:
            found.append(measure(features[0], z1, z2))
    return found


def warnings(healths):
    monitor = CollapseMonitor()
    return [words for words in warnings_of(monitor, *healths) if words], monitor.collapse


@pytest.mark.parametrize(
    "options", [{}, {"last_norm": False}, {"batch_size": 16}, {"batch_size": 8, "seed": 1}], ids=str
)
def test_simsiam_without_ablations_is_never_warned(options):
    assert warnings(train(**options)) == ([], "")


@pytest.mark.parametrize("options", [{"stop_gradient": False}, {"predictor": False}], ids=str)
def test_without_stop_gradient_or_predictor_it_collapses(options):
    healths = train(**options)
    words, finding = warnings(healths)
    assert words[0] == "Partial"  # the last BN keeps the outputs from being one point at first
    assert finding in ("partial", "full")
    assert healths[-1].output_rank < 3
    assert healths[0].output_rank > 10


def test_without_the_last_bn_it_collapses_to_a_point():
    healths = train(stop_gradient=False, last_norm=False, steps=100)
    assert healths[-1].output_std < 0.1
    assert warnings(healths) == (["Full", "Full"], "full")


def test_weight_decay_alone_can_collapse_dimensions():
    words, finding = warnings(train(weight_decay=1e-2))
    assert (set(words), finding) == ({"Partial"}, "partial")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_gpu_agrees():
    tensors = normal(300, 64).float(), normal(300, 500, seed=1).float(), normal(300, 500, seed=2).float()
    here, there = measure(*tensors).to_dict(), measure(*(x.cuda() for x in tensors)).to_dict()
    assert there == pytest.approx(here, rel=1e-4)
