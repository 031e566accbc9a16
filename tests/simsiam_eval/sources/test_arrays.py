"""NumPy arrays of pixels and labels."""

import pickle

import h5py
import numpy as np
import pytest

from simsiam_eval.errors import DataError
from simsiam_eval.sources.opening import open_source

RNG = np.random.default_rng(0)
COLOR = RNG.integers(0, 256, (5, 6, 7, 3), dtype=np.uint8)
GRAY = RNG.integers(0, 256, (4, 6, 7), dtype=np.uint8)
LABELS = np.array([3, 1, 0, 2, 1])


@pytest.mark.parametrize(
    "names",
    [
        ("x_train", "y_train", "x_test", "y_test"),  # Keras
        ("train_images", "train_labels", "val_images", "val_labels"),  # MedMNIST
        ("X_Train", "Y_Train", "X_Valid", "Y_Valid"),
        ("kmnist-train-imgs", "kmnist-train-labels", "kmnist-test-imgs", "kmnist-test-labels"),
    ],
)
@pytest.mark.parametrize("stored", ["npz", "npy", "folder of npz"])
def test_names_of_splits(tmp_path, names, stored):
    arrays = dict(zip(names, (COLOR, LABELS[:, None], GRAY, LABELS[:4]), strict=True))
    path = tmp_path / "data"
    path.mkdir()
    if stored == "npz":
        path = path / "a.npz"
        np.savez_compressed(path, **arrays)
    for name, values in arrays.items() if stored != "npz" else ():
        np.save(path / f"{name}.npy", values) if stored == "npy" else np.savez(path / f"{name}.npz", values)
    with pytest.raises(DataError, match="several splits"):
        open_source(str(path))
    train, other = (
        open_source(str(path), "train"),
        open_source(f"arrays:{path}#{'val' if 'al' in names[2] else 'test'}"),
    )
    assert (train.labels.tolist(), train.class_names, train.id(4)) == ([3, 1, 0, 2, 1], None, f"{names[0]}/00000004")
    train = pickle.loads(pickle.dumps(train))
    for row in range(5):
        assert np.array_equal(train.image(row).pixels(), COLOR[row])
    assert np.array_equal(other.image(3).pixels(), np.repeat(GRAY[3][..., None], 3, axis=2))
    assert other.stored(0).pixels.shape == (6, 7)
    assert other.labels.tolist() == [3, 1, 0, 2]


def test_arrays_beside_those_of_known_splits_are_splits(tmp_path):
    np.savez(tmp_path / "a.npz", train2017_images=COLOR, train2017_labels=LABELS, extra_images=GRAY, mean=GRAY[0])
    with pytest.raises(DataError, match=r"several splits \(extra, train\)"):
        open_source(f"{tmp_path}/a.npz")
    assert open_source(f"{tmp_path}/a.npz#train").labels.tolist() == LABELS.tolist()
    assert len(open_source(f"{tmp_path}/a.npz#extra")) == 4


def test_arrays_without_splits_and_by_name(tmp_path):
    np.savez(
        tmp_path / "a.npz", data=COLOR.transpose(0, 3, 1, 2), labels=np.array(["b", "a", "", "b", "NA"]), other=GRAY
    )
    source = open_source(f"{tmp_path}/a.npz")
    assert (source.labels.tolist(), source.class_names) == ([1, 0, -1, 1, -1], ("a", "b"))
    assert np.array_equal(source.image(1).pixels(), COLOR[1])
    assert open_source(f"{tmp_path}/a.npz#label=none").labels.tolist() == [-1] * 5
    assert len(open_source(f"{tmp_path}/a.npz#images=other")) == 4
    np.savez(tmp_path / "b.npz", COLOR)
    assert len(open_source(f"{tmp_path}/b.npz")) == 5
    np.save(tmp_path / "c.npy", GRAY)
    assert np.array_equal(open_source(f"arrays:{tmp_path}/c.npy").image(1).pixels()[..., 0], GRAY[1])
    np.savez(tmp_path / "d.npz", images=COLOR, labels=np.array([1.0, np.nan, 0, 2, 1]))
    assert open_source(f"{tmp_path}/d.npz").labels.tolist() == [1, -1, 0, 2, 1]


@pytest.mark.parametrize(
    ("arrays", "tail", "message"),
    [
        (
            {"a": COLOR, "b": GRAY},
            "",
            r"No array of .* is named as images \(a, b\); name the images and labels",
        ),
        ({"a": COLOR, "b": GRAY}, "#images=c", "has no array 'c'; expected one of a, b"),
        ({"left_images": COLOR, "right_images": COLOR}, "", r"several arrays of images \(left_images, right_images\)"),
        ({"x": COLOR, "y": LABELS[:3]}, "", r"has shape \(3,\); expected one label for each of 5 images"),
        ({"x": COLOR, "y": np.eye(5)}, "", r"y of .* has shape \(5, 5\)"),
        ({"x": COLOR, "y": np.array([1, None, 2, 3, 4], dtype=object)}, "", "y of .* contains Python objects"),
        ({"x": COLOR[:0]}, "", "has no rows"),
        ({"x": LABELS}, "", r"x of .* has shape \(5,\)"),
        ({"x": np.array(["a.png"])}, "", "contains <U5"),
        ({"x": COLOR, "y": LABELS - 5}, "", "negative|label -"),
        ({"x_train": COLOR}, "#test", "has no split 'test'"),
    ],
)
def test_rejected_arrays(tmp_path, arrays, tail, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=message):
        open_source(f"{tmp_path}/a.npz{tail}")


def test_damaged_files_are_rejected(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"text")
    with pytest.raises(DataError, match=r"truncated or not an \.npz file"):
        open_source(f"{tmp_path}/a.npz")
    (tmp_path / "b.npy").write_bytes(b"\x93NUMPY text")
    with pytest.raises(DataError, match=r"b of .* is damaged"):
        open_source(f"arrays:{tmp_path}/b.npy")


def test_python_objects_in_an_npy_file_are_not_loaded(tmp_path):
    np.save(tmp_path / "a.npy", np.array([None, "x"], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="contains Python objects, which are not loaded"):
        open_source(f"arrays:{tmp_path}/a.npy")


@pytest.mark.parametrize("ending", ["npz", "h5"])
def test_an_array_names_the_splits(tmp_path, ending):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 7, 3), dtype=np.uint8)
    arrays = {"images": pixels, "labels": np.array([0, 1, 2, 1])}
    splits = ["train", "test", "train", "val"]
    path = tmp_path / f"a.{ending}"
    if ending == "npz":
        np.savez(path, **arrays, split=np.array(splits))
    else:
        with h5py.File(path, "w") as file:
            for name, values in {**arrays, "split": splits}.items():
                file[name] = values
    for spec, default, rows in (("#train", None, [0, 2]), ("", "test", [1]), ("#split=none", None, [0, 1, 2, 3])):
        source = open_source(f"{path}{spec}", default)
        assert source.ids_of(range(len(source))) == [f"images/{row:08d}" for row in rows]
        assert source.labels.tolist() == arrays["labels"][rows].tolist()
        assert all(np.array_equal(source.image(i).pixels(), pixels[row]) for i, row in enumerate(rows))
    with pytest.raises(DataError, match=r"several splits \(test, train, val\).*'split' names the splits"):
        open_source(path)
    fingerprints = {open_source(path, split).fingerprint() for split in ("train", "test")}
    assert len(fingerprints) == 2
