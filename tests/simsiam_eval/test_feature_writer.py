"""The feature file as it is written: what any HDF5 reader finds in it, and that no kill costs a row."""

import h5py
import numpy as np
import pytest

from simsiam_eval.errors import DataError
from simsiam_eval.feature_file import read_attributes, read_features
from simsiam_eval.feature_writer import FeatureWriter, write_features

ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)
IDS, LABELS = ["a", "ü/b", "c", "d"], np.array([0, 1, -1, 1])
ATTRIBUTES = {
    "encoder": {"arch": "test"},
    "preprocessing": {},
    "source": {"spec": "test", "fingerprint": "f", "class_names": ["x" * 40_000, "y" * 40_000]},
    "views": None,
    "precision": "float32",
}


class Four:
    """Four named and labelled rows."""

    labels = LABELS

    def __len__(self):
        return 4

    def ids_of(self, rows):
        return IDS[rows.start : rows.stop]


def writer(path, dtype="float32", columns=None, number=0, **changed):
    return FeatureWriter(path, Four(), columns or {"features": (3,)}, dtype, ATTRIBUTES | changed, number)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_round_trip(tmp_path, dtype):
    path = tmp_path / "f.h5"
    with writer(path, dtype) as file:
        file.write(0, {"features": ROWS}, {2: ("c", "torn")})
        assert file.finish() == 1
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
        file.write(0, {"features": ROWS[:2]})
    with pytest.raises(DataError, match="unfinished"):
        read_features(path)
    with pytest.raises(DataError, match="another extraction"):
        writer(path, encoder={"arch": "other"})
    with writer(path) as file:
        assert [file.is_written(range(row, row + 1)) for row in range(4)] == [True, True, False, False]
        file.write(2, {"features": ROWS[2:]})
        file.finish()
    assert np.array_equal(read_features(path).features, ROWS)


def test_a_kill_while_the_metadata_changes_is_rolled_back(tmp_path, monkeypatch):
    path = tmp_path / "f.h5"
    file = writer(path)
    file.write(0, {"features": ROWS})

    def killed(*arguments, **options):
        with open(tmp_path / "f.h5.part", "r+b") as part:
            part.write(b"garbage" * 20)
            part.seek(0, 2)
            part.write(b"more")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(h5py, "File", killed)
        with pytest.raises(KeyboardInterrupt):
            file.finish()
    file.close()
    with writer(path) as again:
        assert again.is_written(range(4))
        again.finish()
    assert np.array_equal(read_features(path).features, ROWS)
    assert [one.name for one in tmp_path.iterdir()] == ["f.h5"]


def test_two_writers_of_one_file(tmp_path):
    with writer(tmp_path / "f.h5"), pytest.raises(DataError, match="Another process"):
        writer(tmp_path / "f.h5")


def test_a_value_too_large_for_float16(tmp_path):
    with writer(tmp_path / "f.h5", "float16") as file, pytest.raises(DataError, match="float32"):
        file.write(0, {"features": ROWS * 1e6})


def test_further_layers_and_views_lie_beside_the_features(tmp_path):
    path, columns = tmp_path / "f.h5", {"features": (3,), "layers/layer3": (2,), "views": (2, 3)}
    layer, views = np.ones((4, 2), np.float32), np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    with writer(path, columns=columns) as file:
        file.write(0, {"features": ROWS, "layers/layer3": layer, "views": views}, {1: ("ü/b", "torn")})
        file.finish()
    with h5py.File(path) as file:
        assert np.array_equal(file["layers/layer3"][:], layer * [[1], [0], [1], [1]])
        assert np.array_equal(file["views"][2], views[2])
        assert not file["views"][1].any()
    assert read_attributes(path)["columns"] == columns
    with writer(tmp_path / "g.h5", columns=columns):
        pass
    with pytest.raises(DataError, match="another extraction"):
        writer(tmp_path / "g.h5")


def test_several_processes_write_one_file(tmp_path):
    path = tmp_path / "f.h5"
    with writer(path) as first, writer(path, number=1) as second:
        first.write(0, {"features": ROWS[:2]}, {0: ("a", "torn")})
        second.write(2, {"features": ROWS[2:]}, {3: ("d", "empty")})
        second.sync()
        assert first.finish() == 2
    with h5py.File(path) as file:
        assert [tuple(one) for one in file["errors"]] == [(0, b"a", b"torn"), (3, b"d", b"empty")]
        assert file["valid"][:].tolist() == [False, True, True, False]
    assert [one.name for one in tmp_path.iterdir()] == ["f.h5"]


def test_a_reason_that_a_kill_tore_costs_no_other(tmp_path):
    path = tmp_path / "f.h5"
    with writer(path) as file:
        file.write(0, {"features": ROWS[:1]}, {0: ("a", "torn")})
    with open(tmp_path / "f.h5.part.errors.0", "a") as reasons:
        reasons.write('\n[1, "ü/')
    with writer(path) as file:
        file.write(1, {"features": ROWS[1:]}, {1: ("ü/b", "no such file")})
        assert file.finish() == 2
    with h5py.File(path) as file:
        assert file["errors"][1]["reason"] == b"no such file"


def test_rows_that_were_not_written_are_not_passed_off_as_complete(tmp_path):
    with writer(tmp_path / "f.h5") as file:
        file.write(0, {"features": ROWS[:3]})
        with pytest.raises(DataError, match="1 rows"):
            file.finish()
    assert not (tmp_path / "f.h5").exists()


def test_shapes_that_do_not_fit(tmp_path):
    for features, labels, ids in ((ROWS[0], LABELS, IDS), (ROWS, LABELS[:3], IDS), (ROWS.astype(int), LABELS, IDS)):
        with pytest.raises(ValueError, match="wanted"):
            write_features(tmp_path / "f.h5", features, labels, ids, encoder={}, source={})
