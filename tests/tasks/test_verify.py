"""Every fault that a feature file can have is found and named; a sound file has none."""

import json
import shutil

import h5py
import numpy as np
import pytest

from simsiam_eval.features import checks as feature_checks
from simsiam_eval.features.reader import FeatureReader
from simsiam_eval.features.writer import FeatureWriter, write_features


@pytest.fixture
def file(parts, tmp_path, monkeypatch):
    """A copy of a sound file, read in blocks of seven rows."""
    monkeypatch.setattr(FeatureReader, "block_rows", 7)
    return shutil.copy(parts / "whole.h5", tmp_path / "f.h5")


@pytest.fixture
def faults(call):
    """The faults of a file: in the record, on standard error, and in the exit status."""

    def found(*arguments):
        result = call("verify", *arguments, "--json")
        record = json.loads(result.stdout)
        listed = record["metrics"]["faults"]
        assert result.exit_code == (1 if listed else 0), result.output
        assert [line for line in result.stderr.splitlines() if line.startswith("Error: ")] == [
            f"Error: {fault}" for fault in listed
        ]
        return listed

    return found


def test_a_sound_file_and_its_origin(record, file, checkpoint, photos):
    made = record("verify", file, "--checkpoint", checkpoint, "--data", photos, "--sample", 8)["metrics"]
    assert made["faults"] == made["warnings"] == []
    with h5py.File(file) as content:
        lengths = np.linalg.norm(content["features"][:][content["valid"][:]].astype(np.float64), axis=1)
    norms = made["norms"]
    assert [norms["min"], norms["max"]] == pytest.approx([lengths.min(), lengths.max()])
    assert norms["median"] == pytest.approx(np.sort(lengths)[19], rel=1e-3)
    assert made["sample"]["least_cosine"] > made["sample"]["cosine_limit"]
    assert len(made["sample"]["rows"]) == 8
    assert 7 not in made["sample"]["rows"]


def test_the_rows_computed_again_are_those_of_the_files_own_settings(record, checkpoint, photos, tmp_path):
    options = [
        "--rows",
        "8:40",
        "--precision",
        "bf16",
        "--dtype",
        "float16",
        "--flip-average",
        "--normalize",
        "--crop",
        "10",
    ]
    options += ["--pool", "max", "--layer", "layer3", "--layer", "pool", "--workers", 0, "--views", 2, "--seed", 5]
    options += ["--fingerprint", "listing"]
    record("extract", "--checkpoint", checkpoint, "--data", photos, "--out", tmp_path / "f.h5", *options)
    made = record("verify", tmp_path / "f.h5", "--checkpoint", checkpoint, "--data", photos)["metrics"]
    assert made["faults"] == []
    assert len(made["sample"]["rows"]) == 32


def write(name, rows, value):
    def change(content):
        content[name][rows] = value

    return change


def replaced(name, **dataset):
    def change(content):
        del content[name]
        if dataset:
            content.create_dataset(name, **dataset)

    return change


def valid_byte(content):
    del content["valid"]
    content.create_dataset("valid", data=np.full(40, 2, np.uint8).view(np.bool_))


def attribute(name, value):
    return lambda content: content.attrs.__setitem__(name, value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (write("features", 11, np.nan), "1 rows of features are not finite; the first is row 11, ants/011.png"),
        (write("layers/layer2", slice(20, 23), np.inf), "3 rows of layers/layer2 are not finite; the first is row 20"),
        (write("features", slice(30, 32), 0), "2 rows of features are all zeros although valid; the first is row 30"),
        (write("features", 7, 1), "hold features although their image could not be read; the first is row 7"),
        (write("valid", 9, False), "1 rows are not valid and have no entry in `errors`; the first is row 9"),
        (write("valid", 7, True), "1 rows are in `errors` although valid; the first is row 7"),
        (valid_byte, "neither 0 nor 1"),
        (write("labels", 3, 2), "1 rows have a label below -1 or above 1; the first is row 3"),
        (write("labels", 3, -2), "label below -1"),
        (write("ids", 7, b"another"), "have another id in `errors`; the first is row 7"),
        (replaced("labels"), "The dataset labels is missing"),
        (replaced("errors"), "damaged"),
        (replaced("ids", data=np.arange(40)), "The dataset ids is (40,) int64, not (40,) UTF-8 text"),
        (replaced("valid", data=np.ones(39, bool)), "The dataset valid is (39,) bool"),
        (replaced("labels", data=np.zeros(40, np.int32)), "The dataset labels is (40,) int32"),
        (replaced("features", data=np.zeros((40, 2))), "The dataset features is (40, 2) float64"),
        (replaced("layers/layer2", data=np.zeros((3, 2), np.float32)), "The dataset layers/layer2 is (3, 2)"),
        (replaced("errors", data=np.zeros(1)), "The dataset errors is (1,) float64"),
        (lambda content: content.create_dataset("views", data=np.ones((40, 2, 3), np.float32)), "attribute views"),
        (attribute("complete", False), "is not complete"),
        (attribute("format", "other"), "not a feature file"),
        (attribute("format_version", 9), "format version 9"),
        (attribute("source", "[1]"), "attribute source is not a JSON object"),
        (attribute("encoder", "{"), "damaged"),
        (attribute("precision", "fp8"), "attribute precision is not one of float32, bf16"),
        (lambda content: content.attrs.__delitem__("precision"), "attribute precision is not one of"),
        (attribute("source", '{"rows": [3]}'), "says rows [3] of more, but it holds 40"),
        (attribute("source", '{"rows": [8, 40]}'), "says rows [8, 40] of more, but it holds 40"),
        (attribute("views", "[3]"), "attribute views is not a JSON object"),
    ],
)
def test_faults(file, faults, change, says):
    with h5py.File(file, "r+") as content:
        change(content)
    found = faults(file)
    assert any(says in fault for fault in found), found


def test_a_truncated_file(file, faults):
    with open(file, "r+b") as content:
        content.truncate(9000)
    assert "damaged" in faults(file)[0]
    file.write_bytes(b"")
    assert "not an HDF5 file" in faults(file)[0]


def test_errors_out_of_order(file, faults):
    with h5py.File(file, "r+") as content:
        table = content["errors"][:]
        del content["errors"]
        content.create_dataset("errors", data=np.concatenate([table, table]))
    assert "not ascending" in faults(file)[0]


def test_a_collapsed_encoder_is_a_warning(record, tmp_path):
    rows = np.ones((20, 4), np.float32) + np.random.default_rng(0).normal(scale=1e-5, size=(20, 4)).astype(np.float32)
    names = [str(row) for row in range(20)]
    write_features(tmp_path / "f.h5", rows, np.full(20, -1), names, encoder={}, source={"class_names": None})
    made = record("verify", tmp_path / "f.h5")["metrics"]
    assert "collapsed" in made["warnings"][0]
    assert made["faults"] == []


def test_a_duplicated_id_is_a_warning(record, file):
    """A list may name an image twice; the images themselves, with --data, say whether it did."""
    with h5py.File(file, "r+") as content:
        content["ids"][30] = b"ants/011.png"
    made = record("verify", file)["metrics"]
    assert made["faults"] == []
    assert "1 id duplicated: ants/011.png (rows 11 and 30)" in made["warnings"][0]


def test_ids_are_compared_in_passes(record, file, monkeypatch):
    monkeypatch.setattr(feature_checks, "_HASHES", 6)
    assert record("verify", file)["metrics"]["warnings"] == []
    with h5py.File(file, "r+") as content:
        content["ids"][:7] = content["ids"][20:27]
        content["ids"][8:20] = content["ids"][28:40]
    assert "At least 19 ids duplicated" in record("verify", file)["metrics"]["warnings"][0]


def test_another_encoder_and_other_images(record, faults, small, file, checkpoint, photos, tmp_path):
    made = record("pretrain", *small, "--epochs", 1, "--seed", 5, "--out", tmp_path / "run")
    other = made["files"]["checkpoint"]
    assert "another encoder" in faults(file, "--checkpoint", other)[0]
    assert "has 600 rows, but the file has 40" in faults(file, "--data", "digits#test")[0]
    changed = shutil.copytree(photos, tmp_path / "changed")
    shutil.copy(changed / "ants" / "003.png", changed / "ants" / "004.png")
    (found,) = faults(file, "--checkpoint", checkpoint, "--data", changed)
    assert "fingerprints differ" in found
    with h5py.File(file, "r+") as content:
        content["labels"][5] = 1
    assert "Row 5 has the label 1" in faults(file, "--data", photos)[0]


def test_swapped_rows_are_found(file, faults, checkpoint, photos):
    with h5py.File(file, "r+") as content:
        content["features"][:] = np.roll(content["features"][:], 1, axis=0)
        content["features"][7], content["features"][8] = 0, content["features"][7]
    found = faults(file, "--checkpoint", checkpoint, "--data", photos, "--sample", 4)
    assert len(found) == 4
    assert "differs from the recomputed one" in found[0]


def test_how_far_an_unfinished_one_is(faults, call, tmp_path):
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
    shown = call("verify", tmp_path / "f.h5")
    assert shown.exit_code == 1
    assert "1 unreadable so far" in shown.stdout
    (tmp_path / "f.h5.part").write_bytes(b"x")
    assert "is being finished" in faults(tmp_path / "f.h5")[0]
    for name in ("none.h5", "none.h5.part"):
        missing = call("verify", tmp_path / name)
        assert missing.exit_code == 1
        assert "There is no feature file" in missing.stderr
