"""A run so small that it can be repeated, killed and cut in two."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

EPOCHS, BATCH, IMAGES = 3, 8, 50  # six steps an epoch, two images left out of each
TIMES = ("seconds", "images_per_second", "waiting")

# SIGKILL in the middle of writing the second checkpoint.
TORN = """
import pretrain.run, torch
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


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """A folder of noise in two classes."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for number in range(IMAGES):
        kind = folder / f"{'ab'[number % 2]}"
        kind.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(kind / f"{number:02d}.png")
    return folder


@pytest.fixture(scope="session")
def tiny(images):
    """Options of a run of three epochs of six steps, with health and online kNN."""
    chosen = {"epochs": EPOCHS, "batch-size": BATCH, "image-size": 8, "dim": 16, "pred-dim": 8, "projector-hidden": 16}
    chosen |= {
        "health-every": 2,
        "checkpoint-every": "1 epochs",
        "data": images,
        "val": images,
        "knn-every": 1,
        "knn-k": 5,
    }
    return ["--preset", "cifar10", "--no-resident", *(str(x) for name, x in chosen.items() for x in (f"--{name}", x))]


@pytest.fixture(scope="session")
def pretrain(forked):
    """pretrain(arguments, kill=None) -> wait status of a process that ran it; kill: seconds after training has started, or
    -1 for the middle of a write."""

    def run(arguments, kill=None, prepare=""):
        if kill == -1:
            return forked(["pretrain", *arguments], TORN)
        return forked(["pretrain", *arguments], prepare, kill, "pretrain.log:TrainingLog.before_epoch")

    return run


@pytest.fixture(scope="session")
def whole(pretrain, tiny, tmp_path_factory):
    """The folder of a run that was never interrupted."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert pretrain([*tiny, "--out", out]) == 0
    return out


@pytest.fixture(scope="session")
def change():
    """change(run, folder, edit): a copy of the run's last checkpoint in another folder, its own part edited."""

    def run(run, folder, edit):
        checkpoint = torch.load(run / "checkpoint_last.pth.tar", weights_only=True)
        edit(checkpoint["simsiam_eval"])
        torch.save(checkpoint, folder / "checkpoint_last.pth.tar")

    return run


def contents(out):
    """All that must be the same: weights, optimizer, random state, history and log, without readings of the clock."""
    loaded = torch.load(out / "checkpoint_last.pth.tar", weights_only=True)
    own = loaded["simsiam_eval"]
    for entry in own["history"]:
        for name in TIMES:
            del entry[name]
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    log = [{name: value for name, value in line.items() if name not in TIMES} for line in log]
    kept = {"position": {**own["position"], "history": None}, "history": own["history"], "random": own["random_state"]}
    return {"weights": loaded["state_dict"], "optimizer": loaded["optimizer"], "log": log, **kept}


def assert_equal(first, second, where=""):
    assert type(first) is type(second), where
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second), where
    elif isinstance(first, dict):
        assert list(first) == list(second), where
        for key in first:
            assert_equal(first[key], second[key], f"{where}/{key}")
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), where
        for index, pair in enumerate(zip(first, second, strict=True)):
            assert_equal(*pair, f"{where}/{index}")
    else:
        assert first == second, where


@pytest.fixture(scope="session")
def assert_same_run():
    """assert_same_run(out, other): the two run folders hold the same run, bit for bit."""
    return lambda out, other: assert_equal(contents(out), contents(other))
