"""What is opened is opened once in every process."""

import os
import pickle

from simsiam_eval.sources.per_process import PerProcess

MADE = []


def make(key):
    MADE.append((os.getpid(), key))
    return f"{key} of {os.getpid()}"


def test_made_once_and_the_last_used_stay():
    MADE.clear()
    opened = PerProcess(make, 2)
    for key in "abacab":
        assert opened(key).startswith(key)
    assert [key for _, key in MADE] == ["a", "b", "c", "b"]


def test_a_fork_and_a_pickle_make_their_own():
    opened = PerProcess(make, 2)
    opened("a")
    reading, writing = os.pipe()
    if not (child := os.fork()):
        os.write(writing, opened("a").encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 100).decode() == f"a of {child}"
    MADE.clear()
    assert pickle.loads(pickle.dumps(opened))("a") == f"a of {os.getpid()}"
    assert len(MADE) == 1
