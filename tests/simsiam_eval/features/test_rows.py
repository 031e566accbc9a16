import h5py
import numpy as np
import pytest

from simsiam_eval.errors import DataError
from simsiam_eval.features.reader import open_features, read_features
from simsiam_eval.features.rows import FeatureRows
from simsiam_eval.features.writer import write_features

ROWS = np.arange(24, dtype=np.float32).reshape(8, 3)


def write(path, features=ROWS, **source):
    source = {"spec": "test", "fingerprint": "f", "class_names": None} | source
    labels, ids = np.arange(len(features)), [f"é{row}" for row in range(len(features))]
    write_features(path, features, labels, ids, encoder={"arch": "test"}, source=source)
    return path


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_feature_rows_are_the_readable_rows_of_the_file(tmp_path, dtype):
    features = ROWS.astype(dtype)
    features[2] = np.nan
    path = write(tmp_path / "f.h5", features)
    lazy, in_memory = open_features(path), read_features(path)
    assert isinstance(lazy.features, FeatureRows)
    assert lazy.features.shape == (7, 3)
    for rows in (slice(None), slice(1, 4), slice(5, 99), np.array([6, 0, 0, 3])):
        np.testing.assert_array_equal(lazy.features[rows], in_memory.features[rows])
        assert lazy.features[rows].dtype == np.float32
    assert (lazy.ids.tolist(), lazy.unreadable) == (in_memory.ids.tolist(), 1)
    np.testing.assert_array_equal(lazy.labels, in_memory.labels)
    taken = lazy.features.take(np.array([5, 1])).take(np.array([1]))
    np.testing.assert_array_equal(np.asarray(taken), in_memory.features[[1]])


def test_chunked_and_compressed_datasets_can_be_read(tmp_path):
    path = write(tmp_path / "f.h5")
    with h5py.File(path, "r+") as file:
        del file["features"]
        file.create_dataset("features", data=ROWS, chunks=(2, 3), compression="gzip")
    rows = open_features(path).features
    np.testing.assert_array_equal(rows[:], ROWS)
    np.testing.assert_array_equal(rows[np.array([5, 1, 5])], ROWS[[5, 1, 5]])


def test_error_for_a_value_that_is_not_finite_names_the_row(tmp_path):
    path = write(tmp_path / "f.h5")
    with h5py.File(path, "r+") as file:
        file["features"][5, 1] = np.inf
    rows = open_features(path).features
    np.testing.assert_array_equal(rows[:5], ROWS[:5])
    with pytest.raises(DataError, match=r"f\.h5 .* \(row 5\)"):
        rows[4:]
    with pytest.raises(DataError, match=r"\(row 5\)"):
        rows[np.array([7, 5])]


def test_missing_column_is_reported(tmp_path):
    with pytest.raises(DataError, match="views"):
        FeatureRows(write(tmp_path / "f.h5"), "views")
