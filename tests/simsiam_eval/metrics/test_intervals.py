import math
import warnings

import numpy as np
import pytest
from hypothesis import given, strategies as some
from scipy.stats import binomtest
from sklearn.metrics import balanced_accuracy_score

from simsiam_eval.metrics.intervals import (
    accuracy_interval,
    accuracy_metrics,
    bootstrap_intervals,
    class_mean_metrics,
    mcnemar,
    mean_metrics,
    paired_interval,
)

Z = 1.959963984540054  # the normal's 97.5 % point


@pytest.mark.parametrize(("correct", "total"), [(1, 2), (7, 10), (90, 100), (5213, 10000), (1, 50000), (0, 8), (8, 8)])
def test_interval_is_wilsons(correct, total):
    p = correct / total
    center = (p + Z**2 / (2 * total)) / (1 + Z**2 / total)
    half = Z / (1 + Z**2 / total) * math.sqrt(p * (1 - p) / total + Z**2 / (4 * total**2))
    assert accuracy_interval(correct, total) == pytest.approx([center - half, center + half], rel=1e-9, abs=1e-12)


@given(some.integers(1, 300), some.data())
def test_interval_is_scipys(total, data):
    correct = data.draw(some.integers(0, total))
    expected = binomtest(correct, total).proportion_ci(0.95, method="wilson")
    assert accuracy_interval(correct, total) == pytest.approx([expected.low, expected.high], abs=1e-9)


CLASSES = some.lists(some.lists(some.booleans(), min_size=1, max_size=30), min_size=1, max_size=6)


@given(CLASSES)
def test_the_mean_over_classes_is_the_balanced_accuracy_inside_its_interval(classes):
    labels = np.repeat(np.arange(len(classes)), [len(one) for one in classes])
    guesses = np.where(np.concatenate(classes), labels, -1)
    correct, totals = (np.array([count(one) for one in classes]) for count in (sum, len))
    found = class_mean_metrics("x", correct, totals)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # guesses of no class
        assert found["x"] == pytest.approx(balanced_accuracy_score(labels, guesses))
    low, high = found["x_interval"]
    assert 0 <= low <= found["x"] <= high <= 1
    assert high - low > 0.01  # also where every class is all right, or all wrong
    # By hand: each side's distance is the root of the sum of squares of the classes' own, over their number.
    each = [accuracy_interval(int(one), int(many)) for one, many in zip(correct, totals, strict=True)]
    below = math.sqrt(sum((one / many - at[0]) ** 2 for one, many, at in zip(correct, totals, each, strict=True)))
    assert found["x"] - low == pytest.approx(below / len(classes), abs=1e-9)


def test_the_interval_of_the_mean_over_classes_covers_it():
    """95 % of 2,000 sets of three classes of unlike size and accuracy: coverage within three standard errors, or above."""
    rng, true, totals = np.random.default_rng(0), np.array([0.9, 0.5, 0.98]), np.array([40, 15, 100])
    draws = [class_mean_metrics("x", rng.binomial(totals, true), totals)["x_interval"] for _ in range(2000)]
    assert np.mean([low <= true.mean() <= high for low, high in draws]) > 0.935


@pytest.mark.parametrize("total", [1, 10, 1000])
def test_none_and_all_correct(total):
    # By hand: the inner bound is z^2 / (n + z^2) from the edge; neither leaves [0, 1].
    width = Z**2 / (total + Z**2)
    assert accuracy_interval(0, total) == pytest.approx([0, width])
    assert accuracy_interval(total, total) == pytest.approx([1 - width, 1])
    for correct in (0, total):
        low, high = accuracy_interval(correct, total)
        assert 0 <= low < high <= 1


@pytest.mark.parametrize(("correct", "total"), [(0, 0), (3, 2), (-1, 2)])
def test_impossible_counts_are_rejected(correct, total):
    with pytest.raises(ValueError):
        accuracy_interval(correct, total)


def test_metrics_hold_the_accuracy_and_its_interval():
    metrics = accuracy_metrics("top1", 3, 4)
    assert metrics == {"top1": 0.75, "top1_interval": accuracy_interval(3, 4)}
    assert all(type(bound) is float for bound in metrics["top1_interval"])


def test_bootstrap_is_the_percentiles_of_means_of_redrawn_rows():
    rng = np.random.default_rng(1)
    values = np.stack([rng.integers(0, 4, 30), rng.integers(-1, 2, 30), np.full(30, 7)], axis=1)
    means = [values[rng.integers(0, 30, 30)].mean(axis=0) for _ in range(20_000)]
    expected = np.percentile(means, [2.5, 97.5], axis=0).T
    np.testing.assert_allclose(bootstrap_intervals(values, 0, 20_000), expected, atol=0.04)
    assert bootstrap_intervals(values) == bootstrap_intervals(values[::-1]) != bootstrap_intervals(values, 1)
    with pytest.raises(ValueError, match="at least one row"):
        bootstrap_intervals(values[:0])


def test_bootstrap_of_a_proportion_is_near_wilsons_and_narrows_with_the_images():
    right = np.arange(400) % 5 < 4
    low, high = bootstrap_intervals(right[:, None].astype(int))[0]
    assert [low, high] == pytest.approx(accuracy_interval(320, 400), abs=0.01)
    few = bootstrap_intervals(right[:40, None].astype(int))[0]
    assert few[1] - few[0] > 2 * (high - low)


@given(some.integers(0, 40), some.integers(0, 40), some.integers(0, 200))
def test_paired_interval_is_agresti_and_mins(only_one, only_two, same):
    differences = np.repeat([1.0, -1.0, 0.0], [only_one, only_two, same])
    total = len(differences)
    spread = only_one + only_two + 1 - (only_one - only_two) ** 2 / (total + 2)
    half = Z * math.sqrt(spread) / (total + 2)
    center = (only_one - only_two) / (total + 2)
    expected = [max(-1, center - half), min(1, center + half)]
    assert paired_interval(differences) == pytest.approx(expected, abs=1e-12)


@given(some.integers(0, 30), some.integers(0, 30))
def test_mcnemar_is_the_binomial_test_counted_out(only_one, only_two):
    from scipy.stats import binomtest

    found = mcnemar(only_one, only_two)
    total = only_one + only_two
    weights = [math.comb(total, at) / 2**total for at in range(total + 1)]
    tail = sum(weights[: min(only_one, only_two) + 1])
    assert found["exact"] == pytest.approx(min(1, 2 * tail))
    assert found["mid_p"] == pytest.approx(min(1, 2 * tail - weights[min(only_one, only_two)]))
    if total:
        assert found["exact"] == pytest.approx(binomtest(only_one, total).pvalue)


@given(some.integers(0, 40), some.integers(1, 40))
def test_the_interval_of_a_mean_of_zeros_and_ones_is_wilsons(right, more):
    total = right + more
    found = mean_metrics("x", np.repeat([1.0, 0.0], [right, more]))
    assert found["x"] == right / total
    assert found["x_interval"] == pytest.approx(accuracy_interval(right, total))


def test_the_interval_of_a_mean_is_the_normal_one_for_many_and_never_of_width_zero():
    values = np.random.default_rng(0).beta(8, 2, 100_000)
    half = Z * values.std() / math.sqrt(len(values))
    assert mean_metrics("x", values)["x_interval"] == pytest.approx(
        [values.mean() - half, values.mean() + half], abs=1e-4
    )
    for same in (0.0, 0.3, 1.0):
        found = mean_metrics("x", np.full(81, same))
        assert found["x_interval"][0] <= found["x"] <= found["x_interval"][1]
        assert found["x_interval"][1] - found["x_interval"][0] > 0.02


@pytest.mark.parametrize(
    ("draw", "true", "count"),
    [
        (lambda rng, count: rng.beta(0.2, 0.1, count), 2 / 3, 20),
        (lambda rng, count: rng.binomial(5, 0.95, count) / 5, 0.95, 50),  # like precision@5
        (lambda rng, count: rng.beta(9, 1, count), 0.9, 200),
        (lambda rng, count: rng.beta(2, 18, count), 0.1, 200),
        (lambda rng, count: rng.normal(0.9, 0.02, count), 0.9, 1000),
        (lambda rng, count: 0.9 * (rng.random(count) < 0.98), 0.882, 50),  # in a third of the draws all are the same
    ],
)
def test_the_interval_of_a_mean_covers_the_true_one_on_both_sides(draw, true, count):
    rng = np.random.default_rng(0)
    bounds = np.array([mean_metrics("x", draw(rng, count))["x_interval"] for _ in range(1000)])
    below, above = (bounds[:, 0] > true).mean(), (bounds[:, 1] < true).mean()
    assert below + above <= 0.07
    assert max(below, above) <= 0.045
