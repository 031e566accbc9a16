"""What torchrun starts, and how its processes end."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed.run

from simsiam_eval.errors import UsageError
from simsiam_eval.runtime.launch import torchrun_group, under_torchrun
from simsiam_eval.runtime.processes import join_processes

ROOT = Path(__file__).parents[3]


@pytest.fixture
def started(monkeypatch):
    """The arguments of each torchrun that would start."""
    calls = []
    monkeypatch.setattr(torch.distributed.run, "run", calls.append)
    monkeypatch.setattr(sys, "argv", [str(ROOT / "cli.py"), "detect", "--num-gpus", "2"])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return calls


def test_torchrun_starts_the_same_command(started):
    with pytest.raises(SystemExit, match="0"):
        under_torchrun(2, "cpu")
    (arguments,) = started
    assert arguments.standalone and arguments.nproc_per_node == "2" and not arguments.module
    assert [arguments.training_script, *arguments.training_script_args] == sys.argv


def test_torchrun_starts_the_installed_command_and_the_module(started, monkeypatch):
    for program in ("/somewhere/bin/simsiam-eval", str(ROOT / "simsiam_eval" / "__main__.py")):
        monkeypatch.setattr(sys, "argv", [program, "extract"])
        with pytest.raises(SystemExit, match="0"):
            under_torchrun(2, "cpu")
    assert [(run.training_script, run.module) for run in started] == [
        ("/somewhere/bin/simsiam-eval", False),
        ("simsiam_eval", True),
    ]


def test_one_process_and_those_of_torchrun_are_these(started, monkeypatch):
    for count in (None, 1):
        under_torchrun(count, "cpu")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    for count in (None, 2):
        under_torchrun(count, "cpu")
    with pytest.raises(UsageError, match="--num-gpus is 4, but torchrun started 2 processes here"):
        under_torchrun(4, "cpu")
    assert started == []


def test_gpus_that_are_not_there_and_other_programs(started, monkeypatch):
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
    assert started == []


@pytest.mark.parametrize(("variables", "group"), [
    ({}, None), ({"RANK": "1"}, None), ({"WORLD_SIZE": "2"}, None), ({"RANK": "1", "WORLD_SIZE": "2"}, (1, 2)),
    ({"RANK": "2", "WORLD_SIZE": "2"}, "are inconsistent"), ({"RANK": "0", "WORLD_SIZE": "two"}, "are inconsistent"),
])  # fmt: skip
def test_the_group_is_torchruns_or_none(started, monkeypatch, variables, group):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if isinstance(group, str):
        with pytest.raises(UsageError, match=group):
            torchrun_group()
    else:
        assert torchrun_group() == group


def test_half_of_what_torchrun_sets_is_named(started, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(UsageError, match="MASTER_ADDR is not"), join_processes("cpu"):
        pass


RANKS = """
import os, signal, sys, time
from simsiam_eval.commands.options import command
from simsiam_eval.errors import DataError, Stopped, UsageError
from simsiam_eval.runtime.signals import stop_requests
from tests.simsiam_eval.commands.oven import Oven

def run(settings):
    rank = int(os.environ["RANK"])
    if settings.what == "all":
        raise UsageError("A spoon cannot be baked.")
    if settings.what == "last" and rank == 1:
        raise DataError("A stone is no dough.")
    if settings.what == "crash" and rank == 1:
        raise ZeroDivisionError("a crash")
    if settings.what == "kill" and rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if settings.what in ("interrupt", "stop"):  # both processes run, none imports any more
        open(f"{settings.what}{rank}", "w").close()
        while not os.path.exists(f"{settings.what}{1 - rank}"):
            time.sleep(0.01)
    if settings.what == "stop":
        with stop_requests(patient=True) as request:
            open(f"ready{rank}", "w").close()
            while not os.path.exists(f"ready{1 - rank}"):
                time.sleep(0.01)
            if rank == 0:
                os.kill(os.getppid(), signal.SIGTERM)
            while not request.status:
                time.sleep(0.01)
            raise Stopped("Stopped. Run the same command to resume.", request.status)
    if settings.what == "interrupt" and rank == 0:
        os.kill(os.getppid(), signal.SIGINT)
    time.sleep(60)

command("bake", Oven, run)()
"""


def test_the_processes_end_with_one_sentence_and_their_status(tmp_path):
    (tmp_path / "ranks.py").write_text(f"import sys; sys.path.append({str(ROOT)!r})\n{RANKS}")
    code = (
        f"import sys; sys.path.append({str(ROOT)!r})\n"
        "from simsiam_eval.runtime.launch import run_torchrun\n"
        "for case in ('all', 'last', 'crash', 'kill', 'interrupt', 'stop'):\n"
        "    status = run_torchrun(['--nproc-per-node=2', 'ranks.py', case])\n"
        "    print('status', status, file=sys.stderr, flush=True)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    parts = re.split(r"status (\d+)\n", run.stderr)
    said, statuses = parts[::2], parts[1::2]
    assert statuses == ["2", "1", "1", "137", "130", "143"], run.stderr
    assert said[:2] == ["Error: A spoon cannot be baked.\n", "Error: A stone is no dough.\n"]
    assert said[2].startswith("Traceback") and said[2].count("a crash") == 2 and "torchrun" not in said[2]
    assert said[3].startswith("Error: The process of rank 1 was ended by SIGKILL.") and said[3].count("\n") == 1
    assert said[4].startswith("Error: Interrupted. Finished files") and said[4].count("\n") == 1
    assert said[5:] == ["Stopped. Run the same command to resume.\n", ""]
