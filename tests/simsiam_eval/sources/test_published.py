"""MNIST and its kin, STL-10 and SVHN in the files that their authors publish."""

import gzip
import tarfile

import numpy as np
import pytest
from scipy.io import savemat

from simsiam_eval.errors import DataError, UsageError
from simsiam_eval.sources.opening import open_source

RNG = np.random.default_rng(0)
DIGITS = RNG.integers(0, 256, (6, 8, 7), dtype=np.uint8)
LABELS = np.array([7, 2, 1, 0, 4, 9], dtype=np.uint8)


def idx(values):
    return bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes() + values.tobytes()


def write_idx(folder, prefix="", test="t10k", compressed=False, dot="-"):
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in (("train", slice(0, 4)), (test, slice(4, 6))):
        for name, values in ((f"images{dot}idx3", DIGITS[rows]), (f"labels{dot}idx1", LABELS[rows])):
            path = folder / f"{prefix}{split}-{name}-ubyte{'.gz' if compressed else ''}"
            path.write_bytes(gzip.compress(idx(values)) if compressed else idx(values))
    return folder


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(("dot", "place"), [("-", ""), (".", ""), ("-", "raw"), ("-", "MNIST/raw")])
def test_mnist(tmp_path, compressed, dot, place):
    write_idx(tmp_path / place, compressed=compressed, dot=dot)
    train, test = open_source(str(tmp_path), "train"), open_source(f"idx:{tmp_path}#test")
    assert (train.labels.tolist(), test.labels.tolist(), train.class_names) == ([7, 2, 1, 0], [4, 9], None)
    assert (train.id(3), test.id(0)) == ("train-images/00000003", "t10k-images/00000000")
    assert np.array_equal(test.image(1).pixels(), np.repeat(DIGITS[5][..., None], 3, axis=2))
    with pytest.raises(DataError, match=r"several splits \(test, train\)"):
        open_source(str(tmp_path))
    file = next((tmp_path / place).glob("t10k-images*"))
    assert open_source(str(file)).labels.tolist() == [4, 9]


def test_several_idx_data_sets(tmp_path):
    write_idx(tmp_path, "emnist-letters-", "test")
    write_idx(tmp_path, "emnist-digits-", "test", compressed=True)
    assert len(open_source(f"{tmp_path}#name=letters,split=train")) == 4
    with pytest.raises(DataError, match=r"several data sets \(emnist-digits, emnist-letters\); choose one with #name="):
        open_source(f"{tmp_path}#train")
    with pytest.raises(DataError, match="no data sets mnist"):
        open_source(f"{tmp_path}#name=mnist,split=train")
    for name in ("MNIST", "KMNIST"):
        write_idx(tmp_path / "root" / name / "raw")
    with pytest.raises(DataError, match=r"several data sets \(KMNIST, MNIST\); add one to the path"):
        open_source(f"{tmp_path}/root#train")
    assert len(open_source(f"{tmp_path}/root/KMNIST#train")) == 4


@pytest.mark.parametrize("content", [b"", b"\0\0\x08", idx(DIGITS)[:-1], idx(DIGITS) + b"x", b"text" * 9])
def test_damaged_idx_files(tmp_path, content):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(DataError, match="damaged"):
        open_source(str(tmp_path))
    (tmp_path / "train-images-idx3-ubyte").rename(tmp_path / "train-images-idx3-ubyte.gz")
    with pytest.raises(DataError, match="is damaged"):
        open_source(str(tmp_path))


STL = RNG.integers(0, 256, (4, 3, 96, 96), dtype=np.uint8)


@pytest.fixture
def stl10(tmp_path):
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    for split, rows in (("train", slice(0, 3)), ("test", slice(3, 4)), ("unlabeled", slice(0, 2))):
        (folder / f"{split}_X.bin").write_bytes(STL[rows].tobytes())
        if split != "unlabeled":
            (folder / f"{split}_y.bin").write_bytes(np.array([10, 1, 3, 2], np.uint8)[rows].tobytes())
    (folder / "class_names.txt").write_text("\n".join(f"class{number}" for number in range(10)))
    (folder / "fold_indices.txt").write_text("0 2 \n1 \n")
    return folder


def test_stl10(stl10, tmp_path):
    with tarfile.open(tmp_path / "stl10_binary.tar.gz", "w:gz") as archive:
        archive.add(stl10, "stl10_binary")
    for place in (stl10, tmp_path, tmp_path / "stl10_binary.tar.gz"):
        source = open_source(str(place), "train")
        assert source.labels.tolist() == [9, 0, 2]
        assert (source.class_names[9], source.id(2)) == ("class9", "train/00000002")
        assert np.array_equal(source.image(1).pixels(), STL[1].transpose(2, 1, 0))
        assert open_source(f"stl10:{place}#test").labels.tolist() == [1]
        assert open_source(f"stl10:{place}#unlabeled").labels.tolist() == [-1, -1]
        assert open_source(f"{place}#train,fold=0").labels.tolist() == [9, 2]
    with pytest.raises(DataError, match=r"several splits \(test, train, unlabeled\)"):
        open_source(str(stl10))
    with pytest.raises(DataError, match="there is no fold 2"):
        open_source(f"{stl10}#train,fold=2")
    with pytest.raises(UsageError, match="one of the predefined folds of the training set"):
        open_source(f"{stl10}#test,fold=0")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train_X.bin", b"x" * 100, "train_X.bin of .* is truncated: 100 bytes"),
        ("train_X.bin", b"", "train_X.bin of .* is truncated: 0 bytes"),
        ("train_y.bin", b"\x01\x02", "expected one label for each of 3 images"),
        ("train_y.bin", b"\x00\x02\x03", "its labels are 0 to 3; expected 1 to 10"),
        ("train_y.bin", None, "has no train_y.bin"),
    ],
)
def test_damaged_stl10(stl10, name, content, message):
    (stl10 / name).unlink() if content is None else (stl10 / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_source(f"{stl10}#train")


def test_svhn(tmp_path):
    pixels = RNG.integers(0, 256, (32, 32, 3, 4), dtype=np.uint8)
    savemat(tmp_path / "train_32x32.mat", {"X": pixels, "y": np.array([[10], [1], [9], [10]], np.uint8)})
    savemat(tmp_path / "extra_32x32.mat", {"X": pixels[..., :1], "y": np.array([[5]], np.uint8)})
    for source in (open_source(str(tmp_path), "train"), open_source(f"{tmp_path}/train_32x32.mat")):
        assert (source.labels.tolist(), source.class_names, source.id(3)) == ([0, 1, 9, 0], None, "train/00000003")
        assert np.array_equal(source.image(2).pixels(), pixels[..., 2])
    assert open_source(f"svhn:{tmp_path}#extra").labels.tolist() == [5]
    with pytest.raises(DataError, match="has no split 'test'"):
        open_source(f"{tmp_path}#test")
    for content, message in ((b"text", "damaged or not SVHN's format 2"), (None, "X and y")):
        if content:
            (tmp_path / "train_32x32.mat").write_bytes(content)
        else:
            savemat(tmp_path / "train_32x32.mat", {"digitStruct": np.zeros(3)})
        with pytest.raises(DataError, match=message):
            open_source(f"{tmp_path}#train")


def test_several_published_data_sets_in_one_folder(stl10, tmp_path):
    write_idx(tmp_path / "MNIST" / "raw")
    with pytest.raises(DataError, match=rf"has several data sets; choose one of stl10:{tmp_path}, idx:{tmp_path}"):
        open_source(f"{tmp_path}#train")
    assert len(open_source(f"idx:{tmp_path}#train")) == 4


def test_transposed_images_of_emnist_are_said(tmp_path):
    write_idx(tmp_path, "emnist-letters-", test="test")
    assert open_source(f"{tmp_path}#train").notes == [
        "the images of EMNIST are stored transposed, and are read so, as in torchvision"
    ]


def test_labels_of_another_length(tmp_path):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(DIGITS))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(LABELS[:2]))
    with pytest.raises(DataError, match=r"shape \(2,\); expected one label for each of 6 images\.$"):
        open_source(tmp_path)
