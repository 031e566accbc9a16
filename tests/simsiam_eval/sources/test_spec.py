"""`kind:PATH#options` taken apart."""

import os
import subprocess
import sys

import pytest

from simsiam_eval.errors import UsageError
from simsiam_eval.sources.spec import parse_spec, path_of, without_options

KINDS = ("folder", "tar")


@pytest.mark.parametrize(
    ("text", "kind", "path", "tail"),
    [
        ("folder:a/b", "folder", "a/b", ""),
        ("folder:a/b#train", "folder", "a/b", "train"),
        ("a/b#train", "", "a/b", "train"),
        ("tar:a:b.tar#x=1,y", "tar", "a:b.tar", "x=1,y"),
        ("tar:{a,b}-*.tar", "tar", "{a,b}-*.tar", ""),
        ("a#b#c", "", "a", "b#c"),
        ("C:data", "", "C:data", ""),
        ("my data:x", "", "my data:x", ""),
    ],
)
def test_kind_path_and_tail(text, kind, path, tail):
    spec = parse_spec(text, KINDS, "image source")
    assert (spec.text, spec.kind, str(spec.path), spec.tail) == (text, kind, path, tail)


def test_number_sign_and_colon_in_existing_paths(tmp_path):
    for name in ("a", "a#b", "x:y", "x:y#z"):
        (tmp_path / name).mkdir()
    for body in (f"{tmp_path}/a#b", f"{tmp_path}/x:y", f"{tmp_path}/x:y#z"):
        for kind in ("", "folder"):
            prefix = f"{kind}:" if kind else ""
            assert parse_spec(f"{prefix}{body}", KINDS, "source").tail == ""
            spec = parse_spec(f"{prefix}{body}#train", KINDS, "source")
            assert (spec.kind, str(spec.path), spec.tail) == (kind, body, "train")
            assert str(path_of(f"{prefix}{body}#train")) == body
            assert without_options(f"{prefix}{body}#train") == f"{prefix}{body}"


def test_home_folder_is_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a#b").mkdir()
    for text in ("folder:~/a#b#train", "~/a#b#train"):
        assert parse_spec(text, KINDS, "source").path == path_of(text) == tmp_path / "a#b"


@pytest.mark.parametrize("text", ["", "#train", "folder:", "folder:#train"])
def test_spec_without_path_is_rejected(text):
    with pytest.raises(UsageError, match=r"has no path; expected for example folder:PATH\."):
        parse_spec(text, KINDS, "image source")


def test_unknown_kind_is_rejected():
    with pytest.raises(
        UsageError, match=r"zip: is not a supported image source; expected a path or one of folder, tar\."
    ):
        parse_spec("zip:a", KINDS, "image source")


def test_options():
    spec = parse_spec("tar:a#label=x=y,val,", KINDS, "source")
    assert spec.options(("label", "split")) == {"label": "x=y", "split": "val"}
    assert parse_spec("tar:a", KINDS, "source").options(("label", "split")) == {}
    with pytest.raises(UsageError, match="unknown option 'val'; tar takes label, image"):
        spec.options(("label", "image"))
    with pytest.raises(UsageError, match="'split' is given twice"):
        parse_spec("tar:a#val,split=test", KINDS, "source").options(("label", "split"))


def test_value_of_an_only_option_may_contain_commas():
    assert parse_spec("tar:a#images=b, c", KINDS, "source").options(("images",)) == {"images": "b, c"}


def test_path_of_any_kind_of_spec():
    for text in ("data.h5", "hdf5:data.h5", "voc:data.h5#test", "data.h5#images=x"):
        assert str(path_of(text)) == "data.h5"


def test_specs_need_no_torch():
    code = "import sys, simsiam_eval.sources.spec; assert not {'torch', 'numpy', 'PIL'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ)
