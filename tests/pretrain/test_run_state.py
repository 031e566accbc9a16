"""Nothing of a run is lost: killed at any instant, it becomes the run that was never interrupted, bit for bit."""

import fcntl
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parent.parent.parent
EPOCHS, IMAGES = 3, 50  # as conftest's `tiny` has them

# Runs `pretrain` in forked children, so that torch is imported once; each line of standard input is one run:
# {"kill": seconds from the first step, or -1 in the middle of writing the second checkpoint, or null, "args": [...]}
SERVER = """
import json, os, signal, sys, threading
import cli, pretrain.loop, pretrain.step, pretrain.monitor
import torch
torch.set_num_threads(1)
def child(kill, args):
    if kill == -1:
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
    elif kill is not None:
        step = pretrain.step.TrainingStep.__call__
        timer = threading.Timer(kill, lambda: os.kill(os.getpid(), signal.SIGKILL))
        timer.daemon = True
        def started(*args):
            if not timer.is_alive():
                timer.start()
            return step(*args)
        pretrain.step.TrainingStep.__call__ = started
    try:
        cli.main(["pretrain", *args], standalone_mode=False)
    except SystemExit as stop:
        os._exit(stop.code or 0)
    os._exit(0)
for line in sys.stdin:
    asked = json.loads(line)
    number = os.fork()
    if number == 0:
        child(asked["kill"], asked["args"])
    print(os.waitpid(number, 0)[1], flush=True)
"""


@pytest.fixture(scope="module")
def pretrain():
    """pretrain(arguments, kill=None) -> wait status of a process that ran it."""
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip

    def run(arguments, kill=None):
        server.stdin.write(json.dumps({"kill": kill, "args": [str(one) for one in arguments]}) + "\n")
        server.stdin.flush()
        while not (answer := server.stdout.readline()).strip().isdigit():
            assert answer, server.stderr.read()
        return int(answer)

    yield run
    server.stdin.close()
    server.wait()


@pytest.fixture(scope="module")
def whole(pretrain, tiny, tmp_path_factory):
    """A run that was never interrupted."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert pretrain([*tiny, "--out", out]) == 0
    return out


TIMES = ("images_per_second", "waiting")


def contents(out):
    """All that must be the same: weights, optimiser, random state, history and log, without the clock's readings."""
    loaded = torch.load(out / "checkpoint_last.pth.tar", weights_only=True)
    own = loaded["simsiam_eval"]
    for entry in own["history"]:
        for name in TIMES:
            del entry[name]
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    log = [{name: value for name, value in line.items() if name not in TIMES} for line in log]
    kept = {"position": {**own["position"], "history": None}, "history": own["history"], "random": own["random"]}
    return {"weights": loaded["state_dict"], "optimiser": loaded["optimizer"], "log": log, **kept}


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
        (["--no-stop-gradient"], "--stop-gradient True, not False"),
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
    at = tiny.index("--val")
    refused = call("pretrain", *tiny[:at], *tiny[at + 2 :], "--data", tmp_path / "images", "--out", whole)
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
