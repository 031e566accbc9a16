"""Whole runs on the command line: what they write, and what stops them."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parent.parent.parent


def test_untrained_encoder_has_statistics_of_the_data(record, small, tmp_path):
    made = record("pretrain", *small, "--epochs", 0, "--out", tmp_path / "run")["files"]["checkpoint"]
    state = torch.load(made, weights_only=True)["state_dict"]
    assert state["module.encoder.bn1.running_mean"].abs().max() > 0
    assert not torch.allclose(state["module.encoder.bn1.running_var"], torch.ones(64))


def test_the_same_seed_gives_the_same_weights(record, checkpoint, small, tmp_path):
    again = record("pretrain", *small, "--epochs", 1, "--out", tmp_path / "run")["files"]["checkpoint"]
    first = torch.load(checkpoint, weights_only=True)["state_dict"]
    second = torch.load(again, weights_only=True)["state_dict"]
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_loss_that_is_not_finite_stops_the_run(call, small, tmp_path):
    stopped = call("pretrain", *small, "--epochs", 2, "--lr", 1e30, "--out", tmp_path / "run")
    assert stopped.exit_code == 1
    assert "not finite" in stopped.stderr


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def start(*arguments, launcher=()):
    command = [sys.executable, *launcher, "cli.py", "pretrain", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def history(out):
    return torch.load(out / "checkpoint_last.pth.tar", weights_only=True)["simsiam_eval"]["history"]


@pytest.mark.parametrize("extra", [[], ["--accumulate", "2", "--no-sync-bn"]])
def test_two_processes_are_one_with_the_total_batch(tiny, tmp_path, extra):
    """With one part of the batch per process and BN not synchronized, two processes are also one that accumulates."""
    one_extra = [option for option in extra if option != "--no-sync-bn"]
    two_extra = [option for option in extra if option not in ("--accumulate", "2")]
    runs = [start(*tiny, "--out", tmp_path / "one", *one_extra)]
    runs += [start(*tiny, "--out", tmp_path / "two", *two_extra, launcher=TORCHRUN)]
    for run in runs:
        _, said = run.communicate()
        assert run.returncode == 0, said
    one, two = ([entry["loss"] for entry in history(tmp_path / name)] for name in ("one", "two"))
    assert len(one) == 3
    np.testing.assert_allclose(two, one, atol=2e-3)
    knn = [history(tmp_path / name)[-1]["knn_top1"] for name in ("one", "two")]
    assert abs(knn[0] - knn[1]) < 0.1


@pytest.mark.parametrize(("launcher", "number", "status"), [((), "SIGINT", 130), (TORCHRUN, "SIGTERM", None)])
def test_a_signal_stops_the_run_resumable(tiny, tmp_path, launcher, number, status):
    out = tmp_path / "run"
    run = start(*tiny, "--epochs", 10000, "--out", out, launcher=launcher)
    while not ((out / "log.jsonl").exists() and "epoch" in (out / "log.jsonl").read_text()):
        assert run.poll() is None, run.communicate()
        time.sleep(0.05)
    run.send_signal(getattr(signal, number))
    _, said = run.communicate(timeout=60)
    assert run.returncode == status if status else run.returncode != 0
    assert "Run the same command to resume from" in said
    assert "Traceback" not in said or launcher  # torchrun shows its own
    saved = torch.load(out / "checkpoint_last.pth.tar", weights_only=True)["simsiam_eval"]["position"]
    assert 1 <= saved["epoch"] < 10000


def test_a_batch_that_the_processes_cannot_divide_is_rejected(tiny, tmp_path):
    run = start(*tiny, "--batch-size", 9, "--out", tmp_path / "run", launcher=TORCHRUN)
    _, said = run.communicate()
    assert run.returncode != 0
    assert "cannot be divided equally among 2 processes" in said


def test_processes_that_see_different_folders_do_not_start(tiny, whole, tmp_path):
    """Two machines, each with its own folder of that name, of which the second holds no run."""
    shutil.copytree(whole, tmp_path / "0" / "run")
    (tmp_path / "1").mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, ROOT / "cli.py", "pretrain", *tiny, "--out", "run"]
    started = [
        subprocess.Popen(command, cwd=tmp_path / rank, env=os.environ | group | {"RANK": rank, "LOCAL_RANK": rank},
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for rank in ("0", "1")
    ]  # fmt: skip
    for process in started:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 1 and "a folder that all machines share" in said, said


def test_unreadable_images_are_counted_over_the_whole_run(call, tiny, images, tmp_path):
    shutil.copytree(images, tmp_path / "images")
    for number in (3, 7):
        (tmp_path / "images" / "b" / f"{number:02d}.png").write_bytes(b"no image")
    counted = []
    for _ in range(2):  # the second finds the run finished
        made = call("pretrain", *tiny, "--data", tmp_path / "images", "--epochs", 1, "--out", tmp_path / "run")
        assert made.exit_code == 0, made.output
        counted.append(json.loads((tmp_path / "run" / "result.json").read_text())["metrics"]["unreadable"])
    assert counted[0] == counted[1] > 0
