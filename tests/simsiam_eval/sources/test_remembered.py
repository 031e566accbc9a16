"""What is remembered between runs, and when it is computed again."""

import numpy as np
import pytest

from simsiam_eval.files.cache import cache_folder
from simsiam_eval.sources.remembered import remembered_arrays, remembered_fingerprint


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SIMSIAM_EVAL_CACHE", str(tmp_path / "cache"))


def test_arrays_are_computed_again_only_where_the_note_is_damaged():
    calls = []

    def compute():
        calls.append(1)
        return {"a": np.arange(3), "b": np.empty(0, np.uint8)}

    for _ in range(2):
        arrays = remembered_arrays("key", compute)
        assert (arrays["a"].tolist(), arrays["b"].dtype) == ([0, 1, 2], np.uint8)
    assert len(calls) == 1
    note = cache_folder() / "indexes" / "key"
    for damage in (b"", note.read_bytes()[:100]):
        note.write_bytes(damage)
        assert remembered_arrays("key", compute)["a"].tolist() == [0, 1, 2]
    assert len(calls) == 3


def test_fingerprint_is_remembered_if_it_is_complete():
    results = iter([("a" * 64, False), ("b" * 64, True), ("c" * 64, True)])
    assert [remembered_fingerprint("key", lambda: next(results))[0] for _ in range(3)] == ["a", "b", "b"]
    (cache_folder() / "fingerprints" / "key").write_text("damaged")
    assert remembered_fingerprint("key", lambda: next(results)) == "c" * 64


def test_cache_that_cannot_be_written_is_ignored(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("SIMSIAM_EVAL_CACHE", str(tmp_path / "file"))
    assert remembered_fingerprint("key", lambda: ("f" * 64, True)) == "f" * 64
    assert remembered_arrays("key", lambda: {"a": np.arange(2)})["a"].tolist() == [0, 1]
