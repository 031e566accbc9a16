"""Damaged feature files and other files are rejected with a reason."""

import h5py
import numpy as np
import pytest

from simsiam_eval.errors import DataError
from simsiam_eval.features.file import read_attributes
from simsiam_eval.features.reader import read_features
from simsiam_eval.features.writer import write_features

ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)
IDS, LABELS = ["a", "ü/b", "c", "d"], np.array([0, 1, -1, 1])


def test_invalid_files_are_rejected(tmp_path):
    path = tmp_path / "f.h5"
    with pytest.raises(DataError, match="does not exist"):
        read_attributes(path)
    path.write_bytes(b"text")
    with pytest.raises(DataError, match="not an HDF5"):
        read_attributes(path)
    path.unlink()
    with h5py.File(path, "w"):
        pass
    with pytest.raises(DataError, match="not a feature file"):
        read_attributes(path)
    with pytest.raises(DataError, match="already exists"):
        write_features(path, ROWS, LABELS, IDS, encoder={}, source={})
    path.unlink()
    write_features(path, ROWS, LABELS, IDS, encoder={}, source={})
    with h5py.File(path, "r+") as file:
        file["features"][1, 1] = np.nan
    with pytest.raises(DataError, match="not finite"):
        read_features(path)
    with h5py.File(path, "r+") as file:
        file.attrs["format_version"] = 99
    with pytest.raises(DataError, match="99"):
        read_attributes(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [("precision", None), ("precision", [1.0, 2.0]), ("source", "null"), ("encoder", '"resnet"'), ("views", "[3]"),
     ("source", '{"class_names": ["a", 1]}'), ("source", '{"class_names": "a"}'),
     ("source", '{"rows": null}'), ("source", '{"rows": "0:3"}'), ("source", '{"rows": [5, 8], "rows_of": 6}')],
)  # fmt: skip
def test_damaged_attribute_is_reported(call, tmp_path, name, value):
    path = tmp_path / "f.h5"
    rows = np.eye(3, dtype=np.float32)
    write_features(path, rows, np.arange(3), ["a", "b", "c"], encoder={}, source={"class_names": None})
    with h5py.File(path, "r+") as file:
        del file.attrs[name]
        if value is not None:
            file.attrs[name] = value
    with pytest.raises(DataError, match="is damaged"):
        read_features(path)
    for command in (["knn", "--train", path, "--test", path], ["merge", path, "--out", tmp_path / "o.h5"],
                    ["export", path, "--to", "npy", "--out", tmp_path / "o"], ["verify", path]):  # fmt: skip
        result = call(*command)
        assert result.exit_code == 1
        assert "is damaged" in result.output


@pytest.mark.parametrize("name", ["complete", "source", "features", "labels", "ids", "valid", "errors"])
def test_empty_attributes_and_datasets_are_damage(tmp_path, name):
    path = tmp_path / "f.h5"
    write_features(path, ROWS, LABELS, IDS, encoder={}, source={})
    with h5py.File(path, "r+") as file:
        entries = file.attrs if name in file.attrs else file
        del entries[name]
        entries[name] = h5py.Empty("f4")
    with pytest.raises(DataError, match="is damaged"):
        read_features(path)


def test_rows_that_were_never_written_are_damage(tmp_path):
    """HDF5 reads them as zeros."""
    path = tmp_path / "f.h5"
    write_features(path, ROWS, LABELS, IDS, encoder={}, source={})
    for name, layout in (("features", {"chunks": (2, 3)}), ("labels", {})):
        with h5py.File(path, "r+") as file:
            dtype, shape = file[name].dtype, file[name].shape
            del file[name]
            file.create_dataset(name, shape, dtype, **layout)
        with pytest.raises(DataError, match=rf"f.h5: {name} is incomplete: 4 rows of 4 are not stored"):
            read_features(path)
        with h5py.File(path, "r+") as file:
            file[name][:] = 1


def test_label_without_a_class_name_is_reported(call, tmp_path):
    path = tmp_path / "f.h5"
    rows = np.eye(3, dtype=np.float32)
    write_features(path, rows, np.arange(3), ["a", "b", "c"], encoder={}, source={"class_names": ["cat", "dog"]})
    with pytest.raises(DataError, match="row 2 has the label 2, but there are only 2 class names"):
        read_features(path)
    for command in ("linear-eval", "knn"):
        result = call(command, "--train", path, "--test", path)
        assert result.exit_code == 1 and "row 2 has the label 2" in result.stderr
