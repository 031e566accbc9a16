"""Parquet and NumPy exports hold the content of the feature file."""

import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from simsiam_eval.errors import DataError, UsageError
from simsiam_eval.features.reader import FeatureReader
from simsiam_eval.features.writer import FeatureWriter
from tasks.export.export import ExportSettings, export

ROOT = Path(__file__).parents[2]


class Rows:
    labels = np.array([0, 1, -1, 1, 0])

    def __len__(self):
        return 5

    def ids_of(self, rows):
        return ["a", "ü/b", "c\nd", "", "e" * 70][rows.start : rows.stop]


@pytest.fixture(params=["float32", "float16"])
def file(request, tmp_path, monkeypatch):
    """A feature file with a layer, views and an unreadable row, read in blocks of two rows."""
    rng = np.random.default_rng(0)
    columns = {"features": (3,), "layers/layer3": (2,), "views": (2, 3)}
    source = {"spec": "t", "fingerprint": "f", "class_names": ["ant", "bée"]}
    attributes = {"encoder": {"arch": "t"}, "preprocessing": {}, "source": source, "precision": "float32",
                  "views": {"count": 2, "seed": 0}}  # fmt: skip
    with FeatureWriter(tmp_path / "f.h5", Rows(), columns, request.param, attributes) as writer:
        values = {name: rng.normal(size=(5, *shape)).astype(np.float32) for name, shape in columns.items()}
        writer.write(0, values, {1: ("ü/b", "torn")})
        writer.finish()
    monkeypatch.setattr(FeatureReader, "block_rows", 2)
    return tmp_path / "f.h5"


def datasets_of(file):
    with h5py.File(file) as content:
        return {name: content[name][:] for name in ("features", "layers/layer3", "views", "labels", "valid")}


def test_parquet_has_the_content_of_the_feature_file(file, tmp_path):
    from pyarrow import parquet

    out = tmp_path / "a" / "b" / "f.parquet"  # missing folders are created
    result = export(ExportSettings(file=file, to="parquet", out=out))
    assert result.metrics["rows"] == 5
    parquet_file, expected = parquet.ParquetFile(out), datasets_of(file)
    assert parquet_file.metadata.num_row_groups == 3
    table = parquet_file.read()
    assert table.column_names == ["id", "label", "class_name", "valid", "error", "features", "layer3", "views"]
    assert table["id"].to_pylist() == Rows().ids_of(range(5))
    assert table["label"].to_pylist() == Rows.labels.tolist()
    assert table["class_name"].to_pylist() == ["ant", "bée", None, "bée", "ant"]
    assert table["valid"].to_pylist() == [True, False, True, True, True]
    assert table["error"].to_pylist() == [None, "torn", None, None, None]
    for column, name in (("features", "features"), ("layer3", "layers/layer3"), ("views", "views")):
        values = np.array(table[column].to_pylist(), dtype=expected[name].dtype)
        assert values.tobytes() == expected[name].tobytes()
    element = "halffloat" if expected["views"].itemsize == 2 else "float"
    assert str(table.schema.field("features").type) == f"fixed_size_list<element: {element}>[3]"
    assert json.loads(table.schema.metadata[b"source"])["class_names"] == ["ant", "bée"]


def test_npy_has_the_content_of_the_feature_file(file, tmp_path):
    out = tmp_path / "npy"
    export(ExportSettings(file=file, to="npy", out=out))
    for name, expected in datasets_of(file).items():
        values = np.load(out / f"{name}.npy")
        assert values.dtype == expected.dtype
        assert np.array_equal(values, expected)
    assert np.load(out / "ids.npy").tolist() == Rows().ids_of(range(5))
    assert json.loads((out / "errors.json").read_text()) == [[1, "ü/b", "torn"]]
    assert json.loads((out / "attributes.json").read_text())["views"] == {"count": 2, "seed": 0}
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize("to", ["parquet", "npy"])
def test_failed_export_leaves_no_file(file, tmp_path, monkeypatch, to):
    out = tmp_path / "out"
    out.write_text("existing")
    with pytest.raises(DataError, match="already exists"):
        export(ExportSettings(file=file, to=to, out=out))
    assert out.read_text() == "existing"
    out.unlink()
    with pytest.raises(DataError, match="does not exist"):
        export(ExportSettings(file=tmp_path / "none.h5", to=to, out=out))
    files = sorted(tmp_path.iterdir())
    block = FeatureReader.block

    def fail_at_the_last_block(self, rows):
        if rows.start == 4:
            raise OSError(28, "No space left on device")
        return block(self, rows)

    monkeypatch.setattr(FeatureReader, "block", fail_at_the_last_block)
    with pytest.raises(DataError, match="no space left"):
        export(ExportSettings(file=file, to=to, out=out))
    assert sorted(tmp_path.iterdir()) == files


def test_error_without_pyarrow_says_what_to_install(file, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match="pip install"):
        export(ExportSettings(file=file, to="parquet", out=tmp_path / "f.parquet"))


def test_folder_can_be_read_with_numpy_alone(file, tmp_path):
    export(ExportSettings(file=file, to="npy", out=tmp_path / "npy"))
    code = (
        "import sys, numpy as np\n"
        "features, labels = np.load('features.npy', mmap_mode='r'), np.load('labels.npy')\n"
        "sys.exit(features.shape != (5, 3) or 'h5py' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "npy").returncode == 0
