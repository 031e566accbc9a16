"""CIFAR archives, their folders, and image folders."""

import os
import pickle
import tarfile

import numpy as np
import pytest

from simsiam_eval.errors import DataError, UsageError
from simsiam_eval.sources.opening import open_source


def cifar_folder(tmp_path, kind):
    pixels = np.random.default_rng(0).integers(0, 255, (10, 3072), dtype=np.uint8)
    labels = list(range(10))
    folder = tmp_path / f"cifar-10-batches-{kind}"
    folder.mkdir()
    names = [f"class{label}" for label in labels]
    for name in [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]:
        if kind == "py":
            (folder / name).write_bytes(pickle.dumps({b"data": pixels, b"labels": labels}))
        else:
            rows = np.concatenate([np.array(labels, dtype=np.uint8)[:, None], pixels], axis=1)
            (folder / f"{name}.bin").write_bytes(rows.tobytes())
    (folder / "batches.meta").write_bytes(pickle.dumps({b"label_names": [name.encode() for name in names]}))
    (folder / "batches.meta.txt").write_text("\n".join(names))
    return folder, pixels


@pytest.mark.parametrize("kind", ["py", "bin"])
def test_both_versions_as_folder_and_archive(tmp_path, kind):
    folder, pixels = cifar_folder(tmp_path, kind)
    with tarfile.open(tmp_path / "cifar-10-x.tar.gz", "w:gz") as archive:
        archive.add(folder, folder.name)
    for place in (folder, tmp_path, tmp_path / "cifar-10-x.tar.gz"):
        source = open_source(f"cifar10:{place}")
        assert (len(source), source.labels[3], source.class_names[3]) == (50, 3, "class3")
        assert np.array_equal(source.image(3).pixels(), pixels[3].reshape(3, 32, 32).transpose(1, 2, 0))
        assert len(open_source(f"cifar10:{place}#test")) == len(open_source(f"cifar10:{place}", "test")) == 10


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_truncated_archive_is_rejected(tmp_path, mode):
    folder, _ = cifar_folder(tmp_path, "py")
    whole = tmp_path / "whole.tar"
    with tarfile.open(whole, mode) as archive:
        archive.add(folder, folder.name)
    content = whole.read_bytes()
    for kept in range(0, len(content) - 10 * tarfile.BLOCKSIZE, 7 * tarfile.BLOCKSIZE):
        (tmp_path / "cut.tar").write_bytes(content[:kept])
        with pytest.raises(DataError, match=r"is not a tar archive, or it is damaged: [^\n]+\.$"):
            open_source(f"cifar10:{tmp_path / 'cut.tar'}")


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize("module", ["numpy.core.", "numpy._core."])
def test_batches_pickled_again_by_python_3(tmp_path, protocol, module):
    """As scripts that make subsets write them: keys and names as text, labels as an array or a list of its numbers."""
    pixels = np.random.default_rng(0).integers(0, 255, (3, 3072), dtype=np.uint8)
    labels = np.array([2, 0, 1])

    def write(name, value):
        stored = pickle.dumps(value, protocol=protocol)
        if module == "numpy.core." and protocol < 4:  # the name that NumPy 1 writes; longer ones need a new length
            stored = stored.replace(b"cnumpy._core.", b"cnumpy.core.")
        (tmp_path / name).write_bytes(stored)

    for number, values in enumerate([labels, labels.tolist(), list(labels), tuple(labels), labels.astype(np.uint8)], 1):
        write(f"data_batch_{number}", {"data": np.asfortranarray(pixels), "labels": values})
    write("batches.meta", {"label_names": ["cat", "dog", "été"]})
    source = open_source(str(tmp_path))
    assert source.class_names == ("cat", "dog", "été")
    assert source.labels.tolist() == [2, 0, 1] * 5
    for row in range(15):
        assert np.array_equal(source.image(row).pixels(), pixels[row % 3].reshape(3, 32, 32).transpose(1, 2, 0))


def test_damaged_class_names_are_rejected(tmp_path):
    folder, _ = cifar_folder(tmp_path, "py")
    for meta in ({}, {"label_names": 3}, {"label_names": [1]}):
        (folder / "batches.meta").write_bytes(pickle.dumps(meta))
        with pytest.raises(DataError, match=r"class names in .* are damaged: there is no list label_names"):
            open_source(f"cifar10:{folder}")


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harm",)


def test_pickle_is_not_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder, _ = cifar_folder(tmp_path, "py")
    (folder / "data_batch_1").write_bytes(pickle.dumps({b"data": Harmful()}))
    with pytest.raises(DataError, match="nothing was executed"):
        open_source(f"cifar10:{folder}")
    assert not (tmp_path / "harm").exists()
    (folder / "data_batch_1").write_bytes(b"\x80")
    with pytest.raises(DataError, match="damaged"):
        open_source(f"cifar10:{folder}")


def test_image_folders(tmp_path, write_image):
    for value, name in enumerate(["Train/cat/a.png", "Train/dog/a.png", "Test/cat/a.png", "Test/dog/a.png"]):
        write_image(tmp_path / name, value)
    for spec, default, first in (("", None, 0), ("#train", "test", 0), ("#testing", None, 2), ("", "test", 2)):
        source = open_source(f"cifar10:{tmp_path}{spec}", default)
        assert (source.class_names, source.id(0)) == (("cat", "dog"), "cat/a.png")
        assert source.image(0).pixels().max() == first
    with pytest.raises(UsageError, match="must be train or test, got 'val'"):
        open_source(f"cifar10:{tmp_path}#val")
