"""Of rows read in blocks; the measures themselves are tested with pretrain.health, whose they were first."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from simsiam_eval.features.reader import open_features
from simsiam_eval.metrics import spread
from simsiam_eval.metrics.similarity import cka
from simsiam_eval.metrics.spread import area_of, collapse_std, rankme, rankme_of, singular_values_of_rows, uniformity


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 30), st.integers(1, 8), st.integers(0, 1000), st.sampled_from([1, 7, 100]))
def test_measures_of_blocks_are_those_of_the_svd(count, width, seed, block):
    rows = np.random.default_rng(seed).normal(1, 1, (count, width)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spread, "_BLOCK", block)
        values, centered = singular_values_of_rows(rows)
    exact = np.linalg.svd(rows.astype(float), compute_uv=False)
    shares = exact / exact.sum()
    shares = shares[shares > 0]
    assert float(rankme_of(values)) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-4)
    exact = np.linalg.svd(rows.astype(float) - rows.astype(float).mean(axis=0), compute_uv=False)
    exact = exact[: min(count - 1, width)]
    assert float(area_of(centered)) == pytest.approx((np.cumsum(exact) / exact.sum()).mean(), rel=1e-4)


def test_uniformity_is_the_double_loop():
    unit = torch.nn.functional.normalize(torch.randn(9, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    pairs = [np.exp(-2 * float((a - b).square().sum())) for i, a in enumerate(unit) for b in unit[:i]]
    assert float(uniformity(unit)) == pytest.approx(np.log(np.mean(pairs)), rel=1e-5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[1.0, float("nan")]], "must be finite, got NaN or infinity in row 0"),
        (torch.tensor([[1.0], [float("inf")]]), "must be finite, got NaN or infinity in row 1"),
        (np.empty((0, 3)), r"must have shape \(N, D\) with at least one row, got \(0, 3\)"),
        ([], r"must have shape \(N, D\) with at least one row, got \(0,\)"),
        ([[1.0], [1.0, 2.0]], "must have rows of the same length"),
        ([["a"]], "must be numbers"),
    ],
)
def test_unusable_features_are_rejected_by_the_name_of_the_argument(values, message):
    good = np.ones((1, 2))
    for measure, name in (
        (rankme, "features"),
        (collapse_std, "z"),
        (lambda a: cka(a, good), "a"),
        (lambda b: cka(good, b), "b"),
    ):
        with pytest.raises(ValueError, match=f"^{name} {message}"):
            measure(values)


def test_features_objects_are_measured_by_their_x(pipeline):
    features = open_features(pipeline / "test.h5")
    assert rankme(features) == rankme(features.X)
    assert collapse_std(features) == collapse_std(features.X)
    assert cka(features, features) == pytest.approx(1)
