"""What becomes torchrun, and what does not."""

import os
import sys
from pathlib import Path

import pytest
import torch

from simsiam_eval.errors import UsageError
from simsiam_eval.runtime.launch import torchrun_group, under_torchrun
from simsiam_eval.runtime.processes import join_processes

ROOT = Path(__file__).parents[3]


@pytest.fixture
def became(monkeypatch):
    """What the process became, instead of becoming it."""
    found = []
    monkeypatch.setattr(os, "execv", lambda program, arguments: found.append([program, *arguments]))
    monkeypatch.setattr(sys, "argv", [str(ROOT / "cli.py"), "detect", "--num-gpus", "2"])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return found


def test_the_same_command_is_torchruns(became):
    under_torchrun(2, "cpu")
    (command,) = became
    assert command[:2] == [sys.executable] * 2
    assert command[2:4] == ["-m", "torch.distributed.run"] and "--nproc-per-node=2" in command
    assert command[-4:] == sys.argv


def test_the_installed_command_and_the_module_are_torchruns_too(became, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/simsiam-eval", "extract"])
    under_torchrun(2, "cpu")
    monkeypatch.setattr(sys, "argv", [str(ROOT / "simsiam_eval" / "__main__.py"), "extract"])
    under_torchrun(2, "cpu")
    assert [command[-2:] for command in became] == [
        ["/somewhere/bin/simsiam-eval", "extract"],
        ["simsiam_eval", "extract"],
    ]
    assert became[1][-3] == "-m"


def test_one_process_and_those_of_torchrun_are_these(became, monkeypatch):
    for count in (None, 1):
        under_torchrun(count, "cpu")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    for count in (None, 2):
        under_torchrun(count, "cpu")
    with pytest.raises(UsageError, match="--num-gpus is 4, but torchrun started 2 processes here"):
        under_torchrun(4, "cpu")
    assert became == []


def test_gpus_that_are_not_there_and_other_programs(became, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/cli.py"])
    with pytest.raises(UsageError, match="torchrun --nproc-per-node 3"):
        under_torchrun(3, "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for device, says in (
        ("auto", "--num-gpus is 3, but this machine has 2 GPUs"),
        ("cuda:1", "--device cuda:1 is a single GPU"),
    ):
        with pytest.raises(UsageError, match=says):
            under_torchrun(3, device)
    assert became == []


@pytest.mark.parametrize(("variables", "group"), [
    ({}, None), ({"RANK": "1"}, None), ({"WORLD_SIZE": "2"}, None), ({"RANK": "1", "WORLD_SIZE": "2"}, (1, 2)),
    ({"RANK": "2", "WORLD_SIZE": "2"}, "are inconsistent"), ({"RANK": "0", "WORLD_SIZE": "two"}, "are inconsistent"),
])  # fmt: skip
def test_the_group_is_torchruns_or_none(became, monkeypatch, variables, group):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if isinstance(group, str):
        with pytest.raises(UsageError, match=group):
            torchrun_group()
    else:
        assert torchrun_group() == group


def test_half_of_what_torchrun_sets_is_named(became, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(UsageError, match="MASTER_ADDR is not"), join_processes("cpu"):
        pass
