"""The feature file: what any HDF5 reader finds in it, and that no kill costs a row."""

import h5py
import numpy as np
import pytest

from simsiam_eval.errors import DataError
from simsiam_eval.feature_file import FeatureWriter, read_attributes, read_features, write_features

ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)
IDS, LABELS = ["a", "ü/b", "c", "d"], np.array([0, 1, -1, 1])
ATTRIBUTES = {
    "encoder": {"arch": "test"},
    "preprocessing": {},
    "source": {"spec": "test", "fingerprint": "f", "class_names": ["x" * 40_000, "y" * 40_000]},
    "precision": "float32",
}


def writer(path, dtype="float32", **changed):
    return FeatureWriter(path, IDS, LABELS, 3, dtype, ATTRIBUTES | changed)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_round_trip(tmp_path, dtype):
    path = tmp_path / "f.h5"
    with writer(path, dtype) as file:
        file.write(0, ROWS, np.array([True, True, False, True]))
        file.finish([(2, "c", "torn")])
    found = read_features(path)
    assert np.array_equal(found.features, ROWS[[0, 1, 3]])
    assert (found.ids.tolist(), found.labels.tolist(), found.unreadable) == (["a", "ü/b", "d"], [0, 1, 1], 1)
    assert len(found.class_names[1]) == 40_000
    with h5py.File(path) as file:
        assert file["features"].dtype == dtype
        assert file["features"][2].tolist() == [0, 0, 0]
        assert tuple(file["errors"][0]) == (2, b"c", b"torn")
    assert [one.name for one in tmp_path.iterdir()] == ["f.h5"]


def test_goes_on_where_it_was(tmp_path):
    path = tmp_path / "f.h5"
    with writer(path) as file:
        file.write(0, ROWS[:2], np.array([True, True]))
    with pytest.raises(DataError, match="unfinished"):
        read_features(path)
    with pytest.raises(DataError, match="another extraction"):
        writer(path, encoder={"arch": "other"})
    with writer(path) as file:
        assert file.valid.tolist() == [True, True, False, False]
        file.write(2, ROWS[2:], np.array([True, True]))
        file.finish([])
    assert np.array_equal(read_features(path).features, ROWS)


def test_a_kill_while_the_metadata_changes_is_rolled_back(tmp_path, monkeypatch):
    path = tmp_path / "f.h5"
    file = writer(path)
    file.write(0, ROWS, np.ones(4, dtype=bool))

    def killed(*arguments, **options):
        with open(tmp_path / "f.h5.part", "r+b") as part:
            part.write(b"garbage" * 20)
            part.seek(0, 2)
            part.write(b"more")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(h5py, "File", killed)
        with pytest.raises(KeyboardInterrupt):
            file.finish([])
    file.close()
    with writer(path) as again:
        assert again.valid.all()
        again.finish([])
    assert np.array_equal(read_features(path).features, ROWS)
    assert [one.name for one in tmp_path.iterdir()] == ["f.h5"]


def test_two_writers_of_one_file(tmp_path):
    with writer(tmp_path / "f.h5"), pytest.raises(DataError, match="Another process"):
        writer(tmp_path / "f.h5")


def test_a_value_too_large_for_float16(tmp_path):
    with writer(tmp_path / "f.h5", "float16") as file, pytest.raises(DataError, match="float32"):
        file.write(0, ROWS * 1e6, np.ones(4, dtype=bool))


def test_files_that_are_refused(tmp_path):
    path = tmp_path / "f.h5"
    with pytest.raises(DataError, match="no feature file"):
        read_attributes(path)
    path.write_bytes(b"text")
    with pytest.raises(DataError, match="not an HDF5"):
        read_attributes(path)
    path.unlink()
    with h5py.File(path, "w"):
        pass
    with pytest.raises(DataError, match="not a feature file"):
        read_attributes(path)
    with pytest.raises(DataError, match="there already"):
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
