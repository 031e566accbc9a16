"""Merged parts equal the file of a single run, byte for byte; incompatible parts are rejected."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from simsiam_eval.features.file import read_attributes
from simsiam_eval.features.reader import read_features
from simsiam_eval.features.writer import FeatureWriter

ROOT = Path(__file__).parents[2]
NAMES = ("0.h5", "12.h5", "28.h5")


@pytest.fixture
def copied(parts, tmp_path):
    for name in NAMES:
        shutil.copy(parts / name, tmp_path)
    return tmp_path


def content(path):
    with h5py.File(path) as file:
        names = ("features", "layers/layer2", "labels", "ids", "valid", "errors")
        return {name: file[name][:].tolist() for name in names}


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_merged_parts_equal_the_file_of_a_single_run(record, parts, tmp_path, order):
    result = record("merge", *(parts / NAMES[index] for index in order), "--out", tmp_path / "all.h5")
    assert result["metrics"] == {"rows": 40, "unreadable": 1, "whole": True, "first_row": 0, "parts": 3}
    assert (tmp_path / "all.h5").read_bytes() == (parts / "whole.h5").read_bytes()
    assert read_attributes(tmp_path / "all.h5")["source"] == read_attributes(parts / "whole.h5")["source"]


def test_some_parts_can_be_merged_into_a_larger_part(record, parts, tmp_path):
    record("merge", parts / "12.h5", parts / "28.h5", "--out", tmp_path / "end.h5")
    assert read_attributes(tmp_path / "end.h5")["source"]["rows"] == [12, 40]
    record("merge", parts / "0.h5", tmp_path / "end.h5", "--out", tmp_path / "all.h5")
    assert (tmp_path / "all.h5").read_bytes() == (parts / "whole.h5").read_bytes()


def test_virtual_file_is_read_like_a_merged_file(record, call, parts, copied, tmp_path):
    path = copied / "v.h5"
    record("merge", *(copied / name for name in NAMES), "--out", path, "--virtual")
    assert content(path) == content(parts / "whole.h5")
    virtual, whole = read_features(path), read_features(parts / "whole.h5")
    assert np.array_equal(virtual.features, whole.features)
    assert virtual.ids.tolist() == whole.ids.tolist()
    assert record("verify", path)["metrics"]["faults"] == []
    (tmp_path / "elsewhere").mkdir()
    other_parts = [shutil.copy(copied / name, tmp_path / "elsewhere") for name in NAMES]
    assert "refers to other parts" in call("merge", *other_parts, "--out", path, "--virtual").stderr
    assert "already exists as a virtual file" in call("merge", *(copied / name for name in NAMES), "--out", path).stderr
    knn_records = [record("knn", "--train", file, "--test", file, "-k", 3) for file in (path, parts / "whole.h5")]
    assert knn_records[0]["metrics"] == knn_records[1]["metrics"]
    moved = copied.rename(copied.with_name("moved"))
    assert content(moved / "v.h5") == content(parts / "whole.h5")
    (moved / "12.h5").unlink()  # HDF5 itself would read zeros
    assert "12.h5 is missing" in call("knn", "--train", moved / "v.h5", "--test", moved / "v.h5").stderr
    shutil.copy(moved / "0.h5", moved / "12.h5")
    with h5py.File(moved / "12.h5", "r+") as file:
        file.attrs["precision"] = "bf16"
    result = call("verify", moved / "v.h5", "--json")
    assert result.exit_code == 1
    assert "not the one it was merged from" in json.loads(result.stdout)["metrics"]["faults"][0]


def test_interrupted_merge_is_resumed(record, parts, tmp_path, monkeypatch):
    write, blocks = FeatureWriter.write, []

    def write_two_blocks(self, start, columns, reasons=None):
        if len(blocks) == 2:
            raise KeyboardInterrupt
        blocks.append(start)
        write(self, start, columns, reasons)

    monkeypatch.setattr(FeatureWriter, "write", write_two_blocks)
    from tasks.merge import MergeSettings, merge

    settings = MergeSettings(parts=tuple(parts / name for name in NAMES), out=tmp_path / "all.h5")
    with pytest.raises(KeyboardInterrupt):
        merge(settings)
    blocks[:] = [-1, -1, -1]  # so that writing is not interrupted again
    merge(settings)
    assert blocks == [-1, -1, -1, 28]
    assert (tmp_path / "all.h5").read_bytes() == (parts / "whole.h5").read_bytes()
    assert merge(settings).metrics["rows"] == 40
    assert (tmp_path / "all.h5").read_bytes() == (parts / "whole.h5").read_bytes()


def test_incompatible_parts_are_rejected(call, record, checkpoint, photos, parts, copied):
    def rejection(*arguments):
        result = call("merge", *arguments)
        assert result.exit_code == 1, result.output
        assert "Traceback" not in result.output
        assert not (copied / "all.h5").exists()
        return result.stderr

    out = ("--out", copied / "all.h5")
    first, second, third = (copied / name for name in NAMES)
    assert "rows 12 to 27 are missing" in rejection(first, third, *out)
    assert "row 0 is duplicated" in rejection(first, first, second, *out)
    assert "is not a part" in rejection(first, parts / "whole.h5", *out)
    assert "none.h5 does not exist" in rejection(first, copied / "none.h5", *out)
    other = copied / "other.h5"
    record("extract", "--checkpoint", checkpoint, "--data", photos, "--rows", "12:28", "--out", other, "--layer", "pool",
           "--layer", "layer2", "--precision", "bf16", "--workers", 0)  # fmt: skip
    assert "differ in precision" in rejection(first, other, *out)
    for attribute, key in (("encoder", "weights_sha256"), ("source", "fingerprint")):
        with h5py.File(second, "r+") as file:
            original = file.attrs[attribute]
            file.attrs[attribute] = json.dumps(json.loads(original) | {key: "another"})
        assert f"differ in {attribute}" in rejection(first, second, *out)
        with h5py.File(second, "r+") as file:
            file.attrs[attribute] = original
    with h5py.File(second, "r+") as file:
        file.attrs["complete"] = False
    assert "is incomplete" in rejection(first, second, *out)


def test_parts_with_different_source_paths_can_be_merged(record, parts, copied):
    with h5py.File(copied / "12.h5", "r+") as file:
        file.attrs["source"] = json.dumps(json.loads(file.attrs["source"]) | {"spec": "folder:elsewhere"})
    record("merge", *(copied / name for name in NAMES), "--out", copied / "all.h5")
    assert (copied / "all.h5").read_bytes() == (parts / "whole.h5").read_bytes()


def test_virtual_file_rejects_a_part_with_other_rows(record, call, copied):
    record("merge", *(copied / name for name in NAMES), "--out", copied / "v.h5", "--virtual")
    shutil.copy(copied / "0.h5", copied / "12.h5")
    assert "not the one it was merged from" in " ".join(call("verify", copied / "v.h5").output.split())


def test_file_with_other_content_is_not_overwritten(call, parts, copied):
    shutil.copy(parts / "whole.h5", copied / "all.h5")
    result = call("merge", copied / "0.h5", copied / "12.h5", "--out", copied / "all.h5")
    assert result.exit_code == 1
    assert "already exists" in result.stderr
    assert (copied / "all.h5").read_bytes() == (parts / "whole.h5").read_bytes()


@pytest.mark.parametrize("name", ["50%", "a%%x", "d%20x", "%b"])
def test_virtual_file_of_parts_with_a_percent_sign_in_their_path(record, call, parts, copied, tmp_path, name):
    """HDF5 replaces %b in the names of source files by the number of a block, and %% by a percent sign."""
    folder = tmp_path / name
    folder.mkdir()
    moved = [(copied / part).rename(folder / f"{name}-{part}") for part in NAMES]
    record("merge", *moved, "--out", tmp_path / "v.h5", "--virtual")
    record("merge", *moved, "--out", tmp_path / "w.h5")
    virtual, whole = read_features(tmp_path / "v.h5"), read_features(tmp_path / "w.h5")
    np.testing.assert_array_equal(virtual.features, whole.features)
    assert virtual.ids.tolist() == whole.ids.tolist()
    moved[0].unlink()
    result = call("verify", tmp_path / "v.h5")
    assert result.exit_code == 1 and f"{moved[0].name} is missing" in " ".join(result.output.split())


def test_single_part_may_be_the_whole_source(record, parts, tmp_path):
    """As from a script that extracts in parts, if the source is smaller than a part."""
    assert record("merge", parts / "whole.h5", "--out", tmp_path / "all.h5")["metrics"]["whole"]
    assert (tmp_path / "all.h5").read_bytes() == (parts / "whole.h5").read_bytes()


def test_virtual_file_with_too_many_parts_to_open_is_an_error(record, copied):
    """HDF5 would read zeros from a part for which no file descriptor is left."""
    record("merge", *(copied / name for name in NAMES), "--out", copied / "v.h5", "--virtual")
    record("merge", *(copied / name for name in NAMES), "--out", copied / "w.h5", "--virtual")
    code = (
        "import sys, resource, torch, simsiam_eval.features.file as module\n"
        "from simsiam_eval.features.reader import FeatureReader\n"
        "module._OTHER_FILES = 40\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (42, 4096))\n"
        "readers = [FeatureReader(module.Path(name)) for name in sys.argv[1:]]\n"
        "assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 40 + 3 + 3\n"
    )
    run = subprocess.run([sys.executable, "-c", code, copied / "v.h5", copied / "w.h5"], cwd=ROOT, text=True)
    assert run.returncode == 0
    for limit, status in (((8, 4096), 0), ((8, 100), 1)):
        set_limit = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, {limit})"
        run = subprocess.run(
            [sys.executable, "-c", f"import cli, h5py, numpy, torch\n{set_limit}\ncli.main()", "verify", copied / "v.h5"],
            cwd=ROOT, capture_output=True, text=True,
        )  # fmt: skip
        assert run.returncode == status, run.stderr
        assert ("3 parts, which must all be open at once" in " ".join(run.stdout.split())) == (status == 1)
