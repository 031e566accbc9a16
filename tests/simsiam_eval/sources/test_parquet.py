"""Image bytes in Parquet files."""

import io
import json
import os
import pickle
import sys

import numpy as np
import pyarrow
import pytest
import torch
from PIL import Image
from pyarrow import parquet
from torch.utils.data import DataLoader

from simsiam_eval.errors import DataError
from simsiam_eval.extraction.blocks import Blocks, map_blocks
from simsiam_eval.images.opened import UnreadableImage
from simsiam_eval.images.preprocess import Preprocessing
from simsiam_eval.sources.opening import open_source
from simsiam_eval.sources.parquet import ParquetSource

NAMES = ["cat", "dog", "eel"]


def png(value):
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def red(source, row):
    return int(np.asarray(source.image(row))[0, 0, 0])


def write(path, values, names=NAMES, labels=None, **columns):
    """A file as Hugging Face's `datasets` writes it, in row groups of two."""
    images = [{"bytes": None if value is None else png(value), "path": f"{value}.png"} for value in values]
    labels = [value % 3 for value in values] if labels is None else labels
    features = {"image": {"_type": "Image"}}
    if names:
        features["label"] = {"names": names, "_type": "ClassLabel"}
    table = pyarrow.table({"image": images, "label": labels, **columns})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path, row_group_size=2)
    return path


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "set"
    write(root / "data/train-00000-of-00002.parquet", [0, 1, 2])
    write(root / "data/train-00001-of-00002.parquet", [3, 4, 5, 6])
    write(root / "data/test-00000-of-00001.parquet", [7, 8])
    (root / "README.md").touch()
    return root


def test_published_dataset(folder):
    for source in (open_source(f"parquet:{folder}#train"), open_source(str(folder), "train")):
        assert source.labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
        assert source.class_names == tuple(NAMES)
        assert [red(source, row) for row in (6, 0, 3, 2, 5)] == [6, 0, 3, 2, 5]
        assert source.ids_of(range(2, 4)) == [
            "train-00000-of-00002.parquet/00000002",
            "train-00001-of-00002.parquet/00000000",
        ]
    assert red(open_source(f"{folder}#split=test,label=none,id=image.path"), 1) == 8
    assert open_source(f"{folder}#test,id=image.path").ids_of(range(2)) == ["7.png", "8.png"]
    assert len(open_source(f"parquet:{folder}/data/train-{{00000..00001}}-of-00002.parquet")) == 7
    with pytest.raises(DataError, match=r"splits \(test, train\)"):
        open_source(str(folder))
    os.remove(folder / "data/train-00000-of-00002.parquet")
    with pytest.raises(DataError, match="lacks train-00000-of-00002"):
        open_source(f"{folder}#train")


def test_splits_in_file_names_under_any_known_name(tmp_path):
    write(tmp_path / "Training-0.parquet", [0, 1, 2])
    write(tmp_path / "eval-0.parquet", [3])
    assert len(open_source(f"{tmp_path}#train")) == 3
    assert len(open_source(f"parquet:{tmp_path}", "test")) == len(open_source(f"{tmp_path}#eval")) == 1
    assert len(open_source(f"{tmp_path}#split=none")) == 4


def test_plain_columns_of_bytes_and_labels_of_every_type(tmp_path):
    columns = {
        "photo": pyarrow.array([png(5), png(6)], pyarrow.large_binary()),
        "text": ["dog", None],
        "coded": pyarrow.array(["dog", "ant"]).dictionary_encode(),
        "number": pyarrow.array([7, None], pyarrow.int8()),
    }
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table(columns), path)
    assert open_source(str(path)).labels.tolist() == [-1, -1]
    assert open_source(str(path)).id(1) == "a.parquet/00000001"
    for label, numbers, names in (
        ("text", [0, -1], ("dog",)),
        ("coded", [1, 0], ("ant", "dog")),
        ("number", [7, -1], None),
    ):
        source = open_source(f"parquet:{path}#image=photo,label={label}")
        assert (source.labels.tolist(), source.class_names, red(source, 1)) == (numbers, names, 6)


def test_plain_path_is_recognized_by_its_columns(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    parquet.write_table(pyarrow.table({"path": ["a.png"], "label": [3]}), tmp_path / "paths.parquet")
    assert open_source(str(tmp_path / "paths.parquet")).id(0) == "a.png"
    assert red(open_source(str(write(tmp_path / "images.parquet", [9]))), 0) == 9
    with pytest.raises(DataError, match=r"no column of image bytes \(path, label\).*manifest:"):
        open_source(f"parquet:{tmp_path}/paths.parquet")


def test_plain_path_of_split_folders(tmp_path):
    for split, values in {"train": [1, 2], "extra": [3]}.items():
        (tmp_path / "set" / split).mkdir(parents=True)
        write(tmp_path / "set" / split / "0000.parquet", values)
    assert len(open_source(f"{tmp_path}/set#train")) == 2
    with pytest.raises(DataError, match=r"several splits \(extra, train\)"):
        open_source(f"{tmp_path}/set")
    assert len(open_source(f"{tmp_path}/set#split=none")) == 3


def save_to_disk(folder, values, files=1, **columns):
    """As Hugging Face's datasets write: Arrow streams of several batches."""
    folder.mkdir(parents=True)
    for number, part in enumerate(np.array_split(np.array(values), files)):
        images = [{"bytes": png(int(value)), "path": None} for value in part]
        features = {"image": {"_type": "Image"}, "label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
        schema = pyarrow.schema(
            [("image", pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])), ("label", "int64")],
            metadata={"huggingface": json.dumps({"info": {"features": features}})},
        )
        table = pyarrow.table({"image": images, "label": [int(value) % 2 for value in part]}, schema=schema)
        with pyarrow.ipc.new_stream(folder / f"data-{number:05d}-of-{files:05d}.arrow", schema) as stream:
            stream.write_table(table, max_chunksize=2)
    (folder / "state.json").write_text("{}")
    (folder / "dataset_info.json").write_text("{}")


def test_folder_of_save_to_disk(tmp_path):
    save_to_disk(tmp_path / "set", range(7), files=2)
    for spec in (f"{tmp_path}/set", f"parquet:{tmp_path}/set"):
        source = pickle.loads(pickle.dumps(open_source(spec)))
        assert [red(source, row) for row in range(7)] == list(range(7))
        assert source.labels.tolist() == [0, 1, 0, 1, 0, 1, 0]
        assert source.class_names == ("cat", "dog")
        assert source.id(4) == "data-00001-of-00002.arrow/00000000"
    (tmp_path / "set" / "data-00000-of-00002.arrow").unlink()
    with pytest.raises(DataError, match="lacks data-00000-of-00002"):
        open_source(f"{tmp_path}/set")


def test_splits_of_save_to_disk(tmp_path):
    for name, values in {"train": [1, 2, 3], "train_small": [4], "test": [5, 6]}.items():
        save_to_disk(tmp_path / name, values)
    (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "train_small", "test"]}))
    for split, expected in {"train": [1, 2, 3], "train_small": [4], "test": [5, 6]}.items():
        source = open_source(f"{tmp_path}#{split}")
        assert [red(source, row) for row in range(len(source))] == expected
    with pytest.raises(DataError, match=r"several splits \(test, train, train_small\)"):
        open_source(str(tmp_path))
    (tmp_path / "dataset_dict.json").unlink()  # the folders' names say it too
    assert len(open_source(f"parquet:{tmp_path}#test")) == 2


def test_arrow_file_format_and_images_beside_the_table(tmp_path):
    (tmp_path / "a.png").write_bytes(png(9))
    table = pyarrow.table({"image": [{"bytes": None, "path": "a.png"}, {"bytes": None, "path": "gone.png"}]})
    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    table = table.cast(pyarrow.schema([("image", image)]))
    with pyarrow.ipc.new_file(tmp_path / "a.arrow", table.schema) as file:
        file.write_table(table)
    source = open_source(f"{tmp_path}/a.arrow#id=image.path")
    assert (red(source, 0), source.id(1)) == (9, "gone.png")
    with pytest.raises(UnreadableImage, match="no image bytes"):
        source.image(1)
    with pytest.raises(DataError, match="has no column 'text'"):
        open_source(f"{tmp_path}/a.arrow#id=text")


def test_rows_without_an_image(tmp_path):
    source = open_source(str(write(tmp_path / "a.parquet", [1, None, 2], labels=[0, 1, -1])))
    with pytest.raises(UnreadableImage, match="no image bytes"):
        source.image(1)
    assert (red(source, 2), source.labels[2]) == (2, -1)
    parquet.write_table(pyarrow.table({"image": [b"text", b""]}), tmp_path / "b.parquet")
    for row in (0, 1):
        with pytest.raises(UnreadableImage, match="not an image"):
            open_source(str(tmp_path / "b.parquet")).image(row)


def test_images_of_a_damaged_row_group_are_unreadable(tmp_path):
    path = write(tmp_path / "a.parquet", range(8))
    group = parquet.read_metadata(path).row_group(1)
    start, size = (getattr(group.column(0), name) for name in ("dictionary_page_offset", "total_compressed_size"))
    with open(path, "r+b") as file:
        file.seek(start)
        file.write(b"\xff" * size)
    source = open_source(str(path))
    with pytest.raises(UnreadableImage, match="cannot be read"):
        source.image(2)
    assert (red(source, 1), red(source, 4)) == (1, 4)
    assert source.fingerprint()


def test_damaged_labels(tmp_path):
    path = write(tmp_path / "a.parquet", range(8))
    column = parquet.read_metadata(path).row_group(1).column(2)
    with open(path, "r+b") as file:
        file.seek(column.dictionary_page_offset)
        file.write(b"\xff" * column.total_compressed_size)
    with pytest.raises(DataError, match="damaged"):
        open_source(str(path))


class Rows:
    def __init__(self, source):
        self.source = source

    def __len__(self):
        return len(self.source)

    def __getitem__(self, row):
        return red(self.source, row)


def test_workers_open_their_own_files(folder):
    source = open_source(f"{folder}#train")
    source.image(3)
    assert list(DataLoader(Rows(source), batch_size=None, num_workers=2)) == list(range(7))
    assert red(pickle.loads(pickle.dumps(source)), 4) == 4


def test_files_without_rows_among_others(tmp_path):
    write(tmp_path / "b.parquet", [1, 2, 3])
    for name in ("a", "c"):
        parquet.write_table(parquet.read_table(tmp_path / "b.parquet")[:0], tmp_path / f"{name}.parquet")
    source = open_source(f"parquet:{tmp_path}")
    assert [red(source, row) for row in range(3)] == [1, 2, 3]
    assert source.id(0) == "b.parquet/00000000"
    with pytest.raises(DataError, match="no rows"):
        open_source(f"parquet:{tmp_path}/a.parquet")


def test_fingerprint_follows_content_and_labels_not_path_or_row_groups(folder, tmp_path):
    fingerprint = open_source(f"{folder}#test").fingerprint()
    assert open_source(f"{folder}#test,label=none").fingerprint() != fingerprint
    copy = tmp_path / "copy/test-00000-of-00001.parquet"
    copy.parent.mkdir()
    parquet.write_table(parquet.read_table(folder / "data/test-00000-of-00001.parquet"), copy)
    assert open_source(f"{copy.parent}#test").fingerprint() == fingerprint
    write(copy, [7, 9], labels=[1, 2])
    assert open_source(f"{copy.parent}#test").fingerprint() != fingerprint


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("#label=species", "no column 'species'; expected one of image, label"),
        ("#image=photo", "no column 'photo'"),
        ("#image=label", "'label' of .* contains int64; expected image bytes"),
        ("#id=name", "no column 'name'"),
        ("#id=image.name", "no column 'image.name'"),
        ("#label=score", "score.* label 0.5; expected whole numbers"),
        ("#label=low", "the label -2"),
        ("#split=train", "has no splits; remove #train"),
    ],
)
def test_rejected_options(tmp_path, options, message):
    path = write(tmp_path / "a.parquet", [1, 2], score=[0.5, 1.0], low=[0, -2])
    with pytest.raises(DataError, match=message):
        open_source(f"parquet:{path}{options}")


def test_rejected_files(tmp_path):
    path = tmp_path / "a.parquet"

    def assert_rejected(message, spec=f"parquet:{tmp_path}"):
        with pytest.raises(DataError, match=message):
            open_source(spec)

    assert_rejected("no .parquet or .arrow files")
    (tmp_path / "data-00000-of-00001.arrow").touch()
    assert_rejected("data-00000-of-00001.arrow is not an Arrow file")
    assert_rejected("data-00000-of-00001.arrow is not an Arrow file", str(tmp_path))
    write(path, [1])
    assert_rejected("both .parquet and .arrow files")
    (tmp_path / "data-00000-of-00001.arrow").unlink()
    path.write_bytes(b"PAR1 text")
    assert_rejected("a.parquet is not a Parquet file")
    assert_rejected("a.parquet is not a Parquet file", str(path))
    whole = write(path, [1, 2]).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert_rejected("a.parquet is not a Parquet file")
    write(path, [1, 2], labels=[0, 3])
    assert_rejected("label 3, but there are only 3 class names")
    write(path, [1, 2])
    write(tmp_path / "b.parquet", [1, 2], names=["x", "y", "z"])
    assert_rejected("b.parquet and .*a.parquet differ")
    parquet.write_table(pyarrow.table({"one": [b"x"], "two": [b"y"]}), path)
    assert_rejected("several columns of bytes", str(path))
    features = {name: {"names": NAMES, "_type": "ClassLabel"} for name in ("fine", "coarse")}
    table = pyarrow.table({"img": [png(1)], "fine": [0], "coarse": [1]})
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    parquet.write_table(table.replace_schema_metadata(metadata), path)
    assert_rejected(r"columns of labels \(fine, coarse\).*#label=", str(path))
    assert open_source(f"{path}#label=coarse").class_names == tuple(NAMES)


def test_without_pyarrow(tmp_path, monkeypatch):
    path = write(tmp_path / "a.parquet", [1])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for spec in (path, f"parquet:{path}"):
        with pytest.raises(DataError, match=r"require pyarrow: pip install pyarrow"):
            open_source(str(spec))


def test_blocks_read_in_parallel_read_each_row_group_once(tmp_path, monkeypatch):
    file = write(tmp_path / "a.parquet", range(240))
    read, real = [], ParquetSource._read_group
    monkeypatch.setattr(ParquetSource, "_read_group", lambda source, group: read.append(group) or real(source, group))
    source = open_source(f"parquet:{file}")
    blocks = Blocks(source, Preprocessing(8, 8), range(240), range(0, 240, 8), 8, 0, True, 0)
    before = torch.get_num_threads()
    torch.set_num_threads(8)
    reasons = list(map_blocks(blocks, lambda block: block.reasons))
    torch.set_num_threads(before)
    assert reasons == [{}] * 30
    assert sorted(read) == list(range(120))


def test_a_column_names_the_splits(tmp_path):
    path = write(tmp_path / "a.parquet", [0, 1, 2, 1], split=["train", "test", "train", None])
    with pytest.raises(DataError, match=r"several splits \(test, train\).*'split' names the splits; #split=none reads"):
        open_source(f"parquet:{path}")
    train = open_source(f"parquet:{path}", "train")
    assert (train.labels.tolist(), [train.id(row) for row in range(2)]) == (
        [0, 2],
        ["a.parquet/00000000", "a.parquet/00000002"],
    )
    every = open_source(f"parquet:{path}#split=none")
    assert len(every) == 4
    assert red(train, 1) == red(every, 2) == 2
    assert train.fingerprint() != open_source(f"parquet:{path}", "test").fingerprint()


def test_the_split_in_the_name_of_a_file(tmp_path):
    path = write(tmp_path / "train.parquet", [1, 2])
    assert len(open_source(f"parquet:{path}#train")) == 2
    with pytest.raises(DataError, match="no split 'test'; expected one of train"):
        open_source(f"parquet:{path}#test")


def test_several_configurations_of_the_hub(tmp_path):
    for name in ("full", "small"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "train-00000-of-00001.parquet", [1, 2])
    with pytest.raises(
        DataError, match=r"several data sets with the file train-0.*\(full, small\); add one to the path"
    ):
        open_source(f"parquet:{tmp_path}#train")
    assert len(open_source(f"{tmp_path}/small#train")) == 2


def test_the_cache_beside_saved_files_is_not_read(tmp_path):
    table = pyarrow.table({"image": [png(0)], "label": [0]})
    for name in ("data-00000-of-00001", "cache-0123456789abcdef", "other"):
        with pyarrow.ipc.new_stream(tmp_path / f"{name}.arrow", table.schema) as stream:
            stream.write_table(table)
    state = tmp_path / "state.json"
    state.write_text('{"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}')
    assert len(open_source(tmp_path)) == 1
    state.write_text('{"_data_files": [{"filename": "data-00001-of-00002.arrow"}]}')
    with pytest.raises(DataError, match=r"lacks data-00001-of-00002\.arrow"):
        open_source(tmp_path)
