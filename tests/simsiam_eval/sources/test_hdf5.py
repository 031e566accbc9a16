"""Images in HDF5 files."""

import io
import os
import pickle

import h5py
import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from simsiam_eval.errors import DataError
from simsiam_eval.features.file import FORMAT
from simsiam_eval.images.intensity import Intensity
from simsiam_eval.images.opened import UnreadableImage
from simsiam_eval.sources.opening import open_source

RNG = np.random.default_rng(0)
COLOR = RNG.integers(0, 256, (5, 6, 7, 3), dtype=np.uint8)
GRAY = RNG.integers(0, 256, (5, 6, 7), dtype=np.uint8)


def write(path, **datasets):
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file[name.replace("__", "/")] = values
    return path


def encoded(images):
    contents = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        contents.append(np.frombuffer(buffer.getvalue(), np.uint8))
    return contents


@pytest.mark.parametrize(
    ("stored", "shown"),
    [
        (COLOR, COLOR),
        (COLOR.transpose(0, 3, 1, 2), COLOR),
        (GRAY, GRAY[..., None].repeat(3, 3)),
        (GRAY[:, None], GRAY[..., None].repeat(3, 3)),
        (GRAY[..., None], GRAY[..., None].repeat(3, 3)),
    ],
)
def test_pixel_layouts(tmp_path, stored, shown):
    source = open_source(str(write(tmp_path / "a.h5", images=stored, labels=np.arange(5, dtype=np.uint8))))
    for row in (4, 0):
        assert np.array_equal(np.asarray(source.image(row)), shown[row])
    assert source.labels.tolist() == [0, 1, 2, 3, 4]
    assert source.id(3) == "images/00000003"


def test_bytes_of_image_files(tmp_path):
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        variable = file.create_dataset("x", (6,), h5py.vlen_dtype(np.uint8))
        for row, content in enumerate(encoded(COLOR)):
            variable[row] = content
        fixed = file.create_dataset("group/fixed", (5,), np.dtype("V2000"))
        for row, content in enumerate(encoded(COLOR)):
            fixed[row] = np.void(content.tobytes().ljust(2000, b"\0"))
    for spec in ("a.hdf5", "a.hdf5#images=group/fixed"):
        source = open_source(f"hdf5:{tmp_path}/{spec}")
        assert np.array_equal(np.asarray(source.image(4)), COLOR[4])
    with pytest.raises(UnreadableImage, match="empty"):
        open_source(f"hdf5:{tmp_path}/a.hdf5").image(5)


def test_labels_ids_and_splits(tmp_path):
    path = write(
        tmp_path / "a.h5", train__x=COLOR, train__y=["b", "a", "", "b", "b"], test__x=COLOR[:2],
        test__y=np.array([[1], [-1]]), train__names=[f"image {row}" for row in range(5)],
    )  # fmt: skip
    source = open_source(f"hdf5:{path}#train,id=names")
    assert source.labels.tolist() == [1, 0, -1, 1, 1]
    assert source.class_names == ("a", "b")
    assert source.ids_of(range(2)) == ["image 0", "image 1"]
    assert open_source(f"hdf5:{path}", "test").labels.tolist() == [1, -1]
    assert open_source(f"hdf5:{path}#images=train/x,label=none", "test").labels.tolist() == [-1] * 5
    assert open_source(f"hdf5:{path}#images=test/x,label=test/y").id(1) == "test/x/00000001"
    with pytest.raises(DataError, match=r"splits \(test, train\)"):
        open_source(f"hdf5:{path}")


def test_groups_of_splits_under_any_known_name(tmp_path):
    path = write(tmp_path / "a.h5", Training__x=COLOR, Testing__x=COLOR[:2], notes__text=["a"], extra__x=COLOR[:1])
    assert len(open_source(f"{path}#train")) == len(open_source(str(path), "train")) == 5
    assert len(open_source(f"{path}#testing")) == 2
    with pytest.raises(DataError, match=r"several splits \(Testing, Training, extra\)"):
        open_source(str(path))
    path = write(tmp_path / "b.h5", photo__x=COLOR, sketch__x=COLOR[:2], notes__text=["a"])
    assert len(open_source(f"{path}#sketch")) == 2
    with pytest.raises(DataError, match=r"several splits \(photo, sketch\)"):
        open_source(str(path))


def test_rows_that_are_not_stored_are_unreadable(tmp_path):
    """HDF5 reads them as zeros: black images."""
    with h5py.File(tmp_path / "part.h5", "w") as file:
        file["d"] = COLOR
    layout = h5py.VirtualLayout((10, 6, 7, 3), np.uint8)
    layout[:5] = h5py.VirtualSource("part.h5", "d", COLOR.shape)
    layout[5:] = h5py.VirtualSource("gone.h5", "d", COLOR.shape)
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("virtual", layout)
        file.create_dataset("chunked", (10, 6, 7, 3), np.uint8, chunks=(1, 6, 7, 3))[:5] = COLOR
        file.create_dataset("never", (10, 6, 7, 3), np.uint8)
    for name, reason in {"virtual": "gone.h5 is missing", "chunked": "it was never written"}.items():
        source = pickle.loads(pickle.dumps(open_source(f"{path}#images={name}")))
        assert np.array_equal(np.asarray(source.image(4)), COLOR[4])
        with pytest.raises(UnreadableImage, match=f"not stored in the file: .*{reason}"):
            source.image(5)
        with pytest.raises(UnreadableImage, match=reason):
            source.stored(9)
    with pytest.raises(UnreadableImage, match="never written"):
        open_source(f"{path}#images=never").image(0)


def test_labels_and_ids_that_are_not_stored_are_rejected(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = COLOR
        file.create_dataset("y", (5,), np.int64)
        file.create_dataset("names", (5,), h5py.string_dtype(), chunks=(2,))[:2] = ["a", "b"]
    with pytest.raises(DataError, match=r"/y of .* is incomplete: 5 rows of 5 are not stored"):
        open_source(str(tmp_path / "a.h5"))
    with pytest.raises(DataError, match=r"/names of .* is incomplete: 3 rows of 5"):
        open_source(f"{tmp_path}/a.h5#label=none,id=names")


@pytest.mark.parametrize(
    ("name", "link", "message"),
    [
        ("images", h5py.SoftLink("/images"), "images is a link that leads back to itself; choose .*#images=NAME"),
        ("images", h5py.SoftLink("/gone"), "images is a broken link to /gone"),
        ("labels", h5py.ExternalLink("gone.h5", "/y"), r"labels is a broken link to /y of gone\.h5; .*#label=NAME"),
    ],
)
def test_broken_links_are_named(tmp_path, name, link, message):
    path = write(tmp_path / "a.h5", x=COLOR)
    with h5py.File(path, "a") as file:
        file[name] = link
        file["loop"] = h5py.SoftLink("/loop")
    with pytest.raises(DataError, match=message):
        open_source(str(path))
    assert len(open_source(f"{path}#images=x,label=none")) == 5


def test_virtual_datasets_of_themselves(tmp_path):
    for name, other in (("a.h5", "."), ("b.h5", "c.h5"), ("c.h5", "b.h5")):
        layout = h5py.VirtualLayout(COLOR.shape, np.uint8)
        layout[:] = h5py.VirtualSource(other, "images", COLOR.shape)
        with h5py.File(tmp_path / name, "w") as file:
            file.create_virtual_dataset("images", layout)
    for name in ("a.h5", "b.h5"):
        with pytest.raises(DataError, match="is a virtual dataset that is a part of itself"):
            open_source(str(tmp_path / name))


def test_a_missing_filter_is_one_error(tmp_path):
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((1, *COLOR.shape[1:]))
    properties.set_filter(32123, h5py.h5z.FLAG_OPTIONAL, ())
    with h5py.File(tmp_path / "a.h5", "w") as file:
        h5py.h5d.create(file.id, b"images", h5py.h5t.NATIVE_UINT8, h5py.h5s.create_simple(COLOR.shape), properties)
    with pytest.raises(DataError, match=r"compressed with the HDF5 filter \w+ \(32123\), which is not installed: "):
        open_source(str(tmp_path / "a.h5"))


def test_enumerated_labels_have_names(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["images"] = COLOR
        kind = h5py.enum_dtype({"dog": 0, "cat": 1, "owl": 7}, basetype="i1")
        file.create_dataset("labels", data=np.array([0, 1, 7, 7, 0], np.int8), dtype=kind)
        file.create_dataset("other", data=np.array([0, 1, 7, 7, 3], np.int8), dtype=kind)
    source = open_source(str(tmp_path / "a.h5"))
    assert [source.class_names[label] for label in source.labels] == ["dog", "cat", "owl", "owl", "dog"]
    with pytest.raises(DataError, match=r"/other of .* contains 3, which its enumeration of 3 names does not have"):
        open_source(f"{tmp_path}/a.h5#label=other")


def test_labels_that_are_not_utf8_are_rejected(tmp_path):
    names = np.array([b"caf\xe9", b"caf\xe8", b"a", b"a", b"a"])
    path = write(tmp_path / "a.h5", images=COLOR, labels=names, names=names)
    with pytest.raises(DataError, match=r"/labels of .* contains b'caf\\xe9', which is not UTF-8"):
        open_source(str(path))
    ids = open_source(f"{path}#label=none,id=names").ids_of(range(2))
    assert len(set(ids)) == 2


@pytest.mark.parametrize("name", ["x", "y", "names", "format"])
def test_empty_datasets_and_attributes(tmp_path, name):
    path = write(tmp_path / "a.h5", x=COLOR, y=np.arange(5), names=list("abcde"))
    with h5py.File(path, "a") as file:
        if name == "format":
            file.attrs["format"] = h5py.Empty("S1")
        else:
            del file[name]
            file[name] = h5py.Empty("u1")
    if name == "format":
        assert len(open_source(f"{path}#id=names")) == 5
    else:
        with pytest.raises(DataError, match=rf"/{name} of {path} "):
            open_source(f"{path}#id=names")


def test_splits_in_the_names_of_datasets(tmp_path):
    path = write(
        tmp_path / "a.h5", x_train=COLOR, y_train=np.arange(5), x_test=COLOR[:2], y_test=np.array([4, 1]), mean=GRAY
    )
    assert open_source(f"{path}#test").labels.tolist() == [4, 1]
    assert open_source(str(path), "train").id(4) == "x_train/00000004"
    assert open_source(f"{path}#test,label=none").labels.tolist() == [-1, -1]
    assert len(open_source(f"{path}#images=x_test,label=y_test")) == 2
    with pytest.raises(DataError, match=r"several splits \(test, train\)"):
        open_source(str(path))


def test_fingerprint_follows_the_chosen_datasets(tmp_path):
    path = write(tmp_path / "a.h5", images=COLOR, labels=np.arange(5), other=np.zeros(5, int), gray=GRAY)
    fingerprints = [
        open_source(f"{path}{tail}").fingerprint() for tail in ("", "#label=other", "#label=none", "#images=gray")
    ]
    assert len(set(fingerprints)) == 4
    os.rename(path, tmp_path / "b.h5")
    assert open_source(f"{tmp_path}/b.h5").fingerprint() == fingerprints[0]


class Rows:
    def __init__(self, source):
        self.source = source

    def __len__(self):
        return len(self.source)

    def __getitem__(self, row):
        return np.asarray(self.source.image(row))


def test_workers_open_their_own_file(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("data", data=COLOR, chunks=(2, 6, 7, 3), compression="gzip")
    source = open_source(str(tmp_path / "a.h5"))
    source.image(0)
    images = list(DataLoader(Rows(source), batch_size=None, num_workers=2))
    assert np.array_equal(np.stack(images), COLOR)
    assert np.array_equal(np.asarray(pickle.loads(pickle.dumps(source)).image(1)), COLOR[1])


def test_damaged_chunk_is_an_unreadable_image(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        data = file.create_dataset("data", data=COLOR, chunks=(1, 6, 7, 3), compression="gzip")
        at = data.id.get_chunk_info(3).byte_offset
    with open(tmp_path / "a.h5", "r+b") as file:
        file.seek(at)
        file.write(b"\0" * 20)
    source = open_source(str(tmp_path / "a.h5"))
    with pytest.raises(UnreadableImage, match="cannot be read"):
        source.image(3)
    assert np.array_equal(np.asarray(source.image(2)), COLOR[2])
    assert source.fingerprint()


@pytest.mark.parametrize(
    ("datasets", "options", "message"),
    [
        ({"pictures": COLOR}, "", "no dataset named images.*pictures.*#images="),
        ({"images": COLOR}, "#images=x", "no dataset 'x'; expected one of images"),
        ({"images": COLOR}, "#label=x", "no dataset 'x'.*#label="),
        ({"images": COLOR}, "#split=train", "no splits"),
        ({"images": COLOR[0, 0]}, "", r"shape \(7, 3\)"),
        ({"images": COLOR > 9}, "", "bool; expected pixels as numbers"),
        ({"images": ["a", "b"]}, "", "strings.*variable-length uint8"),
        ({"images": COLOR[:0]}, "", "no rows"),
        ({"images": COLOR, "labels": np.arange(4)}, "", r"shape \(4,\); expected one label for each of 5"),
        ({"images": COLOR, "labels": np.zeros((5, 3), int)}, "", r"shape \(5, 3\); expected one label"),
        ({"images": COLOR, "labels": np.full(5, 1.5)}, "", "label 1.5; expected whole numbers"),
        ({"images": COLOR, "labels": np.arange(5) - 3}, "", "/labels of .*a.h5 has the label -2"),
        ({"images": COLOR, "names": ["a"]}, "#id=names", "one id for each of 5"),
    ],
)
def test_rejected_datasets(tmp_path, datasets, options, message):
    path = write(tmp_path / "a.h5", **datasets)
    with pytest.raises(DataError, match=message):
        open_source(f"hdf5:{path}{options}")


def test_rejected_files(tmp_path):
    (tmp_path / "a.h5").write_bytes(b"text")
    with pytest.raises(DataError, match="is not an HDF5 file"):
        open_source(str(tmp_path / "a.h5"))
    with h5py.File(tmp_path / "features.h5", "w") as file:
        file.attrs["format"] = FORMAT
        file["data"] = COLOR
    with pytest.raises(DataError, match="is a feature file, not images"):
        open_source(f"hdf5:{tmp_path}/features.h5")
    with pytest.raises(DataError, match="is a folder"):
        open_source(f"hdf5:{tmp_path}")


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 5, 5, 4), np.uint8), r"shape \(2, 5, 5, 4\).*extract --channels"),
    ],
)
def test_pixels_that_are_not_rgb_require_channels(tmp_path, images, message):
    source = open_source(str(write(tmp_path / "a.h5", images=images)))
    for read in (lambda: source.require(range(2), None, Intensity()), lambda: source.image(0)):
        with pytest.raises(DataError, match=message):
            read()
    assert np.array_equal(source.stored(1).pixels, images[1])
