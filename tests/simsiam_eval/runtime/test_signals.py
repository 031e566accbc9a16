import os
import signal
import threading

import pytest

from simsiam_eval.runtime.signals import stop_requests


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 143), (signal.SIGHUP, 129)],
)
def test_the_first_signal_is_a_request_and_the_second_acts(number, status):
    met = []
    before = signal.signal(number, lambda *_: met.append(1))
    try:
        with stop_requests() as stop:
            assert stop.status == 0
            os.kill(os.getpid(), number)
            assert (stop.status, met) == (status, [])
            os.kill(os.getpid(), number)
            assert met == [1]
        os.kill(os.getpid(), number)
        assert met == [1, 1]
    finally:
        signal.signal(number, before)


def test_nohup_stays_nohup():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_requests() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.status == 0
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_patient_waits_through_a_second_signal():
    with stop_requests(patient=True) as stop:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.status == 130


def test_outside_the_main_thread_signals_are_left_alone():
    before, seen = signal.getsignal(signal.SIGINT), []

    def work():
        with stop_requests() as stop:
            seen.append((stop.status, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(0, before)]
