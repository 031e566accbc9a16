"""Fingerprints of any source; lists of paths."""

import errno
import hashlib
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from simsiam_eval.errors import DataError
from simsiam_eval.images.opened import UnreadableImage
from simsiam_eval.sources.base import ArraySource, PathSource
from simsiam_eval.sources.opening import open_source


@pytest.mark.parametrize("rows", [0, 1, 9000])
@pytest.mark.parametrize("names", [None, ["ä", "b"]])
def test_fingerprint_hashes_everything_in_order(rows, names):
    """The hash in one piece; computed in blocks it must be equal, or cached features are not found again."""
    pixels = np.random.default_rng(0).integers(0, 256, (rows, 1, 1, 3), dtype=np.uint8)
    labels = np.arange(rows) % 2
    ids = [f"image {row}" for row in range(rows)]
    digest = hashlib.sha256(json.dumps([names, labels.tolist()]).encode())
    for name, image in zip(ids, pixels, strict=True):
        digest.update(name.encode() + b"\0" + hashlib.sha256(image.tobytes()).digest())
    assert ArraySource("s", pixels, labels, names, ids).fingerprint() == digest.hexdigest()


def test_paths_that_are_not_utf8_have_ids_that_are(tmp_path):
    path = os.fsencode(tmp_path) + b"/caf\xe9.png"
    Image.new("RGB", (2, 3)).save(tmp_path / "a.png")
    os.rename(tmp_path / "a.png", path)
    source = PathSource([os.fsdecode(path)])
    assert source.image(0).pixels().shape == (3, 2, 3)
    assert source.id(0) == f"{tmp_path}/caf\\udce9.png"
    assert source.fingerprint()


def test_ids_in_blocks():
    source = PathSource(["a", "b", "c"], ids=["1", "2", "3"])
    assert source.ids_of(range(1, 3)) == ["2", "3"]
    arrays = ArraySource("s", np.zeros((2, 1, 1, 3), np.uint8), np.zeros(2), None, ["x", "y"])
    assert arrays.ids_of(range(2)) == ["x", "y"]


def test_numbers_of_labels_ids_and_paths_must_agree():
    with pytest.raises(ValueError, match="2 paths"):
        PathSource(["a", "b"], labels=[1])
    with pytest.raises(ValueError, match="2 paths"):
        PathSource(["a", "b"], ids=["x"])


def test_fingerprint_changes_when_a_missing_image_appears(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    source = PathSource(["a.png", "b.png"], folder=tmp_path)
    first = source.fingerprint()
    Image.new("RGB", (2, 2)).save(tmp_path / "b.png")
    assert source.fingerprint() != first


def test_fingerprint_follows_content_and_order_not_path(classes, tmp_path, write_image):
    first = open_source(str(classes)).fingerprint()
    shutil.copytree(classes, tmp_path / "copy")
    assert open_source(str(tmp_path / "copy")).fingerprint() == first
    write_image(classes / "dog" / "b.png", 9)
    assert open_source(str(classes)).fingerprint() != first
    os.rename(tmp_path / "copy/cat/a.png", tmp_path / "copy/cat/z.png")
    assert open_source(str(tmp_path / "copy")).fingerprint() != first


def test_fingerprint_changes_with_content_of_equal_size_and_time(tmp_path):
    (tmp_path / "a").mkdir()
    path = tmp_path / "a" / "0.bmp"
    Image.new("RGB", (4, 4), "red").save(path)
    before, times = open_source(f"folder:{tmp_path}").fingerprint(), path.stat()
    Image.new("RGB", (4, 4), "blue").save(path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert open_source(f"folder:{tmp_path}").fingerprint() != before


def test_fingerprint_of_unreadable_images_is_not_cached(tmp_path, monkeypatch):
    def unreadable(path):
        raise UnreadableImage("permission denied")

    Image.new("RGB", (4, 4)).save(tmp_path / "0.png")
    with monkeypatch.context() as patch:
        patch.setattr("simsiam_eval.sources.base.read_file", unreadable)
        without = open_source(f"folder:{tmp_path}").fingerprint()
    assert open_source(f"folder:{tmp_path}").fingerprint() != without


def test_listing_fingerprint_of_a_copy_is_equal(tmp_path, write_image):
    for name in ("one", "two"):
        for row in range(3):
            write_image(tmp_path / name / "a" / f"{row}.bmp", row)
    first, second = (open_source(str(tmp_path / name)).listing_fingerprint() for name in ("one", "two"))
    assert first == second
    (tmp_path / "two" / "a" / "1.bmp").write_bytes(b"shorter")
    assert open_source(str(tmp_path / "two")).listing_fingerprint() != first
    (tmp_path / "one" / "a" / "1.bmp").rename(tmp_path / "one" / "a" / "9.bmp")
    assert open_source(str(tmp_path / "one")).listing_fingerprint() != first
    digits = open_source("digits")
    assert digits.listing_fingerprint() == digits.fingerprint()


def test_system_error_is_not_an_unreadable_image(tmp_path, monkeypatch, write_image):
    write_image(tmp_path / "0.png", 1)

    def gone(path, flags):
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr("simsiam_eval.images.opened.open_nonblocking", gone)
    for read in (lambda source: source.image(0), lambda source: source.fingerprint()):
        with pytest.raises(DataError, match="cannot be read now"):
            read(open_source(str(tmp_path)))
