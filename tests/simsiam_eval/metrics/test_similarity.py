import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from simsiam_eval.metrics import similarity
from simsiam_eval.metrics.similarity import cka, neighbor_overlap


def cka_of_grams(one, two):
    """Kornblith et al., Eq. 2 and 3, with the centered N x N Gram matrices."""
    center = np.eye(len(one)) - 1 / len(one)
    grams = [center @ rows @ rows.T @ center for rows in (one, two)]
    return np.sum(grams[0] * grams[1]) / np.sqrt(np.sum(grams[0] ** 2) * np.sum(grams[1] ** 2))


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 20), st.integers(1, 5), st.integers(1, 5), st.integers(0, 1000), st.sampled_from([1, 3, 100]))
def test_cka_is_that_of_the_gram_matrices(count, wide, narrow, seed, block):
    rng = np.random.default_rng(seed)
    one, two = rng.normal(3, 1, (count, wide)), rng.normal(size=(count, narrow))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(similarity, "_BLOCK", block)
        assert cka(one, two) == pytest.approx(cka_of_grams(one, two), rel=1e-6)


def test_cka_does_not_see_rotation_scale_and_shift():
    rng = np.random.default_rng(0)
    one = rng.normal(size=(30, 5))
    rotation = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    assert cka(one, 3 * one @ rotation + 7) == pytest.approx(1)
    assert np.isnan(cka(one, np.ones((30, 2))))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 12), st.integers(1, 4), st.integers(0, 1000))
def test_overlap_is_that_of_sets(count, k, seed):
    rng = np.random.default_rng(seed)
    one, two = (np.array([rng.permutation(15)[:k] for _ in range(count)]) for _ in range(2))
    expected = np.mean([len(set(a) & set(b)) / k for a, b in zip(one.tolist(), two.tolist(), strict=True)])
    assert neighbor_overlap(one, two) == pytest.approx(expected)


def test_no_neighbors_no_overlap():
    assert np.isnan(neighbor_overlap(np.empty((1, 0), np.int64), np.empty((1, 0), np.int64)))
