"""Image folders with a table, as on Hugging Face's Hub."""

import json

import pyarrow
import pytest
from pyarrow import parquet

from simsiam_eval.errors import DataError
from simsiam_eval.sources.opening import open_source

ROWS = [("a.png", "cat"), ("sub/b.png", "dog"), ("c.png", None)]


def write_table(folder, ending, rows=ROWS):
    folder.mkdir(parents=True, exist_ok=True)
    names, labels = zip(*rows, strict=True)
    table = {"file_name": list(names), "label": list(labels), "text": ["x"] * len(rows)}
    path = folder / f"metadata.{ending}"
    if ending == "parquet":
        parquet.write_table(pyarrow.table(table), path)
    elif ending == "jsonl":
        lines = [dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    else:
        lines = [",".join(value or "" for value in values) for values in zip(*table.values(), strict=True)]
        path.write_text("\n".join([",".join(table), *lines]))


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_table_in_the_folder(tmp_path, write_image, ending):
    for value, (name, _) in enumerate(ROWS):
        write_image(tmp_path / name, value)
    write_table(tmp_path, ending)
    for spec in (str(tmp_path), f"imagefolder:{tmp_path}", f"manifest:{tmp_path}/metadata.{ending}"):
        source = open_source(spec)
        assert source.ids_of(range(3)) == ["a.png", "sub/b.png", "c.png"]
        assert (source.labels.tolist(), source.class_names) == ([0, 1, -1], ("cat", "dog"))
        assert source.image(1).pixels().max() == 1
    assert open_source(f"{tmp_path}#label=text").class_names == ("x",)
    assert open_source(f"{tmp_path}#label=none").labels.tolist() == [-1] * 3
    with pytest.raises(DataError, match="has no column 'breed'"):
        open_source(f"{tmp_path}#label=breed")


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_splits(tmp_path, write_image, ending):
    for split, value in (("train", 1), ("test", 2)):
        for name, _ in ROWS:
            write_image(tmp_path / "one" / split / name, value)
            write_image(tmp_path / "each" / "data" / name, value)
            write_image(tmp_path / "each" / split / name, value)
        write_table(tmp_path / "each" / split, ending)
    rows = [(f"{split}/{name}", label) for split in ("train", "test") for name, label in ROWS]
    write_table(tmp_path / "one", ending, rows)
    for folder in ("one", "each"):
        source = open_source(f"{tmp_path}/{folder}", "test")
        assert (len(source), source.class_names, source.image(2).pixels().max()) == (3, ("cat", "dog"), 2)
        with pytest.raises(DataError, match=r"several splits \(test, train\)"):
            open_source(f"{tmp_path}/{folder}")
    assert len(open_source(f"{tmp_path}/one#split=none")) == 6


def test_rejected_tables(tmp_path, write_image):
    write_image(tmp_path / "a.png", 1)
    write_table(tmp_path, "csv")
    write_table(tmp_path, "jsonl")
    with pytest.raises(DataError, match=r"has metadata.csv and metadata.jsonl; remove all but one"):
        open_source(str(tmp_path))
    (tmp_path / "metadata.csv").unlink()
    for line, message in (("[1]", "line 2: expected a JSON object"), ("{", "line 2: not JSON"),
                          ('{"file_name": ["a.png"]}', "line 2: expected a path and a label")):  # fmt: skip
        (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png"}\n' + line)
        with pytest.raises(DataError, match=message):
            open_source(str(tmp_path))
    (tmp_path / "metadata.jsonl").write_text("{}")  # without file names it is no table of images
    assert len(open_source(str(tmp_path))) == 1
