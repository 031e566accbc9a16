"""The version of detectron2 in the record, and the command without it."""

import importlib.util

from tasks.detection.backends.detectron2.backend import _commit


def test_commit_of_a_clone(tmp_path):
    (tmp_path / ".git" / "refs" / "heads").mkdir(parents=True)
    head = tmp_path / ".git" / "HEAD"
    head.write_text("0123abcd\n")
    assert _commit(tmp_path) == "0123abcd"
    head.write_text("ref: refs/heads/main\n")
    (tmp_path / ".git" / "packed-refs").write_text(
        "# pack-refs with: peeled\n89ab refs/heads/other\n4567 refs/heads/main\n"
    )
    assert _commit(tmp_path) == "4567"
    (tmp_path / ".git" / "refs" / "heads" / "main").write_text("cdef\n")
    assert _commit(tmp_path) == "cdef"


def test_command_without_detectron2_says_how_to_install_it(call, few_voc, tmp_path, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "detectron2" else find_spec(name, *more)
    )
    words = ("detect", "--train", few_voc, "--test", few_voc, "--init", "random", "--out", tmp_path / "run")
    result = call(*words, "--backend", "detectron2")
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "pip install 'git+https://github.com/facebookresearch/detectron2.git'" in result.stderr
