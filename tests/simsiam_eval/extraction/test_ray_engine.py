"""Extraction on a Ray cluster on this machine: the same bytes, also where a worker is lost in the middle."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def computing():
    """Process numbers of Ray workers that are computing features now."""
    listed = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True).stdout
    return [int(line.split()[0]) for line in listed.splitlines() if "ray::_Worker.compute" in line]


def test_a_worker_that_is_killed_costs_nothing(record, checkpoint, tmp_path):
    pytest.importorskip("ray")
    arguments = ["extract", "--checkpoint", checkpoint, "--data", "digits", "--crop", "16", "--resize", "16", "--out"]
    record(*arguments, tmp_path / "one.h5")
    command = [sys.executable, "cli.py", *map(str, arguments), str(tmp_path / "ray.h5"), "--engine", "ray"]
    with (tmp_path / "log").open("w") as log:
        running = subprocess.Popen([*command, "--ray-workers", "2"], cwd=ROOT, stdout=log, stderr=log)
        until = time.monotonic() + 120
        while not (found := computing()) and running.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        assert found, (tmp_path / "log").read_text()
        os.kill(found[0], signal.SIGKILL)
        assert running.wait(120) == 0, (tmp_path / "log").read_text()
    assert (tmp_path / "ray.h5").read_bytes() == (tmp_path / "one.h5").read_bytes()


def test_no_cluster_at_the_address(call, checkpoint, tmp_path):
    pytest.importorskip("ray")
    refused = call("extract", "--checkpoint", checkpoint, "--data", "digits", "--out", tmp_path / "a.h5", "--engine", "ray",
                   "--ray-address", "127.0.0.1:1")  # fmt: skip
    assert refused.exit_code == 1
    assert "No Ray cluster at 127.0.0.1:1" in refused.stderr


def test_without_ray_the_extra_is_named(call, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    refused = call(
        "extract", "--checkpoint", checkpoint, "--data", "digits", "--out", tmp_path / "a.h5", "--engine", "ray"
    )
    assert refused.exit_code == 2
    assert 'pip install "simsiam-eval[ray]"' in refused.stderr
