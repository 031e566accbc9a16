"""Two processes on the CPU (gloo): BN over both is BN over the whole batch."""

import subprocess
import sys
from pathlib import Path

import pytest

from simsiam_eval.runtime.processes import Processes

ROOT = Path(__file__).parents[3]

SCRIPT = """
import copy, sys
import torch
from simsiam_eval.runtime.processes import join_processes, synchronize_bn
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Flatten(),
                          torch.nn.Linear(16, 5), torch.nn.BatchNorm1d(5, affine=False)).double()
whole, images, weights = copy.deepcopy(net), torch.randn(6, 3, 4, 4).double(), torch.randn(6, 5).double()
(whole(images) * weights).sum().backward()
with join_processes("cpu") as processes:
    assert processes.world == 2
    mine = (slice(0, 2), slice(2, 6))[processes.rank]  # a detector's images make the parts unequal
    part = synchronize_bn(net, processes.device)
    assert list(part.state_dict()) == list(whole.state_dict())
    (part(images[mine]) * weights[mine]).sum().backward()
    for one, two in zip(part.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(processes.total(one.grad), two.grad)
    for one, two in zip(part.buffers(), whole.buffers(), strict=True):
        torch.testing.assert_close(one, two)
    norm = synchronize_bn(torch.nn.Sequential(torch.nn.BatchNorm2d(3)), processes.device)  # as under autocast
    normed = norm(images[mine].bfloat16())
    assert normed.dtype == torch.bfloat16 and norm[0].running_mean.dtype == torch.float32
    expected = torch.nn.BatchNorm2d(3)(images.bfloat16().float())[mine]
    torch.testing.assert_close(normed.float(), expected, atol=0.02, rtol=0.02)
    part.eval(), whole.eval()
    torch.testing.assert_close(part(images), whole(images))
    assert processes.largest(processes.rank * 7) == 7
"""


def test_bn_over_two_processes_is_that_over_the_whole_batch(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(tmp_path / "script.py")], cwd=ROOT, env={**__import__("os").environ, "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_shares_are_the_batch_cut_into_equal_parts():
    import torch

    shares = [Processes(torch.device("cpu"), rank, 4).share(12) for rank in range(4)]
    assert [list(range(12))[share] for share in shares] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]


@pytest.mark.parametrize("value", [0, 3])
def test_one_process_is_its_own_largest(value):
    import torch

    assert Processes(torch.device("cpu")).largest(value) == value
