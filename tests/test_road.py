"""The whole road as a user walks it: pretrain, inspect, extract, linear-eval, knn, and what goes wrong on it."""

import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from cli import main

ROOT = Path(__file__).parent.parent
SMALL = ["--preset", "digits", "--image-size", "8", "--data", "digits#train"]


def call(*arguments):
    return CliRunner().invoke(main, [str(one) for one in arguments])


def record(*arguments):
    result = call(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="session")
def road(tmp_path_factory):
    folder = tmp_path_factory.mktemp("road")
    made = record("pretrain", *SMALL, "--epochs", 1, "--out", folder / "run")
    for split in ("train", "test"):
        checkpoint = made["files"]["checkpoint"]
        record("extract", "--checkpoint", checkpoint, "--data", f"digits#{split}", "--out", folder / f"{split}.h5")
    return folder


def checkpoint_of(road):
    return road / "run" / "checkpoint_0000.pth.tar"


def test_checkpoint_is_the_references_and_loads_without_pickle(road):
    loaded = torch.load(checkpoint_of(road), weights_only=True)
    assert {"epoch", "arch", "state_dict", "optimizer"} <= set(loaded)
    assert loaded["epoch"] == 1
    assert all(key.startswith(("module.encoder.", "module.predictor.")) for key in loaded["state_dict"])


def test_inspect_says_what_the_file_is(road):
    metrics = record("inspect", checkpoint_of(road))["metrics"]
    assert (metrics["arch"], metrics["stem"], metrics["epoch"], metrics["feature_width"]) == (
        "resnet18",
        "cifar",
        1,
        512,
    )


def test_features_are_in_source_order(road):
    with h5py.File(road / "train.h5") as file:
        assert file["features"].shape == (1197, 512)
        assert file["valid"][:].all()
        assert file.attrs["complete"]
        assert file["ids"].asstr()[0].startswith("digits/")


def test_linear_eval_and_knn_of_the_same_road(road):
    sets = ["--train", road / "train.h5", "--test", road / "test.h5"]
    linear = record("linear-eval", "--lars", "--preset", "small", "--epochs", 20, *sets)["metrics"]
    assert 0.3 < linear["top1"] <= linear["top5"] <= 1
    assert linear["top1_interval"][0] < linear["top1"] < linear["top1_interval"][1]
    near = record("knn", *sets, "-k", 20, "-k", 5000, "--temperature", 0.07)["metrics"]
    assert near["by_k"]["5000"]["k_used"] == 1197
    assert near["top1"] == near["by_k"]["20"]["top1"] > 0.3


def test_images_with_a_checkpoint_give_what_the_files_give(road):
    files = record("knn", "--train", road / "train.h5", "--test", road / "test.h5", "-k", 20)["metrics"]
    images = record("knn", "--train", "digits", "--test", "digits", "--checkpoint", checkpoint_of(road), "-k", 20)
    assert images["metrics"] == files
    again = call("knn", "--train", "digits", "--test", "digits", "--checkpoint", checkpoint_of(road), "-k", 20)
    assert "from the cache" in again.stderr


def test_knn_leaves_each_image_out_of_its_own_neighbours(road):
    found = record("knn", "--train", road / "test.h5", "--test", road / "test.h5", "-k", 1)
    assert found["provenance"]["leave_one_out"]
    assert found["metrics"]["top1"] < 1


def test_features_of_two_encoders_are_not_mixed(road, tmp_path):
    other = record("pretrain", *SMALL, "--epochs", 0, "--seed", 5, "--out", tmp_path / "run")["files"]["checkpoint"]
    record("extract", "--checkpoint", other, "--data", "digits#test", "--out", tmp_path / "test.h5")
    refused = call("knn", "--train", road / "train.h5", "--test", tmp_path / "test.h5")
    assert refused.exit_code == 1
    assert "weights_sha256" in refused.output


def test_untrained_encoder_has_statistics_of_the_data(tmp_path):
    made = record("pretrain", *SMALL, "--epochs", 0, "--out", tmp_path / "run")["files"]["checkpoint"]
    state = torch.load(made, weights_only=True)["state_dict"]
    assert state["module.encoder.bn1.running_mean"].abs().max() > 0
    assert not torch.allclose(state["module.encoder.bn1.running_var"], torch.ones(64))


def test_the_same_seed_gives_the_same_weights(road, tmp_path):
    again = record("pretrain", *SMALL, "--epochs", 1, "--out", tmp_path / "run")["files"]["checkpoint"]
    first = torch.load(checkpoint_of(road), weights_only=True)["state_dict"]
    second = torch.load(again, weights_only=True)["state_dict"]
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["inspect", "no-such-file.pth"], 1, "no-such-file.pth"),
        (["pretrain", "--data", "digits", "--out", "x", "--epochs", "-1"], 2, "--epochs"),
        (["pretrain", "--data", "nowhere:x", "--out", "x", "--preset", "digits"], 2, "nowhere"),
        (["extract", "--checkpoint", "c", "--out", "x.h5"], 2, "--data"),
        (["knn", "--train", "digits", "--test", "digits"], 2, "--checkpoint"),
        (["knn", "--train", "a.h5", "--test", "b.h5"], 1, "a.h5"),
        (["knn", "--train", "a.h5", "--test", "b.h5", "--device", "cuda:99", "--config", "none.toml"], 2, "none.toml"),
        (["linear-eval", "--train", "a.h5", "--test", "b.h5", "--preset", "none"], 2, "none"),
    ],
)
def test_a_mistake_is_one_sentence(arguments, status, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call(*arguments)
    assert result.exit_code == status, result.output
    assert says in result.stderr
    assert "Traceback" not in result.output


def test_an_earlier_run_is_not_overwritten(road):
    refused = call("pretrain", *SMALL, "--epochs", 1, "--out", road / "run")
    assert refused.exit_code == 1
    assert "earlier run" in refused.stderr


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    stopped = call("pretrain", *SMALL, "--epochs", 2, "--lr", 1e30, "--out", tmp_path / "run")
    assert stopped.exit_code == 1
    assert "not finite" in stopped.stderr


def test_config_file_goes_below_options_and_above_the_preset(road, tmp_path):
    config = tmp_path / "knn.toml"
    config.write_text(f'[knn]\nk = [3]\ntemperature = 0.5\ntrain = "{road}/train.h5"\ntest = "{road}/test.h5"\n')
    settings = record("knn", "--config", config, "--temperature", 0.2)["settings"]
    assert settings["k"] == [3]
    assert settings["temperature"] == 0.2
    config.write_text("neighbours = 3\n")
    assert "neighbours" in call("knn", "--config", config).stderr


@pytest.mark.parametrize("command", [[], ["pretrain"], ["knn"], ["demo"], ["linear-eval"], ["extract"], ["inspect"]])
def test_help_does_not_import_torch(command):
    code = (
        "import sys, cli\n"
        "try: cli.main(sys.argv[1:], prog_name='x')\n"
        "except SystemExit: pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code, *command, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    assert "Usage" in shown.stdout


def test_killed_extraction_goes_on_to_the_same_file(road, tmp_path):
    rng = np.random.default_rng(0)
    from PIL import Image

    (tmp_path / "images").mkdir()
    for number in range(40):
        pixels = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number:03d}.png")
    (tmp_path / "images" / "007.png").write_bytes(b"not an image")
    arguments = ["--checkpoint", str(checkpoint_of(road)), "--data", str(tmp_path / "images"), "--extract-batch", "4"]
    record("extract", *arguments, "--out", tmp_path / "whole.h5", "--workers", 0)
    # The process kills itself with SIGKILL after its third block.
    code = (
        "import os, signal, sys, cli\n"
        "from simsiam_eval.feature_file import FeatureWriter\n"
        "write, blocks = FeatureWriter.write, []\n"
        "def killed(self, *rows):\n"
        "    write(self, *rows); self.sync(); blocks.append(1)\n"
        "    if len(blocks) == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "FeatureWriter.write = killed\n"
        "cli.main(['extract'] + sys.argv[1:])\n"
    )
    out = tmp_path / "killed.h5"
    died = subprocess.run([sys.executable, "-c", code, *arguments, "--out", str(out)], cwd=ROOT, capture_output=True)
    assert died.returncode == -9, died.stderr
    assert not out.exists()
    assert "unfinished" in call("knn", "--train", out, "--test", out).stderr
    again = record("extract", *arguments, "--out", out)
    assert again["metrics"]["computed"] < 41
    assert again["metrics"]["unreadable"] == 1
    with h5py.File(tmp_path / "whole.h5") as one, h5py.File(out) as two:
        for name in ("features", "labels", "ids", "valid"):
            assert np.array_equal(one[name][:], two[name][:]), name
        assert two["errors"][0]["row"] == 7
        assert not two["valid"][7]
