"""What is read back from Parquet and NumPy files is what is in the feature file."""

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
from tasks.export import ExportSettings, export

ROOT = Path(__file__).parents[2]


class Rows:
    labels = np.array([0, 1, -1, 1, 0])

    def __len__(self):
        return 5

    def ids_of(self, rows):
        return ["a", "ü/b", "c\nd", "", "e" * 70][rows.start : rows.stop]


@pytest.fixture(params=["float32", "float16"])
def file(request, tmp_path, monkeypatch):
    """All that a feature file can hold: a layer, views, an unreadable row; read in blocks of two rows."""
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


def stored(file):
    with h5py.File(file) as content:
        return {name: content[name][:] for name in ("features", "layers/layer3", "views", "labels", "valid")}


def test_parquet(file, tmp_path):
    from pyarrow import parquet

    out = tmp_path / "a" / "b" / "f.parquet"  # missing folders are made
    made = export(ExportSettings(file=file, to="parquet", out=out))
    assert made.metrics["rows"] == 5
    found, expected = parquet.ParquetFile(out), stored(file)
    assert found.metadata.num_row_groups == 3
    table = found.read()
    assert table.column_names == ["id", "label", "class_name", "valid", "error", "features", "layer3", "views"]
    assert table["id"].to_pylist() == Rows().ids_of(range(5))
    assert table["label"].to_pylist() == Rows.labels.tolist()
    assert table["class_name"].to_pylist() == ["ant", "bée", None, "bée", "ant"]
    assert table["valid"].to_pylist() == [True, False, True, True, True]
    assert table["error"].to_pylist() == [None, "torn", None, None, None]
    for column, name in (("features", "features"), ("layer3", "layers/layer3"), ("views", "views")):
        read = np.array(table[column].to_pylist(), dtype=expected[name].dtype)
        assert read.tobytes() == expected[name].tobytes()
    assert str(table.schema.field("features").type) == f"fixed_size_list<element: {'halffloat' if expected['views'].itemsize == 2 else 'float'}>[3]"  # noqa: E501  # fmt: skip
    assert json.loads(table.schema.metadata[b"source"])["class_names"] == ["ant", "bée"]


def test_npy(file, tmp_path):
    out = tmp_path / "npy"
    export(ExportSettings(file=file, to="npy", out=out))
    for name, values in stored(file).items():
        read = np.load(out / f"{name}.npy")
        assert read.dtype == values.dtype
        assert np.array_equal(read, values)
    assert np.load(out / "ids.npy").tolist() == Rows().ids_of(range(5))
    assert json.loads((out / "errors.json").read_text()) == [[1, "ü/b", "torn"]]
    assert json.loads((out / "attributes.json").read_text())["views"] == {"count": 2, "seed": 0}
    assert not [one for one in tmp_path.iterdir() if one.name.endswith(".tmp")]


@pytest.mark.parametrize("to", ["parquet", "npy"])
def test_rejected_and_nothing_is_left(file, tmp_path, monkeypatch, to):
    out = tmp_path / "out"
    out.write_text("mine")
    with pytest.raises(DataError, match="already exists"):
        export(ExportSettings(file=file, to=to, out=out))
    assert out.read_text() == "mine"
    out.unlink()
    with pytest.raises(DataError, match="no feature file"):
        export(ExportSettings(file=tmp_path / "none.h5", to=to, out=out))
    before = sorted(tmp_path.iterdir())
    real = FeatureReader.block

    def full_disk(self, rows):
        if rows.start == 4:
            raise OSError(28, "No space left on device")
        return real(self, rows)

    monkeypatch.setattr(FeatureReader, "block", full_disk)
    with pytest.raises(DataError, match="no space left"):
        export(ExportSettings(file=file, to=to, out=out))
    assert sorted(tmp_path.iterdir()) == before


def test_parquet_without_pyarrow_says_what_to_install(file, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match="pip install"):
        export(ExportSettings(file=file, to="parquet", out=tmp_path / "f.parquet"))


def test_numpy_alone_reads_the_folder(file, tmp_path):
    export(ExportSettings(file=file, to="npy", out=tmp_path / "npy"))
    code = (
        "import sys, numpy as np\n"
        "features, labels = np.load('features.npy', mmap_mode='r'), np.load('labels.npy')\n"
        "sys.exit(features.shape != (5, 3) or 'h5py' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "npy").returncode == 0
