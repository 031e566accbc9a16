import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from simsiam_eval.runtime.batch_norm import mean_bn_statistics

ROOT = Path(__file__).parents[3]

SCRIPT = """
import copy, sys
import torch
from simsiam_eval.runtime.batch_norm import synchronize_bn
from simsiam_eval.runtime.processes import join_processes
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
"""


def test_bn_over_two_gloo_processes_is_bn_over_the_whole_batch(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(tmp_path / "script.py")], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_running_statistics_are_the_mean_over_the_batches():
    norm, linear = torch.nn.BatchNorm1d(3), torch.nn.Linear(2, 3)
    batches = torch.randn(5, 8, 2)
    norm(torch.randn(8, 3) + 100)  # is forgotten
    with torch.no_grad(), mean_bn_statistics(torch.nn.Sequential(linear, norm)):
        outputs = [linear(batch) for batch in batches]
        for output in outputs:
            norm(output)
    torch.testing.assert_close(norm.running_mean, torch.stack([output.mean(dim=0) for output in outputs]).mean(dim=0))
    torch.testing.assert_close(norm.running_var, torch.stack([output.var(dim=0) for output in outputs]).mean(dim=0))


def test_the_momentum_is_restored_after_an_error():
    norm = torch.nn.BatchNorm1d(3, momentum=0.3)
    with pytest.raises(KeyError), mean_bn_statistics(norm):
        assert norm.momentum is None
        raise KeyError
    assert norm.momentum == 0.3
