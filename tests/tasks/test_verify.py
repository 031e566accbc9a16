"""verify reports every fault that a feature file can have, and none in a valid file."""

import json
import shutil

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from cli import main
from simsiam_eval.features import checks as feature_checks
from simsiam_eval.features.reader import FeatureReader
from simsiam_eval.features.writer import FeatureWriter, write_features


@pytest.fixture
def file(parts, tmp_path, monkeypatch):
    """A copy of a valid file, read in blocks of seven rows."""
    monkeypatch.setattr(FeatureReader, "block_rows", 7)
    return shutil.copy(parts / "whole.h5", tmp_path / "f.h5")


@pytest.fixture
def faults(call):
    """The faults of a file, after checking that standard error and the exit status agree."""

    def verify_faults(*arguments):
        result = call("verify", *arguments, "--json")
        faults = json.loads(result.stdout)["metrics"]["faults"]
        assert result.exit_code == (1 if faults else 0), result.output
        errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
        assert errors == [f"Error: {fault}" for fault in faults]
        return faults

    return verify_faults


def test_valid_file_matches_its_checkpoint_and_images(record, file, checkpoint, photos):
    metrics = record("verify", file, "--checkpoint", checkpoint, "--data", photos, "--sample", 8)["metrics"]
    assert metrics["faults"] == metrics["warnings"] == []
    with h5py.File(file) as content:
        expected = np.linalg.norm(content["features"][:][content["valid"][:]].astype(np.float64), axis=1)
    norms = metrics["norms"]
    assert [norms["min"], norms["max"]] == pytest.approx([expected.min(), expected.max()])
    assert norms["median"] == pytest.approx(np.sort(expected)[19], rel=1e-3)
    assert metrics["sample"]["min_cosine"] > metrics["sample"]["cosine_limit"]
    assert len(metrics["sample"]["rows"]) == 8
    assert 7 not in metrics["sample"]["rows"]


def test_rows_are_recomputed_with_the_settings_of_the_file(record, checkpoint, photos, tmp_path):
    options = ["--rows", "8:40", "--precision", "bf16", "--dtype", "float16", "--flip-average", "--normalize"]
    options += ["--crop", "10"]
    options += ["--pool", "max", "--layer", "layer3", "--layer", "pool", "--workers", 0, "--views", 2, "--seed", 5]
    options += ["--fingerprint", "listing"]
    record("extract", "--checkpoint", checkpoint, "--data", photos, "--out", tmp_path / "f.h5", *options)
    metrics = record("verify", tmp_path / "f.h5", "--checkpoint", checkpoint, "--data", photos)["metrics"]
    assert metrics["faults"] == []
    assert len(metrics["sample"]["rows"]) == 32


def set_rows(name, rows, value):
    def change(content):
        content[name][rows] = value

    return change


def replace_dataset(name, **dataset):
    def change(content):
        del content[name]
        if dataset:
            content.create_dataset(name, **dataset)

    return change


def set_valid_bytes_to_2(content):
    del content["valid"]
    content.create_dataset("valid", data=np.full(40, 2, np.uint8).view(np.bool_))


def set_attribute(name, value):
    return lambda content: content.attrs.__setitem__(name, value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_rows("features", 11, np.nan), "1 rows of features are not finite; the first is row 11, ants/011.png"),
        (
            set_rows("layers/layer2", slice(20, 23), np.inf),
            "3 rows of layers/layer2 are not finite; the first is row 20",
        ),
        (
            set_rows("features", slice(30, 32), 0),
            "2 rows of features are all zeros although valid; the first is row 30",
        ),
        (set_rows("features", 7, 1), "contain features although their image could not be read; the first is row 7"),
        (set_rows("valid", 9, False), "1 rows are invalid and have no entry in `errors`; the first is row 9"),
        (set_rows("valid", 7, True), "1 rows are in `errors` although valid; the first is row 7"),
        (set_valid_bytes_to_2, "neither 0 nor 1"),
        (set_rows("labels", 3, 2), "1 rows have a label below -1 or above 1; the first is row 3"),
        (set_rows("labels", 3, -2), "label below -1"),
        (set_rows("ids", 7, b"another"), "have another id in `errors`; the first is row 7"),
        (replace_dataset("labels"), "The dataset labels is missing"),
        (replace_dataset("errors"), "damaged"),
        (replace_dataset("ids", data=np.arange(40)), "The dataset ids is (40,) int64, not (40,) UTF-8 text"),
        (replace_dataset("valid", data=np.ones(39, bool)), "The dataset valid is (39,) bool"),
        (replace_dataset("labels", data=np.zeros(40, np.int32)), "The dataset labels is (40,) int32"),
        (replace_dataset("features", data=np.zeros((40, 2))), "The dataset features is (40, 2) float64"),
        (replace_dataset("layers/layer2", data=np.zeros((3, 2), np.float32)), "The dataset layers/layer2 is (3, 2)"),
        (replace_dataset("errors", data=np.zeros(1)), "The dataset errors is (1,) float64"),
        (lambda content: content.create_dataset("views", data=np.ones((40, 2, 3), np.float32)), "attribute views"),
        (set_attribute("complete", False), "is incomplete"),
        (set_attribute("format", "other"), "not a feature file"),
        (set_attribute("format_version", 9), "format version 9"),
        (set_attribute("source", "[1]"), "attribute source is not a JSON object"),
        (set_attribute("encoder", "{"), "damaged"),
        (set_attribute("precision", "fp8"), "attribute precision is not one of float32, bf16"),
        (lambda content: content.attrs.__delitem__("precision"), "attribute precision is not one of"),
        (set_attribute("source", '{"rows": [3]}'), "says rows [3] of more, but it contains 40"),
        (set_attribute("source", '{"rows": [8, 40]}'), "says rows [8, 40] of more, but it contains 40"),
        (set_attribute("views", "[3]"), "attribute views is not a JSON object"),
    ],
)
def test_fault_is_reported(file, faults, change, message):
    with h5py.File(file, "r+") as content:
        change(content)
    reported = faults(file)
    assert any(message in fault for fault in reported), reported


def test_truncated_file_is_reported(file, faults):
    with open(file, "r+b") as content:
        content.truncate(9000)
    assert "damaged" in faults(file)[0]
    file.write_bytes(b"")
    assert "not an HDF5 file" in faults(file)[0]


def test_unsorted_errors_are_reported(file, faults):
    with h5py.File(file, "r+") as content:
        table = content["errors"][:]
        del content["errors"]
        content.create_dataset("errors", data=np.concatenate([table, table]))
    assert "not in ascending order" in faults(file)[0]


def test_collapsed_encoder_is_a_warning(record, tmp_path):
    rows = np.ones((20, 4), np.float32) + np.random.default_rng(0).normal(scale=1e-5, size=(20, 4)).astype(np.float32)
    names = [str(row) for row in range(20)]
    write_features(tmp_path / "f.h5", rows, np.full(20, -1), names, encoder={}, source={"class_names": None})
    metrics = record("verify", tmp_path / "f.h5")["metrics"]
    assert "collapsed" in metrics["warnings"][0]
    assert metrics["faults"] == []


def test_duplicated_id_is_a_warning(record, file):
    """A source may list an image twice; with --data, verify checks whether it does."""
    with h5py.File(file, "r+") as content:
        content["ids"][30] = b"ants/011.png"
    metrics = record("verify", file)["metrics"]
    assert metrics["faults"] == []
    assert "1 id duplicated: ants/011.png (rows 11 and 30)" in metrics["warnings"][0]


def test_ids_are_compared_in_several_passes(record, file, monkeypatch):
    monkeypatch.setattr(feature_checks, "_MAX_HASHES", 6)
    assert record("verify", file)["metrics"]["warnings"] == []
    with h5py.File(file, "r+") as content:
        content["ids"][:7] = content["ids"][20:27]
        content["ids"][8:20] = content["ids"][28:40]
    assert "At least 19 ids duplicated" in record("verify", file)["metrics"]["warnings"][0]


def test_wrong_checkpoint_and_wrong_images_are_reported(record, faults, small, file, checkpoint, photos, tmp_path):
    run = record("pretrain", *small, "--epochs", 1, "--seed", 5, "--out", tmp_path / "run")
    assert "another encoder" in faults(file, "--checkpoint", run["files"]["checkpoint"])[0]
    assert "has 600 rows, but the file has 40" in faults(file, "--data", "digits#test")[0]
    changed = shutil.copytree(photos, tmp_path / "changed")
    shutil.copy(changed / "ants" / "003.png", changed / "ants" / "004.png")
    (fault,) = faults(file, "--checkpoint", checkpoint, "--data", changed)
    assert "fingerprints differ" in fault
    with h5py.File(file, "r+") as content:
        content["labels"][5] = 1
    assert "Row 5 has the label 1" in faults(file, "--data", photos)[0]


def test_swapped_rows_are_reported(file, faults, checkpoint, photos):
    with h5py.File(file, "r+") as content:
        content["features"][:] = np.roll(content["features"][:], 1, axis=0)
        content["features"][7], content["features"][8] = 0, content["features"][7]
    reported = faults(file, "--checkpoint", checkpoint, "--data", photos, "--sample", 4)
    assert len(reported) == 4
    assert "differs from the recomputed one" in reported[0]


def test_unfinished_file_is_reported_with_its_progress(faults, call, tmp_path):
    class Rows:
        labels = np.zeros(10, np.int64)

        def __len__(self):
            return 10

        def ids_of(self, rows):
            return [str(row) for row in rows]

    attributes = {"encoder": {}, "preprocessing": {}, "source": {}, "precision": "float32"}
    with FeatureWriter(tmp_path / "f.h5", Rows(), {"features": (2,)}, "float32", attributes) as writer:
        writer.write(0, {"features": np.ones((4, 2), np.float32)}, {1: ("1", "torn")})
    for name in ("f.h5", "f.h5.part"):
        assert "unfinished (4 of 10 rows, 40.0 %, are written): rerun its command" in faults(tmp_path / name)[0]
    result = call("verify", tmp_path / "f.h5")
    assert result.exit_code == 1
    assert "1 unreadable so far" in result.stdout
    (tmp_path / "f.h5.part").write_bytes(b"x")
    assert "is being finished" in faults(tmp_path / "f.h5")[0]
    for name in ("none.h5", "none.h5.part"):
        result = call("verify", tmp_path / name)
        assert result.exit_code == 1
        assert "none.h5 does not exist" in result.stderr


def test_an_error_in_the_table_is_not_repeated(tmp_path):
    shown = CliRunner().invoke(main, ["verify", str(tmp_path)])
    assert shown.exit_code == 1 and shown.output.count("is a directory") == 1
