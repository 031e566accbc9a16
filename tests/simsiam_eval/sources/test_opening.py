"""How a spec or a plain path becomes an image source."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simsiam_eval.errors import DataError, UsageError
from simsiam_eval.sources import opening
from simsiam_eval.sources.opening import open_source

PAGES = ("sources.md", "source-formats.md", "source-datasets.md")


def test_class_folders_beside_tables_and_archives_are_a_folder(classes):
    for name in ("list.parquet", "all.tar", "list.txt"):
        (classes / name).touch()
    assert len(open_source(str(classes))) == 3


@pytest.mark.parametrize("spec", ["nowhere:x", "digits#color=red", "digits#val", "digits:x"])
def test_rejected_specs(spec):
    with pytest.raises(UsageError):
        open_source(spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("folder:{}/dog/b.png", "is not a folder"),
        ("list:{}/dog", "is a folder; list: expects a file"),
        ("image:{}/dog", "is a folder; image: expects a file"),
        ("{}/bad.parq", "is not a supported image source; expected a folder"),
        ("{}/none.txt", "none.txt does not exist; expected a folder, .*tar:"),
        ("{}/none-{{0..1}}.tar", r"none-0.tar does not exist \(2 of 2"),
        ("manifest:{}/dog/b.png", "is not a manifest; expected a .csv"),
        ("manifest:{}/bad.parquet", "is not a Parquet file"),
        ("manifest:{}/bad.csv", "bad.csv, line 2: .* is not UTF-8"),
    ],
)
def test_rejected_files(classes, spec, message):
    (classes / "bad.parquet").write_bytes(b"text")
    (classes / "bad.csv").write_bytes(b"path\n\xff\n")
    (classes / "bad.parq").write_bytes(b"text")
    with pytest.raises(DataError, match=message):
        open_source(spec.format(classes))


def test_single_image(classes):
    for spec in (classes / "dog/b.png", f"{classes}/dog/b.png", f"image:{classes}/dog/b.png"):
        source = open_source(spec)
        assert (len(source), source.id(0), source.labels.tolist()) == (1, "b.png", [-1])
        assert np.array_equal(
            source.image(0).pixels(), np.asarray(Image.open(classes / "dog" / "b.png").convert("RGB"))
        )


def test_missing_path():
    with pytest.raises(DataError, match="not-here"):
        open_source("folder:not-here")


@pytest.mark.parametrize("spec", ["", "folder:", "tar:", "#train"])
def test_specs_without_a_path(spec):
    with pytest.raises(UsageError, match="has no path"):
        open_source(spec)


def test_every_kind_and_option_is_documented():
    docs = Path(__file__).parents[3] / "docs"
    pages = "".join((docs / name).read_text(encoding="utf-8") for name in PAGES)
    for name, kind in opening.KINDS.items():
        assert re.search(rf"^ +{name}|   {name}:", opening.__doc__, re.MULTILINE), name
        assert f"`{name}:" in pages or f"`{name}`" in pages, name
        for option in kind.options:
            assert f"{option}=" in pages, option
