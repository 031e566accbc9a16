"""The whole pipeline as a user walks it: pretrain, inspect, extract, linear-eval, knn, and what goes wrong on it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import pytest
import torch

ROOT = Path(__file__).parent.parent


def test_checkpoint_is_the_references_and_loads_without_pickle(checkpoint):
    loaded = torch.load(checkpoint, weights_only=True)
    assert {"epoch", "arch", "state_dict", "optimizer"} <= set(loaded)
    assert loaded["epoch"] == 1
    assert all(key.startswith(("module.encoder.", "module.predictor.")) for key in loaded["state_dict"])


def test_inspect_says_what_the_file_is(record, checkpoint):
    metrics = record("inspect", checkpoint)["metrics"]
    assert (metrics["arch"], metrics["stem"], metrics["epoch"], metrics["feature_width"]) == (
        "resnet18",
        "cifar",
        1,
        512,
    )


def test_features_are_in_source_order(pipeline):
    with h5py.File(pipeline / "train.h5") as file:
        assert file["features"].shape == (1197, 512)
        assert file["valid"][:].all()
        assert file.attrs["complete"]
        assert file["ids"].asstr()[0].startswith("digits/")


def test_linear_eval_and_knn_of_the_same_road(record, pipeline):
    sets = ["--train", pipeline / "train.h5", "--test", pipeline / "test.h5"]
    linear = record("linear-eval", "--lars", "--preset", "small", "--epochs", 20, *sets)["metrics"]
    assert 0.2 < linear["top1"] <= linear["top5"] <= 1
    assert linear["top1_interval"][0] < linear["top1"] < linear["top1_interval"][1]
    near = record("knn", *sets, "-k", 20, "-k", 5000, "--temperature", 0.07)["metrics"]
    assert near["by_k"]["5000"]["k_used"] == 1197
    assert near["top1"] == near["by_k"]["20"]["top1"] > 0.3


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
def test_a_mistake_is_one_sentence(call, arguments, status, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call(*arguments)
    assert result.exit_code == status, result.output
    assert says in result.stderr
    assert "Traceback" not in result.output


def test_config_file_goes_below_options_and_above_the_preset(call, record, pipeline, tmp_path):
    config = tmp_path / "knn.toml"
    config.write_text(
        f'[knn]\nk = [3]\ntemperature = 0.5\ntrain = "{pipeline}/train.h5"\ntest = "{pipeline}/test.h5"\n'
    )
    settings = record("knn", "--config", config, "--temperature", 0.2)["settings"]
    assert settings["k"] == [3]
    assert settings["temperature"] == [0.2]
    config.write_text("neighbors = 3\n")
    assert "neighbors" in call("knn", "--config", config).stderr


@pytest.mark.parametrize(
    "command", ["", "pretrain", "knn", "demo", "linear-eval", "extract", "inspect", "retrieval search", "compare"]
)
def test_help_does_not_import_torch(command):
    code = (
        "import sys, cli\n"
        "try: cli.main(sys.argv[1:], prog_name='x')\n"
        "except SystemExit: pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code, *command.split(), "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert shown.returncode == 0, shown.stderr
    assert "Usage" in shown.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        "linear-eval --preset small --epochs 1 --train train.h5 --test test.h5",
        "knn --train train.h5 --test test.h5",
        "retrieval eval --gallery test.h5",
        "compare test.h5 copy.h5",
        "rank test.h5",
        "inspect run/checkpoint_0000.pth.tar",
        "extract --checkpoint run/checkpoint_0000.pth.tar --data digits#test --out more.h5",
    ],
)
def test_neither_torchvision_nor_torchs_compiler_is_imported(pipeline, arguments):
    """Their import takes as long as a whole linear evaluation of some thousand features."""
    (pipeline / "copy.h5").write_bytes((pipeline / "test.h5").read_bytes())
    code = (
        "import sys, cli\n"
        "try: cli.main(sys.argv[1:], prog_name='x')\n"
        "except SystemExit as end: assert not end.code\n"
        "assert not sys.modules.keys() & {'torchvision', 'torch._dynamo'}"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, *arguments.split()], cwd=pipeline, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr


def test_a_config_file_may_hold_several_commands_tables(call, pipeline, tmp_path):
    (tmp_path / "all.toml").write_text("seed = 3\n[pretrain]\nepochs = 2\n[knn]\nk = [1]\n")
    arguments = ["--train", pipeline / "train.h5", "--test", pipeline / "test.h5", "--json"]
    settings = json.loads(call("knn", "--config", tmp_path / "all.toml", *arguments).stdout)["settings"]
    assert (settings["seed"], settings["k"]) == (3, [1])
    (tmp_path / "all.toml").write_text("[knn]\nk = [1]\n[retrieval.eval]\nk = [2]\n[retrieval.build]\nk = 5\n")
    search = ["retrieval", "eval", "--gallery", pipeline / "train.h5", "--queries", pipeline / "test.h5", "--json"]
    assert json.loads(call(*search, "--config", tmp_path / "all.toml").stdout)["settings"]["k"] == [2]
    (tmp_path / "all.toml").write_text("[retrieval]\nk = [3]\nseed = 4\n[retrieval.eval]\nk = [2]\n")
    settings = json.loads(call(*search, "--config", tmp_path / "all.toml").stdout)["settings"]
    assert (settings["k"], settings["seed"]) == ([2], 4)
    (tmp_path / "all.toml").write_text("[retrieval]\nbogus = 1\n")
    assert "unknown setting 'bogus'" in call(*search, "--config", tmp_path / "all.toml").stderr
    (tmp_path / "all.toml").write_text("[kNN]\nk = [1]\n")
    assert "unknown setting 'kNN'" in call("knn", "--config", tmp_path / "all.toml", *arguments).stderr


def test_settings_of_an_extraction_are_rejected_on_feature_files(call, pipeline):
    arguments = ["knn", "--train", pipeline / "train.h5", "--test", pipeline / "test.h5"]
    rejected = call(*arguments, "--pool", "max")
    assert (rejected.exit_code, "--pool applies to images only" in rejected.stderr) == (2, True)
    assert "pool" not in json.loads(call(*arguments, "--json").stdout)["settings"]
