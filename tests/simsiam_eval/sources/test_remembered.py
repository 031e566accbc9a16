"""What is remembered of files, and when it is found out again."""

import numpy as np
import pytest

from simsiam_eval.files.cache import cache_folder
from simsiam_eval.sources.remembered import files_key, remembered_arrays, remembered_text


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SIMSIAM_EVAL_CACHE", str(tmp_path / "cache"))


def test_arrays_are_computed_once_and_again_where_the_note_is_damaged(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        return {"a": np.arange(3), "b": np.empty(0, np.uint8)}

    for _ in range(2):
        found = remembered_arrays("key", compute)
        assert (found["a"].tolist(), found["b"].dtype) == ([0, 1, 2], np.uint8)
    assert len(calls) == 1
    note = cache_folder() / "indexes" / "key"
    for damage in (b"", note.read_bytes()[:100]):
        note.write_bytes(damage)
        assert remembered_arrays("key", compute)["a"].tolist() == [0, 1, 2]
    assert len(calls) == 3


def test_a_cache_that_cannot_be_written_does_no_harm(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("SIMSIAM_EVAL_CACHE", str(tmp_path / "file"))
    assert remembered_text("key", lambda: ("f" * 64, True)) == "f" * 64
    assert remembered_arrays("key", lambda: {"a": np.arange(2)})["a"].tolist() == [0, 1]


def test_the_key_follows_files_and_settings(tmp_path):
    file = tmp_path / "a"
    keys = {files_key([file], "x")}
    file.write_text("1")
    keys |= {files_key([file], "x"), files_key([file], "y"), files_key([file, file], "x")}
    file.write_text("12")
    keys.add(files_key([file], "x"))
    assert len(keys) == 5
