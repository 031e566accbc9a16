import itertools

import pytest

from simsiam_eval.linear.schedule import cosine_lr, epoch_lr, step_lr, warmup_lr


def test_cosine_starts_at_the_base_halves_in_the_middle_and_is_set_once_an_epoch():
    assert cosine_lr(0.1, 0, 100) == pytest.approx(0.1, rel=1e-15)
    assert cosine_lr(0.1, 50, 100) == pytest.approx(0.05, rel=1e-12)
    assert cosine_lr(0.1, 25, 100) == pytest.approx(0.1 * (2 + 2**0.5) / 4, rel=1e-12)  # cos 45 degrees
    assert cosine_lr(0.1, 99, 100) == pytest.approx(0.1 * 2.4671981713e-4, rel=1e-8)  # sin^2(pi/200): not yet 0
    assert cosine_lr(0.1, 100, 100) == pytest.approx(0, abs=1e-15)


def test_cosine_only_falls_and_is_symmetric_about_the_middle():
    rates = [cosine_lr(3.0, epoch, 30) for epoch in range(31)]
    assert all(later < earlier for earlier, later in itertools.pairwise(rates))
    assert [a + b for a, b in zip(rates, reversed(rates), strict=True)] == pytest.approx([3.0] * 31)


def test_one_epoch_is_at_the_base():
    assert cosine_lr(1.6, 0, 1) == 1.6


@pytest.mark.parametrize("epochs", [10, 90, 100, 101])
def test_step_is_a_tenth_from_six_tenths_on_and_a_hundredth_from_eight(epochs):
    rates = [step_lr(30.0, epoch, epochs) for epoch in range(epochs)]
    expected = [30.0 if e / epochs < 0.6 else 3.0 if e / epochs < 0.8 else 0.3 for e in range(epochs)]
    assert rates == pytest.approx(expected)


@pytest.mark.parametrize("warmup", [1, 3, 10])
def test_warm_up_rises_linearly_to_the_full_rate_and_the_schedule_follows(warmup):
    rates = [epoch_lr(0.3, epoch, 20, warmup) for epoch in range(20)]
    assert rates[:warmup] == pytest.approx([0.3 * (epoch + 1) / warmup for epoch in range(warmup)])
    assert rates[warmup:] == [cosine_lr(0.3, epoch, 20 - warmup) for epoch in range(20 - warmup)]


def test_without_warm_up_the_rate_is_that_of_the_schedule():
    for name, schedule in (("cosine", cosine_lr), ("step", step_lr)):
        assert [epoch_lr(2.0, e, 7, schedule=name) for e in range(7)] == [schedule(2.0, e, 7) for e in range(7)]


def test_warm_up_may_start_above_zero():
    assert [warmup_lr(2.0, progress, start=0.25) for progress in (0, 0.5, 1)] == [0.5, 1.25, 2.0]


def test_steps_of_a_hundred_epochs_are_mocos():
    assert [e for e in range(1, 100) if step_lr(1.0, e, 100) < step_lr(1.0, e - 1, 100)] == [60, 80]
