"""Zip archives of folders."""

import io
import os
import pickle
import zipfile

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from simsiam_eval.errors import DataError
from simsiam_eval.images.opened import UnreadableImage
from simsiam_eval.sources.opening import open_source

NAMES = ["dog/b.png", "cat/deep/c.PNG", "cat-x/d.png", "cat/a.png"]


def png(value):
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def pack(path, names, method=zipfile.ZIP_DEFLATED):
    """Write images in order; the red channel is 0 in the first, 1 in the second, ..."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as archive:
        for value, name in enumerate(names):
            archive.writestr(name, png(value) if name.lower().endswith(".png") else b"text")
    return path


def red(source, row):
    return int(np.asarray(source.image(row))[0, 0, 0])


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("prefix", ["", "data/photos/"])
def test_an_archive_is_the_folder_that_was_packed(tmp_path, method, prefix):
    path = pack(tmp_path / "a.zip", [prefix + name for name in NAMES], method)
    zipfile.ZipFile(path).extractall(tmp_path / "unpacked")
    source, folder = open_source(str(path)), open_source(f"{tmp_path}/unpacked/{prefix}")
    assert (
        source.ids_of(range(4)) == folder.ids_of(range(4)) == ["cat/a.png", "cat/deep/c.PNG", "cat-x/d.png", NAMES[0]]
    )
    assert source.class_names == ("cat", "cat-x", "dog")
    assert source.labels.tolist() == [0, 0, 1, 2]
    assert [red(source, row) for row in range(4)] == [3, 1, 2, 0]
    assert source.fingerprint() == folder.fingerprint()


def test_splits_are_found_as_in_folders(tmp_path):
    path = pack(tmp_path / "a.zip", [f"set/{split}/{name}" for split in ("Training", "Testing") for name in NAMES])
    assert red(open_source(f"zip:{path}#test"), 0) == 7
    assert len(open_source(str(path), "train")) == 4
    with pytest.raises(DataError, match=r"several splits \(Testing, Training\)"):
        open_source(str(path))
    path = pack(tmp_path / "b.zip", [f"{split}/{name}" for split in ("train", "extra") for name in NAMES])
    with pytest.raises(DataError, match=r"two ways: as splits \(train, extra\) or as 2 classes"):
        open_source(str(path))
    assert open_source(f"{path}#split=none").class_names == ("extra", "train")
    assert open_source(f"{path}#label=none").class_names is None
    assert len(open_source(f"{path}#folder=extra/dog,split=none")) == 1


def test_several_archives(tmp_path):
    pack(tmp_path / "zips/train.zip", NAMES)
    pack(tmp_path / "zips/test.zip", NAMES[:2])
    assert len(open_source(f"{tmp_path}/zips#test")) == 2
    source = open_source(f"{tmp_path}/zips/*.zip")
    assert (len(source), source.id(0)) == (6, "train.zip/cat/a.png")


def test_hidden_files_and_names_of_windows(tmp_path):
    path = pack(tmp_path / "a.zip", ["__MACOSX/cat/._a.png", ".thumbs/a.png", "cat\\a.png", "dog\\b.png", "notes.txt"])
    assert open_source(str(path)).ids_of(range(2)) == ["cat/a.png", "dog/b.png"]


@pytest.mark.parametrize("workers", [0, 2])
def test_processes_read_the_same_images(tmp_path, workers):
    source = open_source(str(pack(tmp_path / "a.zip", [f"{row:02d}.png" for row in range(20)])))
    source.image(3)
    rows = DataLoader(range(20), collate_fn=lambda batch: [red(source, row) for row in batch], num_workers=workers,
                      batch_size=5)  # fmt: skip
    assert [value for batch in rows for value in batch] == list(range(20))
    assert red(pickle.loads(pickle.dumps(source)), 7) == 7


def test_damage_is_named(tmp_path):
    path = pack(tmp_path / "a.zip", ["cat/a.png", "dog/b.png"], zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 6] ^= 1
    path.write_bytes(content)
    with pytest.raises(UnreadableImage, match="does not match the checksum"):
        open_source(str(path)).image(0)
    source = open_source(str(path))
    os.truncate(path, 100)
    with pytest.raises(UnreadableImage, match="shorter than when it was opened"):
        source.image(1)
    with pytest.raises(DataError, match="truncated or not a zip archive"):
        open_source(f"zip:{path}")


def test_archives_that_cannot_be_read_are_rejected(tmp_path):
    with pytest.raises(DataError, match="compressed with bzip2; expected Deflate or none"):
        open_source(str(pack(tmp_path / "a.zip", NAMES, zipfile.ZIP_BZIP2)))
    path = pack(tmp_path / "b.zip", NAMES)
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="is encrypted; unpack it"):
        open_source(str(path))
    with pytest.raises(DataError, match="has no images"):
        open_source(str(pack(tmp_path / "c.zip", ["notes.txt"])))
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = pack(tmp_path / "d.zip", ["a.png", "a.png"])
    with pytest.raises(DataError, match=r"contains a\.png twice"):
        open_source(str(path))
    with pytest.raises(DataError, match="labels of a zip archive are its class folders"):
        open_source(f"{path}#label=txt")
