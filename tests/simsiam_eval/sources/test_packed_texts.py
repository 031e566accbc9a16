"""Texts packed into one block of bytes."""

import hashlib
import pickle

import numpy as np
import pytest

from simsiam_eval.sources.packed_texts import PackedTexts

TEXTS = ["a", "", "ü/日本.png", "b" * 300]


def test_index_slice_and_iteration():
    packed = PackedTexts(iter(TEXTS))
    assert list(packed) == TEXTS
    assert packed[-2] == TEXTS[2]
    assert packed[np.int64(3)] == TEXTS[3]
    assert packed[3:0:-2] == TEXTS[3:0:-2]
    with pytest.raises(IndexError):
        packed[4]


def test_several_chunks_and_extend():
    texts = [str(number) for number in range(70_000)]
    packed = PackedTexts(texts)
    packed.extend(["x"])
    assert (len(packed), packed[65_535], packed[65_536], packed[70_000]) == (70_001, "65535", "65536", "x")


def test_file_names_that_are_not_utf8():
    name = b"caf\xe9.png".decode("utf-8", "surrogateescape")
    packed = PackedTexts([name])
    assert packed[0] == name
    assert not packed.is_utf8()
    assert PackedTexts(TEXTS).is_utf8()


def test_absolute_paths_stay_as_they_are_under_a_folder():
    packed = PackedTexts(["a.png", "/b.png"])
    assert list(packed.under("/photos")) == ["/photos/a.png", "/b.png"]
    assert list(packed) == ["a.png", "/b.png"]


def test_arrays_and_pickles_round_trip():
    packed = PackedTexts(TEXTS)
    assert list(PackedTexts.from_arrays(*packed.arrays())) == TEXTS
    assert list(pickle.loads(pickle.dumps(packed.under("/x")))) == ["/x/a", "/x/", "/x/ü/日本.png", "/x/" + "b" * 300]
    content, ends = packed.arrays()
    with pytest.raises(ValueError, match="ends"):
        PackedTexts.from_arrays(content[:-1], ends)


def test_hash_depends_on_boundaries_and_folder():
    def digest(packed):
        sha256 = hashlib.sha256()
        packed.feed(sha256.update)
        return sha256.hexdigest()

    assert digest(PackedTexts(["ab", "c"])) == digest(PackedTexts(["ab", "c"]))
    others = [PackedTexts(["a", "bc"]), PackedTexts(["ab", "c"]).under("/x"), PackedTexts(["abc"])]
    assert len({digest(packed) for packed in [PackedTexts(["ab", "c"]), *others]}) == 4
