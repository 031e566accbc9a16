"""Values that are made once in every process."""

import os
import pickle

from simsiam_eval.sources.per_process import PerProcess

MADE = []


def make(key):
    MADE.append((os.getpid(), key))
    return f"{key} of {os.getpid()}"


def test_values_are_made_once_and_the_last_used_are_kept():
    MADE.clear()
    values = PerProcess(make, 2)
    for key in "abacab":
        assert values(key).startswith(key)
    assert [key for _, key in MADE] == ["a", "b", "c", "b"]


def test_forks_and_pickles_make_their_own_values():
    values = PerProcess(make, 2)
    values("a")
    reading, writing = os.pipe()
    if not (child := os.fork()):
        os.write(writing, values("a").encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 100).decode() == f"a of {child}"
    MADE.clear()
    assert pickle.loads(pickle.dumps(values))("a") == f"a of {os.getpid()}"
    assert len(MADE) == 1
