"""Of rows read in blocks; the measures themselves are tested with pretrain.health, whose they were first."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from simsiam_eval.metrics import spread
from simsiam_eval.metrics.spread import area_of, rankme_of, singular_values_of_rows, uniformity


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
