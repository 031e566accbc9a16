"""Extraction on a local Ray cluster writes the same bytes, even if a worker is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def busy_workers():
    """Process ids of Ray workers that are computing features."""
    processes = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True).stdout
    return [int(line.split()[0]) for line in processes.splitlines() if "ray::_Worker.compute" in line]


def test_killed_worker_does_not_change_the_file(record, checkpoint, tmp_path):
    pytest.importorskip("ray")
    arguments = ["extract", "--checkpoint", checkpoint, "--data", "digits", "--crop", "16", "--resize", "16", "--out"]
    record(*arguments, tmp_path / "local.h5")
    command = [sys.executable, "cli.py", *map(str, arguments), str(tmp_path / "ray.h5"), "--engine", "ray"]
    with (tmp_path / "log").open("w") as log:
        extraction = subprocess.Popen([*command, "--ray-workers", "2"], cwd=ROOT, stdout=log, stderr=log)
        deadline = time.monotonic() + 120
        while not (workers := busy_workers()) and extraction.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert workers, (tmp_path / "log").read_text()
        os.kill(workers[0], signal.SIGKILL)
        assert extraction.wait(120) == 0, (tmp_path / "log").read_text()
    assert (tmp_path / "ray.h5").read_bytes() == (tmp_path / "local.h5").read_bytes()


def test_unreachable_cluster_is_an_error(call, checkpoint, tmp_path):
    pytest.importorskip("ray")
    result = call("extract", "--checkpoint", checkpoint, "--data", "digits", "--out", tmp_path / "a.h5", "--engine", "ray",
                   "--ray-address", "127.0.0.1:1")  # fmt: skip
    assert result.exit_code == 1
    assert "No Ray cluster at 127.0.0.1:1" in result.stderr


def test_error_without_ray_names_the_extra(call, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    result = call(
        "extract", "--checkpoint", checkpoint, "--data", "digits", "--out", tmp_path / "a.h5", "--engine", "ray"
    )
    assert result.exit_code == 2
    assert 'pip install "simsiam-eval[ray]"' in result.stderr
