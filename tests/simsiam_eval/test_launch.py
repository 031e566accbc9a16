"""Processes of this machine: the main one's result, and of a failure the sentence where it began."""

import pytest
import torch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from simsiam_eval.errors import DataError, Stopped, UsageError
from simsiam_eval.launch import run_on_processes

MADE = """
import os, signal, time
from simsiam_eval.distributed import join_processes
from simsiam_eval.errors import DataError, Stopped

def work(what):
    with join_processes("cpu") as processes:
        largest = processes.largest(processes.rank)
        said = processes.first_text("from the last" if processes.rank == largest else "")
        if processes.rank == 0:
            if what == "alone":
                time.sleep(60)  # as in a collective that never ends
            return processes.world, largest, said
        if what == "alone":
            raise DataError("What process 1 saw.")
        if what == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "stopped":
            raise Stopped("Stopped after step 3.", 143)
        if what == "a bug":
            raise ZeroDivisionError("in process 1")
"""


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A function that other processes can import."""
    (tmp_path / "made_work.py").write_text(MADE)
    monkeypatch.syspath_prepend(tmp_path)
    import made_work

    return made_work.work


def test_the_main_processs_result(work):
    assert run_on_processes(work, "", 2, "cpu") == (2, 1, "from the last")


@pytest.mark.parametrize(
    ("what", "error", "says"),
    [
        ("alone", DataError, r"^What process 1 saw\."),
        ("killed", DataError, r"Process 1 of 2 was ended \(SIGKILL; is memory short\?\): the same command goes on"),
        ("stopped", Stopped, "Stopped after step 3"),
        ("a bug", ChildFailedError, r"made_work.py(.|\n)*ZeroDivisionError: in process 1"),
    ],
)
def test_what_fails_in_one_is_raised_here(work, what, error, says):
    with pytest.raises(error, match=says) as raised:
        run_on_processes(work, what, 2, "cpu")
    if what == "stopped":
        assert raised.value.exit_status == 143


def test_one_process_and_torchruns_are_these(monkeypatch):
    assert run_on_processes(str, 3, None, "cpu") == run_on_processes(str, 3, 1, "cpu") == "3"
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert run_on_processes(str, 3, 2, "cpu") == run_on_processes(str, 3, None, "cpu") == "3"
    with pytest.raises(UsageError, match="--num-gpus 4, but torchrun started 2 here"):
        run_on_processes(str, 3, 4, "cpu")


def test_gpus_that_are_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for device, says in (("auto", "--num-gpus 3, but this machine shows 2"), ("cuda:1", "--device cuda:1 is one GPU")):
        with pytest.raises(UsageError, match=says):
            run_on_processes(str, 3, 3, device)
