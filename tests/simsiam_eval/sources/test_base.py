"""The fingerprint, whatever the source; lists of paths."""

import hashlib
import json
import os

import numpy as np
import pytest
from PIL import Image

from simsiam_eval.sources.base import ArraySource, PathSource


@pytest.mark.parametrize("rows", [0, 1, 9000])
@pytest.mark.parametrize("names", [None, ["ä", "b"]])
def test_the_fingerprint_is_the_hash_of_everything_in_order(rows, names):
    """Written out in one piece: in blocks it must be the same, or features that were extracted are not found again."""
    pixels = np.random.default_rng(0).integers(0, 256, (rows, 1, 1, 3), dtype=np.uint8)
    labels = np.arange(rows) % 2
    ids = [f"image {row}" for row in range(rows)]
    digest = hashlib.sha256(json.dumps([names, labels.tolist()]).encode())
    for name, image in zip(ids, pixels, strict=True):
        digest.update(name.encode() + b"\0" + hashlib.sha256(image.tobytes()).digest())
    assert ArraySource("s", pixels, labels, names, ids).fingerprint() == digest.hexdigest()


def test_paths_that_are_not_utf8_have_names_that_are(tmp_path):
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


def test_labels_and_ids_are_as_many_as_paths():
    with pytest.raises(ValueError, match="2 paths"):
        PathSource(["a", "b"], labels=[1])
    with pytest.raises(ValueError, match="2 paths"):
        PathSource(["a", "b"], ids=["x"])


def test_a_missing_image_is_remembered_as_missing(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    source = PathSource(["a.png", "b.png"], folder=tmp_path)
    first = source.fingerprint()
    Image.new("RGB", (2, 2)).save(tmp_path / "b.png")
    assert source.fingerprint() != first
