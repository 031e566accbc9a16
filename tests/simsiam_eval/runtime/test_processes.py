import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from simsiam_eval.runtime.processes import Processes

ROOT = Path(__file__).parents[3]
CPU = torch.device("cpu")

SCRIPT = """
import sys, time
from pathlib import Path
from simsiam_eval.runtime.processes import join_processes
with join_processes("cpu") as processes:
    assert processes.world == 2 and processes.main == (processes.rank == 0)
    assert processes.largest(processes.rank * 7) == 7
    assert processes.first_text(["", "second"][processes.rank]) == "second"
    written = Path(sys.argv[1], "written")
    if processes.main:
        time.sleep(0.5)
        written.touch()
    processes.barrier()
    assert written.exists()
"""


def test_two_processes_agree_and_wait_for_each_other(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(tmp_path / "script.py"), str(tmp_path)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_shares_are_the_batch_cut_into_equal_parts():
    shares = [Processes(CPU, rank, 4).share(12) for rank in range(4)]
    assert [list(range(12))[share] for share in shares] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]


@pytest.mark.parametrize("value", [0, 3])
def test_a_single_process_needs_no_others(value):
    alone = Processes(CPU)
    alone.barrier()
    assert alone.largest(value) == value
    assert alone.first_text("text") == "text"
