"""Tables of paths and labels."""

import json

import pytest
from PIL import Image

from simsiam_eval.errors import DataError, UsageError
from simsiam_eval.images.opened import UnreadableImage
from simsiam_eval.sources.opening import open_source


def test_columns_paths_and_labels(classes):
    table = classes / "list.csv"
    table.write_text("\ufefffile,species\ncat/a.png,tabby\ndog/b.png,\ngone.png,beagle\n", encoding="utf-8")
    source = open_source(f"manifest:{table}#path=file,label=species")
    assert source.class_names == ("beagle", "tabby")
    assert source.labels.tolist() == [1, -1, 0]
    assert source.image(0).pixels().max() == 1
    with pytest.raises(UnreadableImage, match="no such file"):
        source.image(2)
    with pytest.raises(DataError, match="species"):
        open_source(str(table))


def test_integer_labels_are_kept_in_tsv_and_parquet(classes):
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"path": ["dog/b.png"], "label": [7]}), classes / "list.parquet")
    (classes / "list.tsv").write_text("path\tlabel\ndog/b.png\t7\n")
    for name in ("list.parquet", "list.tsv"):
        source = open_source(str(classes / name))
        assert (source.labels.tolist(), source.class_names, source.id(0)) == ([7], None, "dog/b.png")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("path\n", "no rows"),
        ("path,label\na\n", "row 1"),
        ("path\na\n''\n\"\"\n", "row 3: the path is empty"),
        ("path\na.png\nb.png\n", r"None of the first 2 images .*a\.png"),
    ],
)
def test_rejected_manifests(tmp_path, text, message):
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        open_source(str(tmp_path / "list.csv"))


def test_number_sign_in_folder_name_with_options(tmp_path):
    folder = tmp_path / "a#b, 1"
    folder.mkdir()
    Image.new("RGB", (4, 4)).save(folder / "x.png")
    (folder / "m.csv").write_text("path,kind\nx.png,cat\n")
    for spec in (f"manifest:{folder}/m.csv#label=kind", f"{folder}/m.csv#path=path,label=kind"):
        assert open_source(spec).class_names == ("cat",)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("name", ["list.csv", "list.tsv"])
def test_separators_and_encodings(classes, separator, encoding, name):
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    text = f'{mark}"Path";"Label"\r\n"cat/a.png";"caf\u00e9"\r\n'.replace(";", separator)
    (classes / name).write_bytes(text.encode(encoding))
    source = open_source(str(classes / name))
    assert (source.id(0), source.class_names) == ("cat/a.png", ("caf\u00e9",))


def test_line_for_excel(classes):
    (classes / "list.csv").write_text("sep=;\npath;label\ncat/a.png;x\n")
    assert open_source(str(classes / "list.csv")).class_names == ("x",)


@pytest.mark.parametrize(
    ("header", "options", "says"),
    [
        (
            "file;label",
            "",
            r"no column 'path'; its columns, separated by semicolons, are 'file', 'label'.*#path=COLUMN",
        ),
        ("file\tlabel", "", "separated by tabs, are 'file', 'label'"),
        ("file", "", r"no column 'path'; its columns are 'file'\. Name"),
        ("path,kind", "#label=species", r"no column 'species'.*separated by commas, are 'path', 'kind'.*#label=COLUMN"),
        ("path;x|path", "", "separated by semicolons or vertical bars"),
    ],
)
def test_missing_columns(tmp_path, header, options, says):
    (tmp_path / "list.csv").write_text(f"{header}\na.png,1\n")
    with pytest.raises(DataError, match=says):
        open_source(f"{tmp_path}/list.csv{options}")


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_column_names_the_splits(classes, ending):
    import pyarrow
    from pyarrow import parquet

    rows = {"path": ["cat/a.png", "dog/b.png", "x.png"], "label": ["a", "b", "c"], "Split": ["train", "dev", ""]}
    table = pyarrow.table(rows)
    path = classes / f"table.{ending}"
    if ending == "parquet":
        parquet.write_table(table, path)
    elif ending == "jsonl":
        path.write_text("".join(f"{json.dumps(row)}\n" for row in table.to_pylist()))
    else:
        path.write_text("\n".join([",".join(rows), *(",".join(row.values()) for row in table.to_pylist())]))
    with pytest.raises(DataError, match=r"several splits \(dev, train\).*'Split' names the splits; #split=none reads"):
        open_source(path)
    for spec, default, expected in (
        (f"{path}#train", None, ["cat/a.png"]),
        (f"{path}#val", None, ["dog/b.png"]),
        (path, "train", ["cat/a.png"]),
        (f"{path}#split=none", "train", rows["path"]),
    ):
        source = open_source(spec, default)
        assert [source.id(row) for row in range(len(source))] == expected
    with pytest.raises(DataError, match="no split 'test'"):
        open_source(path, "test")


@pytest.mark.parametrize(
    ("header", "cells", "splits"),
    [
        ("partition", ["0", "1"], True),
        ("set", ["train", "val"], True),
        ("set", ["red", "blue"], False),
        ("fold", ["1", "2"], False),
        ("split", ["", ""], False),
    ],
)
def test_columns_that_may_name_splits(classes, header, cells, splits):
    path = classes / "table.csv"
    path.write_text(f"path,{header}\ncat/a.png,{cells[0]}\ndog/b.png,{cells[1]}\n")
    if splits:
        with pytest.raises(DataError, match="several splits"):
            open_source(path)
    else:
        assert len(open_source(path)) == 2
        with pytest.raises(DataError, match="has no splits; remove #train"):
            open_source(f"{path}#train")


def test_a_column_of_lists_has_no_labels(classes):
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"path": ["dog/b.png"], "label": [[1, 2]]}), classes / "list.parquet")
    with pytest.raises(
        DataError, match=r"'label' of .*list\.parquet contains list<.*; expected whole numbers or strings"
    ):
        open_source(classes / "list.parquet")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"path,label,label\na.png,cat,x\n", "has 2 columns called 'label'; rename all but one"),
        ("a.csv", b"path,path\na.png,x\n", "has 2 columns called 'path'"),
        ("a.csv", b"a.png,cat\nb.png,dog\n", "has no header line: its first line contains 'a.png'.*path,label"),
        (
            "a.csv",
            "path,label\na.png,x\nb.png,caf\u00e9\n".encode("latin-1"),
            r"line 3: b'b.png,caf\\xe9' is not UTF-8",
        ),
        ("a.csv", b"path,label\na.png,x\npath,label\nb.png,y\n", "row 2: the header line is repeated"),
        ("a.jsonl", b'{"path": "a.png"}\n\n{"path": oops}\n', "line 3: not JSON .expecting value at column 10"),
        ("a.jsonl", b'{"path": "a.png", "path": "b.png"}\n', "line 1: the key 'path' occurs twice"),
        ("a.jsonl", '{"path": "a.png"}\n{"path": "\u00e9"}\n'.encode("latin-1"), r"line 2: b'.*\\xe9\"}' is not UTF-8"),
        ("a.jsonl", b"[1]\n", "line 1: expected a JSON object, got list"),
    ],
)
def test_malformed_tables_are_said_with_the_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_source(tmp_path / name)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_encodings_without_a_mark(classes, encoding):
    (classes / "list.csv").write_bytes("path,label\ncat/a.png,caf\u00e9\n".encode(encoding))
    assert open_source(classes / "list.csv").class_names == ("caf\u00e9",)


@pytest.mark.parametrize(
    "text",
    ["path,\ufefflabel\ncat/a.png,x\ndog/b.png,y\n", '\ufeffpath,label\ncat/a.png,x\n\ufeff"dog/b.png",y\n'],
)
def test_byte_order_marks_inside(classes, text):
    (classes / "list.csv").write_text(text, encoding="utf-8")
    source = open_source(classes / "list.csv")
    assert (source.ids_of(range(2)), source.labels.tolist()) == (["cat/a.png", "dog/b.png"], [0, 1])


def test_a_table_without_the_column_label_names_the_others(classes, capsys):
    (classes / "list.csv").write_text("path,species,split\ncat/a.png,tabby,train\n")
    source = open_source(f"{classes}/list.csv#train")
    assert source.notes == ["no column 'label', so there are no labels; name one of 'species' with #label=COLUMN"]
    assert "#label=COLUMN" in capsys.readouterr().err
    (classes / "paths.csv").write_text("path\ncat/a.png\n")
    assert open_source(classes / "paths.csv").notes == []


def test_options_without_a_value(classes):
    (classes / "list.csv").write_text("path\ncat/a.png\n")
    with pytest.raises(UsageError, match=r"#path= has no value"):
        open_source(f"{classes}/list.csv#path=")
