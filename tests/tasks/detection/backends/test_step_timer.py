"""Training speed."""

from tasks.detection.backends.step_timer import StepTimer


def test_rate_excludes_the_start_of_the_first_step():
    times = iter([100.0, 100.5, 101.0, 101.5])
    timer = StepTimer(lambda: next(times))
    assert timer.rate is None
    timer.tick()
    assert timer.rate is None
    for _ in range(3):
        timer.tick()
    assert timer.rate == 2
