"""What was assumed about an encoder stands in the records and in the feature file."""

import json

import h5py
import pytest
import torch

from simsiam_eval.encoders.encoder import build_trunk
from simsiam_eval.runtime.notes import _said

STEM, NORMALIZATION = "Assumed a 3x3 stem", "Assumed images normalized by ImageNet's mean"


@pytest.fixture(scope="module")
def files(record, tmp_path_factory):
    """A folder with bare.pth, whose stem and normalization are assumed, and train.h5 and test.h5 of its features."""
    folder = tmp_path_factory.mktemp("assumed")
    torch.manual_seed(0)
    torch.save(build_trunk("resnet18", "cifar").state_dict(), folder / "bare.pth")
    for split in ("train", "test"):
        record("extract", "--checkpoint", folder / "bare.pth", "--data", f"digits#{split}", "--limit", 40, "--crop", 8,
               "--out", folder / f"{split}.h5")  # fmt: skip
    return folder


def assumed(value):
    """The lists under `assumptions`, wherever they stand."""
    if isinstance(value, dict):
        own = [value["assumptions"]] if "assumptions" in value else []
        return own + [found for entry in value.values() for found in assumed(entry)]
    return [found for entry in value for found in assumed(entry)] if isinstance(value, list) else []


def test_records_have_what_was_assumed(record, files, tmp_path):
    train, test, bare = files / "train.h5", files / "test.h5", files / "bare.pth"
    head, index, test_of_other = tmp_path / "head.safetensors", tmp_path / "a.index", tmp_path / "copy.h5"
    test_of_other.write_bytes(test.read_bytes())
    commands = [
        ("knn", "--train", train, "--test", test, "-k", 1),
        ("linear-eval", "--train", train, "--test", test, "--preset", "logistic", "--save-head", head),
        ("predict", "--checkpoint", bare, "--head", head, "--data", "digits#test"),
        ("retrieval", "eval", "--gallery", train, "--queries", test),
        ("retrieval", "build", "--gallery", train, "--out", index),
        ("retrieval", "search", test, "--gallery", index),
        ("duplicates", train, test),
        ("compare", test, test_of_other, "--overlap-k", 1),
        ("rank", train, test),
        ("verify", test),
        ("export", test, "--to", "npy", "--out", tmp_path / "npy"),
        ("convert", bare, "--to", "torchvision", "--out", tmp_path / "converted.pth"),
    ]
    for command in commands:
        found = assumed(record(*command)["provenance"])
        assert found, command
        for sentences in found:
            assert [sentence[: len(STEM)] for sentence in sentences] == [STEM, NORMALIZATION[: len(STEM)]], command
    assert json.loads((tmp_path / "npy" / "attributes.json").read_text())["assumptions"] == found[0]


def test_what_is_given_is_not_assumed(record, files, tmp_path):
    given = ("--stem-stride", 1, "--stem-padding", 1, "--no-stem-pool", "--mean", 0.5, "--std", 0.5)
    common = ("--checkpoint", files / "bare.pth", "--data", "digits#test", "--limit", 2, "--crop", 8)
    made = record("extract", *common, *given, "--out", tmp_path / "a.h5")
    assert made["provenance"]["assumptions"] == []
    assert record("rank", tmp_path / "a.h5")["provenance"]["files"][0]["assumptions"] == []


def test_assumptions_are_those_of_the_checkpoint_and_not_of_the_file_in_the_cache(record, files, tmp_path):
    sets = ("--train", "digits#train", "--test", "digits#test", "--crop", 8, "-k", 1)
    bare = record("knn", *sets, "--checkpoint", files / "bare.pth")["provenance"]["train"]
    assert [sentence[: len(STEM)] for sentence in bare["assumptions"]] == [STEM, NORMALIZATION[: len(STEM)]]
    given = ("--stem-stride", 1, "--stem-padding", 1, "--no-stem-pool")
    same = record("knn", *sets, "--checkpoint", files / "bare.pth", *given)["provenance"]["train"]
    assert same["file"] == bare["file"]
    assert same["assumptions"] == bare["assumptions"][1:]


def test_feature_files_without_the_attribute_are_read(record, files, tmp_path):
    old = tmp_path / "old.h5"
    old.write_bytes((files / "test.h5").read_bytes())
    with h5py.File(old, "r+") as file:
        del file.attrs["assumptions"]
    sets = record("knn", "--train", files / "train.h5", "--test", old, "-k", 1)["provenance"]
    assert sets["test"]["assumptions"] is None
    assert len(sets["train"]["assumptions"]) == 2
    again = (
        "extract",
        "--checkpoint",
        files / "bare.pth",
        "--data",
        "digits#test",
        "--limit",
        40,
        "--crop",
        8,
        "--out",
        old,
    )
    assert record(*again)["metrics"]["computed"] == 0


def test_merged_parts_have_the_assumptions_of_all(record, files, tmp_path):
    common = ("extract", "--checkpoint", files / "bare.pth", "--data", "digits#test", "--crop", 8)
    record(*common, "--rows", "0:8", "--out", tmp_path / "0.h5")
    record(*common, "--rows", "8:16", "--stem-padding", 1, "--out", tmp_path / "8.h5")
    merged = record("merge", tmp_path / "0.h5", tmp_path / "8.h5", "--out", tmp_path / "all.h5")
    stems = [sentence for sentence in merged["provenance"]["assumptions"] if sentence.startswith(STEM)]
    assert len(stems) == 2
    assert "padding 1" in stems[0] and "padding" not in stems[1]


def test_pretrain_prints_and_records_what_it_assumed_of_its_start(call, small, files, tmp_path):
    _said.clear()
    arguments = ("pretrain", *small, "--arch", "resnet18", "--init", files / "bare.pth", "--epochs", 0)
    result = call(*arguments, "--out", tmp_path / "run", "--json")
    (stem,) = json.loads(result.stdout)["provenance"]["init"]["assumptions"]
    assert stem.startswith(STEM)
    assert result.stderr.count(stem) == 1
    assert NORMALIZATION not in result.stderr  # a run has its own
