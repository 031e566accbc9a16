import json
import os

import pytest
import torch

from pretrain.monitor import KnnMonitor
from simsiam_eval.errors import DataError

EPOCHS = 3  # as conftest's `tiny` has them


def test_an_online_knn_that_fails_does_not_stop_the_run(call, tiny, tmp_path, monkeypatch):
    def broken(*_):
        raise DataError("no image")

    monkeypatch.setattr("pretrain.monitor.KnnMonitor.accuracy", broken)
    done = call("pretrain", *tiny, "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    assert "no online kNN after epoch 0 (no image)" in done.stderr
    assert (tmp_path / "run" / f"checkpoint_{EPOCHS - 1:04d}.pth.tar").exists()


STOPPED_IN_KNN = """
from pretrain.monitor import KnnMonitor
features, calls = KnnMonitor._features, []
def stopping(self, encoder, option, source):
    calls.append(1)
    if len(calls) == 3:  # of two an epoch
        self._stop.status = 143
    return features(self, encoder, option, source)
KnnMonitor._features = stopping
"""


def test_a_run_stopped_in_the_online_knn_is_the_uninterrupted_run(pretrain, tiny, whole, assert_same_run, tmp_path):
    """In the second epoch, with whose end the run resumes; an epoch's seconds are those of its steps in both processes."""
    out = tmp_path / "run"
    assert os.waitstatus_to_exitcode(pretrain([*tiny, "--out", out], prepare=STOPPED_IN_KNN)) == 143
    at = torch.load(out / "checkpoint_last.pth.tar", weights_only=True)["simsiam_eval"]["position"]
    assert (at["epoch"], at["step"]) == (1, 6) and at["seconds"] > 0
    assert pretrain([*tiny, "--out", out]) == 0
    assert_same_run(whole, out)
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    epochs = [line for line in lines if line["kind"] == "epoch"]
    assert epochs[1]["seconds"] >= at["seconds"]
    assert all(line["images_per_second"] == pytest.approx(48 / line["seconds"]) for line in epochs)


def test_of_equally_good_epochs_the_first_is_the_best(call, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(KnnMonitor, "accuracy", lambda *_: 0.5)
    for _ in range(2):  # the second finds the run finished
        assert call("pretrain", *tiny, "--out", tmp_path).exit_code == 0
        assert torch.load(tmp_path / "checkpoint_best_knn.pth.tar", weights_only=True)["epoch"] == 1
