"""Nothing of a run is lost: killed at any instant, it becomes the run that was never interrupted, bit for bit."""

import copy
import fcntl
import itertools
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from PIL import Image

from pretrain import run_folder as run_state
from pretrain.monitor import KnnMonitor
from pretrain.run_folder import Position, RunFolder, random_state, restore
from pretrain.settings import PretrainSettings
from pretrain.step import TrainingStep
from simsiam_eval.encoders.checkpoint import OWN_KEY, RANDOM_KEY
from simsiam_eval.errors import DataError
from simsiam_eval.runtime.processes import Processes

ROOT = Path(__file__).parent.parent.parent
EPOCHS, IMAGES = 3, 50  # as conftest's `tiny` has them

# SIGKILL in the middle of writing the second checkpoint.
TORN = """
import pretrain.train, torch
save, calls = torch.save, []
def torn(content, file):
    if isinstance(content, dict) and "state_dict" in content:
        calls.append(1)
        if len(calls) == 2:
            file.write(b"half a checkpoint" * 1000)
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    save(content, file)
torch.save = torn
"""


@pytest.fixture(scope="module")
def pretrain(forked):
    """pretrain(arguments, kill=None) -> wait status of a process that ran it; kill: seconds from the first step, or -1."""

    def run(arguments, kill=None, prepare=""):
        if kill == -1:
            return forked(["pretrain", *arguments], TORN)
        return forked(["pretrain", *arguments], prepare, kill, "pretrain.step:TrainingStep.__call__")

    return run


@pytest.fixture(scope="module")
def whole(pretrain, tiny, tmp_path_factory):
    """A run that was never interrupted."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert pretrain([*tiny, "--out", out]) == 0
    return out


def test_every_so_many_minutes_within_an_epoch_too(call, tiny, tmp_path, monkeypatch):
    """A clock that goes forty seconds further every time it is looked at: a checkpoint at every second step."""
    clock, saved, save = itertools.count(0, 40), [], RunFolder.save

    def noted(self, model, optimizer, position):
        saved.append((position.epoch, position.step))
        save(self, model, optimizer, position)

    monkeypatch.setattr(run_state, "time", types.SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(RunFolder, "save", noted)
    made = call("pretrain", *tiny, "--out", tmp_path / "run", "--every", "1 minutes")
    assert made.exit_code == 0, made.output
    assert any(step for _, step in saved)
    assert saved[-1] == (EPOCHS, 0)
    assert not any((epoch, step + 1) in saved for epoch, step in saved if step)


TIMES = ("seconds", "images_per_second", "waiting")


def contents(out):
    """All that must be the same: weights, optimizer, random state, history and log, without the clock's readings."""
    loaded = torch.load(out / "checkpoint_last.pth.tar", weights_only=True)
    own = loaded["simsiam_eval"]
    for entry in own["history"]:
        for name in TIMES:
            del entry[name]
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    log = [{name: value for name, value in line.items() if name not in TIMES} for line in log]
    kept = {"position": {**own["position"], "history": None}, "history": own["history"], "random": own["random_state"]}
    return {"weights": loaded["state_dict"], "optimizer": loaded["optimizer"], "log": log, **kept}


def assert_same(one, two, where=""):
    assert type(one) is type(two), where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, two), where
    elif isinstance(one, dict):
        assert list(one) == list(two), where
        for key in one:
            assert_same(one[key], two[key], f"{where}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(two), where
        for place, pair in enumerate(zip(one, two, strict=True)):
            assert_same(*pair, f"{where}/{place}")
    else:
        assert one == two, where


def test_killed_at_ten_instants_it_is_the_run_that_was_not(pretrain, tiny, whole, tmp_path):
    rng, kills, runs = random.Random(0), 0, 0
    instants = [-1, *(rng.uniform(0.0, 0.8) for _ in range(9))]
    while kills < len(instants):  # a run that came to its end unharmed is followed by another
        out = tmp_path / f"run{runs}"
        status = pretrain([*tiny, "--out", out, "--workers", kills % 3], kill=instants[kills])
        assert status in (0, 9)
        kills, runs = kills + (status == 9), runs + (status == 0)
        assert not [path for path in out.glob("checkpoint_*") if path.stat().st_size < 1_000_000]
    assert pretrain([*tiny, "--out", tmp_path / f"run{runs}"]) == 0
    for number in range(runs + 1):
        assert_same(contents(whole), contents(tmp_path / f"run{number}"))
    names = {path.name for path in (tmp_path / "run0").glob("checkpoint_*")}
    assert names == {f"checkpoint_{name}.pth.tar" for name in ("last", "best_knn", "0001", "0002")}


def test_a_finished_run_is_left_as_it_is(pretrain, tiny, whole):
    before = {path.name: path.read_bytes() for path in whole.glob("checkpoint_*")}
    assert pretrain([*tiny, "--out", whole]) == 0
    assert before == {path.name: path.read_bytes() for path in whole.glob("checkpoint_*")}
    assert json.loads((whole / "result.json").read_text())["metrics"]["epoch"] == EPOCHS - 1


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (["--lr", "0.5"], "--lr 0.03, not 0.5"),
        (["--seed", "3"], "--seed 0, not 3"),
        (["--decode", "scaled"], "--decode full, not scaled"),
        (["--no-stop-gradient"], "--stop-gradient, not --no-stop-gradient"),
        (["--resume", "never"], "earlier run"),
    ],
)
def test_a_changed_setting_that_matters_is_refused_by_name(call, tiny, whole, changed, says):
    refused = call("pretrain", *tiny, "--out", whole, *changed)
    assert refused.exit_code == 1
    assert says in refused.stderr


def test_a_run_from_before_there_was_scaled_decoding_goes_on(call, tiny, whole, tmp_path):
    old = torch.load(whole / "checkpoint_last.pth.tar", weights_only=True)
    del old["simsiam_eval"]["settings"]["decode"]
    torch.save(old, tmp_path / "checkpoint_last.pth.tar")
    assert call("pretrain", *tiny, "--out", tmp_path).exit_code == 0
    refused = call("pretrain", *tiny, "--out", tmp_path, "--decode", "scaled")
    assert "--decode full, not scaled" in refused.stderr


def test_other_images_are_refused(call, tiny, whole, tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(IMAGES):
        Image.new("RGB", (12, 12)).save(tmp_path / "images" / f"other{number}.png")
    refused = call("pretrain", *tiny, "--data", tmp_path / "images", "--out", whole)
    assert refused.exit_code == 1
    assert "other images" in refused.stderr


def test_resume_must_needs_a_run(call, tiny, tmp_path):
    refused = call("pretrain", *tiny, "--out", tmp_path / "empty", "--resume", "must")
    assert refused.exit_code == 1
    assert "no run" in refused.stderr


def test_two_processes_in_one_folder(call, tiny, tmp_path):
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused = call("pretrain", *tiny, "--out", tmp_path)
    assert refused.exit_code == 1
    assert "Another process" in refused.stderr


def test_names_that_a_kill_kept_from_the_last_checkpoint_are_given_again(pretrain, tiny, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    last = f"checkpoint_{EPOCHS - 1:04d}.pth.tar"
    (tmp_path / "run" / last).unlink()
    (tmp_path / "run" / "checkpoint_0000_backup.pth.tar").write_bytes(b"the user's own")
    assert pretrain([*tiny, "--out", tmp_path / "run"]) == 0
    assert (tmp_path / "run" / last).read_bytes() == (whole / last).read_bytes()


def test_a_file_of_the_users_own_beside_the_checkpoints(pretrain, tiny, tmp_path):
    (tmp_path / "run").mkdir()
    arguments = [*tiny, "--out", tmp_path / "run", "--every", "1 epochs"]
    stray = f"open({str(tmp_path / 'run' / 'checkpoint_0000_backup.pth.tar')!r}, 'w').close()"
    prepare = f"""
import pretrain.step as s
set_lr = s.TrainingStep.set_lr
def noted(*a):
    {stray}
    return set_lr(*a)
s.TrainingStep.set_lr = noted
"""
    assert pretrain(arguments, prepare=prepare) == 0


def test_an_online_knn_that_fails_costs_no_epoch(call, tiny, tmp_path, monkeypatch):
    def broken(*_):
        raise DataError("no image")

    monkeypatch.setattr("pretrain.monitor.KnnMonitor.accuracy", broken)
    done = call("pretrain", *tiny, "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    assert "no online kNN after epoch 0 (no image)" in done.stderr
    assert (tmp_path / "run" / f"checkpoint_{EPOCHS - 1:04d}.pth.tar").exists()


def changed_run(whole, folder, change):
    old = torch.load(whole / "checkpoint_last.pth.tar", weights_only=True)
    change(old["simsiam_eval"])
    torch.save(old, folder / "checkpoint_last.pth.tar")


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_after_a_change_of_memory_format_is_the_same(fused):
    views = torch.randn(2, 8, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    chosen = dict(data="-", out="-", preset="digits", image_size=20, batch_size=8, fused=fused)
    alone = Processes(torch.device("cpu"))
    first = TrainingStep(PretrainSettings(channels_last=False, **chosen), alone)
    first.set_lr(0)
    first(*views)
    saved = {
        "state_dict": {f"module.{name}": value.clone() for name, value in first.model.state_dict().items()},
        "optimizer": copy.deepcopy(first.optimizer.state_dict()),
        OWN_KEY: {RANDOM_KEY: random_state(), "position": vars(Position())},
    }
    first(*views)
    other = TrainingStep(PretrainSettings(channels_last=True, **chosen), alone)
    restore(saved, other.model, other.optimizer, alone.device)
    other.set_lr(0)
    other(*views)
    for name, value in first.model.named_parameters():
        torch.testing.assert_close(other.model.get_parameter(name), value, rtol=1e-4, atol=1e-5)


def test_a_run_goes_on_in_another_memory_format(call, tiny, whole, tmp_path):
    for was, given in ((True, "--no-channels-last"), (None, "--channels-last"), (False, None)):
        changed_run(whole, tmp_path, lambda own, was=was: own["settings"].update(channels_last=was))
        assert call("pretrain", *tiny, *filter(None, [given]), "--out", tmp_path).exit_code == 0


def test_bn_of_other_processes_is_another_run(call, tiny, whole, tmp_path):
    def of_two(own):
        own["settings"]["sync_bn"], own["processes"] = False, 2

    changed_run(whole, tmp_path, of_two)
    assert "a run of 2 processes" in call("pretrain", *tiny, "--no-sync-bn", "--out", tmp_path).stderr


STOPPED_IN_KNN = """
from pretrain.monitor import KnnMonitor
features, looks = KnnMonitor._features, []
def stopping(self, encoder, source, device, stop):
    looks.append(1)
    if len(looks) == 3:  # of two an epoch
        stop.status = 143
    return features(self, encoder, source, device, stop)
KnnMonitor._features = stopping
"""


def test_stopped_in_the_online_knn_it_is_the_run_that_was_not(pretrain, tiny, whole, tmp_path):
    """In the second epoch's, which the run goes on with; the time of an epoch is that of its steps in all processes."""
    out = tmp_path / "run"
    assert os.waitstatus_to_exitcode(pretrain([*tiny, "--out", out], prepare=STOPPED_IN_KNN)) == 143
    at = torch.load(out / "checkpoint_last.pth.tar", weights_only=True)["simsiam_eval"]["position"]
    assert (at["epoch"], at["step"]) == (1, 6) and at["seconds"] > 0
    assert pretrain([*tiny, "--out", out]) == 0
    assert_same(contents(whole), contents(out))
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    epochs = [line for line in lines if line["kind"] == "epoch"]
    assert epochs[1]["seconds"] >= at["seconds"]
    assert all(line["images_per_second"] == pytest.approx(48 / line["seconds"]) for line in epochs)


def test_of_equally_good_epochs_the_first_is_the_best(call, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(KnnMonitor, "accuracy", lambda *_: 0.5)
    for _ in range(2):  # the second finds the run finished
        assert call("pretrain", *tiny, "--out", tmp_path).exit_code == 0
        assert torch.load(tmp_path / "checkpoint_best_knn.pth.tar", weights_only=True)["epoch"] == 1


def test_a_damaged_checkpoint_names_the_one_before_it(call, tiny, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run" / "checkpoint_last.pth.tar").write_bytes(b"half")
    said = call("pretrain", *tiny, "--out", tmp_path / "run")
    assert said.exit_code == 1 and f"copy {tmp_path / 'run' / f'checkpoint_{EPOCHS - 1:04d}'}" in said.stderr


def test_weights_of_no_use_do_not_take_the_place_of_good_ones(call, tiny, tmp_path):
    """One step an epoch: its loss, of the weights before it, is finite."""
    once = ("--batch-size", IMAGES, "--lr", 1e30, "--out", tmp_path)
    stopped = call("pretrain", *tiny, *once)
    assert stopped.exit_code == 1
    assert "weights have grown beyond float32" in stopped.stderr and "no checkpoint" in stopped.stderr
    assert not list(tmp_path.glob("checkpoint_*"))


def test_processes_that_see_different_folders_do_not_start(tiny, whole, tmp_path):
    """Two machines, each with a folder of that name, of which the second holds no run."""
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


def test_what_a_kill_left_of_a_checkpoint_is_removed(call, tiny, whole, tmp_path):
    changed_run(whole, tmp_path, lambda own: None)
    (tmp_path / ".checkpoint_last.pth.tar.0123456789ab.tmp").write_bytes(b"half")
    assert call("pretrain", *tiny, "--out", tmp_path).exit_code == 0
    assert not list(tmp_path.glob(".checkpoint_*"))


def test_images_that_could_not_be_read_are_counted_of_the_whole_run(call, tiny, images, tmp_path):
    shutil.copytree(images, tmp_path / "images")
    for number in (3, 7):
        (tmp_path / "images" / "b" / f"{number:02d}.png").write_bytes(b"no image")
    counted = []
    for _ in range(2):  # the second finds the run finished
        made = call("pretrain", *tiny, "--data", tmp_path / "images", "--epochs", 1, "--out", tmp_path / "run")
        assert made.exit_code == 0, made.output
        counted.append(json.loads((tmp_path / "run" / "result.json").read_text())["metrics"]["unreadable"])
    assert counted[0] == counted[1] > 0


@pytest.mark.parametrize(("before", "now"), [(True, None), (None, True)])
def test_how_the_optimizer_computes_is_this_machines(before, now):
    """A run that a CPU began goes on with a GPU's fused SGD, and --no-fused is heeded when it is given later."""

    def trained(fused):
        model = torch.nn.Linear(3, 2)
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, fused=fused)
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        return model, optimizer

    model, optimizer = trained(before)
    own = {"position": {}, run_state.RANDOM_KEY: run_state.random_state()}
    saved = {"state_dict": model.state_dict(), "optimizer": optimizer.state_dict(), run_state.OWN_KEY: own}
    other, again = trained(now)
    run_state.restore(saved, other, again, torch.device("cpu"))
    assert again.param_groups[0]["fused"] is now
    assert torch.equal(again.state[other.weight]["momentum_buffer"], optimizer.state[model.weight]["momentum_buffer"])
