"""The online kNN gives the accuracy, and the errors, of `knn`."""

import json

import numpy as np
import pytest
from PIL import Image

COMMON = ["--preset", "cifar10", "--image-size", 8, "--dim", 16, "--pred-dim", 8, "--projector-hidden", 16]
COMMON += ["--epochs", 1, "--batch-size", 8, "--knn-k", 3, "--device", "cpu"]


@pytest.fixture
def noise(tmp_path):
    """Manifests of sixteen images of noise: two classes, numbered from 0, from 1, or without the second."""
    rng = np.random.default_rng(0)
    for row in range(16):
        Image.fromarray(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8)).save(tmp_path / f"{row}.png")
    for name, labels in {
        "bank": [row % 2 for row in range(16)],
        "again": [f"{row % 2}.0" if row else "NA" for row in range(16)],
        "from_one": [row % 2 + 1 for row in range(16)],
        "one": [7] * 16,
        "named": ["ab"[row % 2] for row in range(16)],
        "less": ["b" for _ in range(16)],
        "nothing": ["NA"] * 16,
        "half": [row % 2 for row in range(10)],
    }.items():
        lines = [f"{row}.png,{label}" for row, label in enumerate(labels)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["path,label", *lines]))
        (tmp_path / f"{name}_reversed.csv").write_text("\n".join(["path,label", *lines[::-1]]))
    return tmp_path


def checkpoint_and_accuracy(call, folder, data, val):
    done = call("pretrain", *COMMON, "--data", folder / data, "--val", folder / val, "--out", folder / "run")
    assert done.exit_code == 0, done.output
    lines = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    return folder / "run" / "checkpoint_last.pth.tar", lines[-1]["knn_top1"]


@pytest.mark.parametrize(
    ("data", "val"),
    [
        ("bank.csv", "bank.csv"),
        ("bank.csv", "again.csv"),
        ("named.csv", "less.csv"),
        ("bank.csv", "bank_reversed.csv"),
        ("half.csv", "bank.csv"),
        ("bank.csv", "half.csv"),
    ],
)
def test_the_accuracy_is_that_of_knn(call, record, noise, data, val):
    checkpoint, accuracy = checkpoint_and_accuracy(call, noise, data, val)
    options = ["--checkpoint", checkpoint, "-k", 3, "--temperature", 0.1]
    found = record("knn", "--train", noise / data, "--test", noise / val, *options)
    assert accuracy == pytest.approx(found["metrics"]["top1"])
    if data == val:
        assert accuracy < 0.9  # no image is its own neighbor
        assert found["provenance"]["leave_one_out"]
    elif data in ("bank.csv", "half.csv"):
        in_both = {"again.csv": 15, "bank_reversed.csv": 16}.get(val, 10)
        assert found["provenance"]["left_out_of_own_neighbors"] == in_both
    if val == "bank_reversed.csv":
        same = record("knn", "--train", noise / data, "--test", noise / data, *options)
        assert found["metrics"]["top1"] == same["metrics"]["top1"]


@pytest.mark.parametrize(
    ("data", "val", "says"),
    [
        ("bank.csv", "from_one.csv", "has no image of a class of --{} {}: 2"),
        ("one.csv", "one.csv", "has only one class (7); there is nothing to classify"),
        ("bank.csv", "named.csv", "classes cannot be matched"),
        ("bank.csv", "nothing.csv", "--{} {} has no labels"),
    ],
)
def test_the_errors_are_those_of_knn(call, noise, data, val, says, tmp_path):
    import torchvision

    weights = tmp_path / "resnet18.pth"
    import torch

    torch.save(torchvision.models.resnet18().state_dict(), weights)
    out = noise / "run"
    online = call("pretrain", *COMMON, "--data", noise / data, "--val", noise / val, "--out", out)
    offline = call("knn", "--train", noise / data, "--test", noise / val, "--checkpoint", weights, "--crop", 8)
    for done, option in ((online, "val"), (offline, "test")):
        assert (done.exit_code, says.format(option, noise / val) in done.stderr) == (1, True), done.stderr
    assert not list(out.glob("checkpoint*"))
