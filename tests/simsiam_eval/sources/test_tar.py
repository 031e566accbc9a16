"""Tar files: WebDataset shards and archives of folders."""

import gzip
import io
import json
import os
import pickle
import tarfile

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from simsiam_eval.errors import DataError
from simsiam_eval.images.opened import UnreadableImage
from simsiam_eval.sources import tar_index
from simsiam_eval.sources.opening import open_source


def png(value):
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def pack(path, members):
    """Write members, (name, content), in order; a number stands for an image of that red."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            content = png(content) if isinstance(content, int) else content.encode()
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def red(source, row):
    return int(np.asarray(source.image(row))[0, 0, 0])


@pytest.fixture
def shards(tmp_path):
    """Two shards of a training set and one of a validation set, with labels in .cls and .json."""
    folder = tmp_path / "shards"
    number = 0
    for name in ("train-0000", "train-0001", "val-0000"):
        members = []
        for _ in range(3):
            members += [
                (f"{number:04d}.jpg", number),
                (f"{number:04d}.cls", str(number % 2)),
                (f"{number:04d}.json", json.dumps({"species": "abc"[number % 3], "size": [1], "depth": None})),
                (f"{number:04d}.txt", f"caption {number}"),
            ]
            number += 1
        pack(folder / f"{name}.tar", members)
    return folder


def test_shards_in_order_with_labels(shards):
    source = open_source(f"tar:{shards}/train-{{0000..0001}}.tar")
    assert source.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert source.class_names is None
    assert source.ids_of(range(2, 4)) == ["train-0000.tar/0002.jpg", "train-0001.tar/0003.jpg"]
    assert [red(source, row) for row in (5, 0, 3)] == [5, 0, 3]
    other = open_source(f"{shards}/train-*.tar#label=species")
    assert other.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert other.class_names == ("a", "b", "c")
    assert open_source(f"tar:{shards}/train-0000.tar#label=txt").class_names[1] == "caption 1"
    assert open_source(f"tar:{shards}/train-0000.tar#label=none").labels.tolist() == [-1] * 3
    assert open_source(f"tar:{shards}/train-0000.tar").id(0) == "0000.jpg"


def test_splits_of_a_folder_of_shards(shards):
    assert len(open_source(f"tar:{shards}#train")) == len(open_source(str(shards), "train")) == 6
    assert red(open_source(f"{shards}#split=validation"), 0) == 6
    with pytest.raises(DataError, match="splits"):
        open_source(f"tar:{shards}")
    assert len(open_source(f"tar:{shards}#split=none")) == 9
    os.rename(shards / "val-0000.tar", shards / "rest.tar")
    with pytest.raises(DataError, match=r"no split 'test'; expected one of rest, train"):
        open_source(f"tar:{shards}", "test")
    assert len(open_source(f"tar:{shards}#rest")) == 3


def tree(tmp_path, prefix=""):
    names = [f"{split}/{name}" for split in ("train", "val") for name in ("cat/a.png", "cat/x/b.png", "dog/a.1.png")]
    return pack(tmp_path / "tree.tar", [(prefix + name, value) for value, name in enumerate(names)])


@pytest.mark.parametrize("prefix", ["", "./", "data/set/"])
def test_archive_of_class_folders_equals_the_folder(tmp_path, prefix):
    archive = tree(tmp_path, prefix)
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path / "unpacked", filter="data")
    folder = open_source(f"folder:{tmp_path}/unpacked/{prefix}val")
    for source in (open_source(f"tar:{archive}#val"), open_source(f"{archive}#folder={prefix.strip('./')}/val")):
        assert source.labels.tolist() == [0, 0, 1]
        assert source.class_names == ("cat", "dog")
        assert source.ids_of(range(3)) == ["cat/a.png", "cat/x/b.png", "dog/a.1.png"]
        assert source.fingerprint() == folder.fingerprint()
        assert red(source, 2) == 5
    assert red(open_source(str(archive), "train"), 0) == 0
    with pytest.raises(DataError, match=r"splits \(train, val\)"):
        open_source(str(archive))
    with pytest.raises(DataError, match="no images in the folder nowhere"):
        open_source(f"{archive}#folder=nowhere")


@pytest.mark.parametrize(("train", "test"), [("Train", "Test"), ("training", "testing"), ("seg_train", "seg_test")])
@pytest.mark.parametrize("prefix", ["", "data/", "dev/"])
def test_split_folders_under_any_known_name(tmp_path, train, test, prefix):
    names = [f"{prefix}{split}/{name}/a.png" for split in (train, test) for name in ("cat", "dog")]
    archive = pack(tmp_path / "tree.tar", [(name, value) for value, name in enumerate(names)])
    for spec, default, first in (
        (f"{archive}#train", None, 0),
        (str(archive), "test", 2),
        (f"{archive}#{test}", None, 2),
    ):
        source = open_source(spec, default)
        assert (source.class_names, source.id(0), red(source, 0)) == (("cat", "dog"), "cat/a.png", first)
    with pytest.raises(DataError, match=rf"several splits \({min(train, test)}, {max(train, test)}\)"):
        open_source(str(archive))
    assert open_source(f"{archive}#split=none").class_names == (min(train, test), max(train, test))


def test_split_folder_inside_a_folder_of_the_same_name(tmp_path):
    names = ["seg_train/seg_train/cat/a.png", "seg_train/seg_train/dog/a.png", "seg_test/seg_test/cat/a.png"]
    archive = pack(tmp_path / "tree.tar", [(name, value) for value, name in enumerate(names)])
    assert open_source(f"{archive}#train").class_names == ("cat", "dog")
    assert open_source(f"{archive}#test").id(0) == "cat/a.png"


def test_folders_that_can_be_splits_or_classes(tmp_path):
    names = [f"{domain}/{name}/a.png" for domain in ("photo", "sketch") for name in ("cat", "dog")]
    archive = pack(tmp_path / "tree.tar", [(name, value) for value, name in enumerate(names)])
    with pytest.raises(DataError, match=r"two ways: as splits \(photo, sketch\) or as 2 classes"):
        open_source(str(archive))
    assert open_source(f"{archive}#sketch").class_names == ("cat", "dog")
    assert open_source(f"{archive}#split=none").class_names == ("photo", "sketch")


def test_flat_archives_have_no_labels(tmp_path):
    source = open_source(str(pack(tmp_path / "a.tar", [("x/1.png", 1), ("x/2.PNG", 2), ("x/._2.png", "mac")])))
    assert source.labels.tolist() == [-1, -1]
    assert source.ids_of(range(2)) == ["1.png", "2.PNG"]
    with pytest.raises(DataError, match="no splits"):
        open_source(f"{tmp_path}/a.tar#train")


def test_sample_with_several_images(tmp_path):
    members = [("1.left.png", 1), ("1.right.png", 2), ("1.cls", "cat")]
    pack(tmp_path / "a.tar", members)
    with pytest.raises(DataError, match=r"sample 1 .*two images.*#image=left.png"):
        open_source(f"tar:{tmp_path}/a.tar")
    source = open_source(f"tar:{tmp_path}/a.tar#image=right.png")
    assert (len(source), red(source, 0), source.class_names) == (1, 2, ("cat",))


def test_samples_without_a_label(tmp_path):
    pack(tmp_path / "a.tar", [("1.png", 1), ("2.cls", "cat"), ("2.png", 2), ("3.cls", "")])
    assert open_source(f"tar:{tmp_path}/a.tar").labels.tolist() == [-1, 0]


class Rows:
    def __init__(self, source):
        self.source = source

    def __len__(self):
        return len(self.source)

    def __getitem__(self, row):
        return red(self.source, row), os.getpid()


def test_workers_open_their_own_shards(shards):
    source = open_source(f"tar:{shards}#train")
    assert red(source, 5) == 5
    rows = list(DataLoader(Rows(source), batch_size=None, num_workers=2))
    assert [value for value, _ in rows] == list(range(6))
    assert len({process for _, process in rows}) == 2
    assert red(pickle.loads(pickle.dumps(source)), 4) == 4


def test_headers_are_read_once(shards, monkeypatch):
    first = open_source(f"tar:{shards}#train")
    read_shards = []
    members = tar_index._members
    monkeypatch.setattr(tar_index, "_members", lambda shard: read_shards.append(shard) or members(shard))
    again = open_source(f"tar:{shards}#train")
    assert read_shards == []
    assert again.ids_of(range(6)) == first.ids_of(range(6))
    pack(shards / "train-0001.tar", [("9.png", 9), ("9.cls", "1")])
    changed = open_source(f"tar:{shards}#train")
    assert (len(changed), red(changed, 3), len(read_shards)) == (4, 9, 2)
    assert changed.fingerprint() != first.fingerprint()


def test_fingerprint_follows_content_labels_and_order_not_path(shards, tmp_path):
    fingerprint = open_source(f"tar:{shards}/train-{{0000..0001}}.tar").fingerprint()
    os.rename(shards, tmp_path / "elsewhere")
    shards = tmp_path / "elsewhere"
    assert open_source(f"tar:{shards}/train-{{0000..0001}}.tar").fingerprint() == fingerprint
    assert open_source(f"tar:{shards}/train-{{0001..0000}}.tar").fingerprint() != fingerprint
    assert open_source(f"tar:{shards}/train-{{0000..0001}}.tar#label=species").fingerprint() != fingerprint


def test_unreadable_images_and_changed_shards(tmp_path):
    path = pack(tmp_path / "a.tar", [("1.png", "text"), ("2.png", ""), ("3.png", 3)])
    source = open_source(str(path))
    for row, message in ((0, "not an image"), (1, "empty")):
        with pytest.raises(UnreadableImage, match=message):
            source.image(row)
    os.truncate(path, 2060)
    with pytest.raises(UnreadableImage, match="shorter"):
        source.image(2)
    os.remove(path)
    with pytest.raises(UnreadableImage, match="no such file"):
        pickle.loads(pickle.dumps(source)).image(2)


def test_rejected_archives(tmp_path):
    whole = pack(tmp_path / "a.tar", [("1.png", 1), ("2.png", 2)]).read_bytes()

    def assert_rejected(content, message, name="b.tar"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=message) as caught:
            open_source(f"tar:{tmp_path / name}")
        assert name in str(caught.value)

    assert_rejected(gzip.compress(whole), "compressed.*gzip -d", "b.tar.gz")
    assert_rejected(gzip.compress(whole), "compressed.*gzip -d")
    assert_rejected(b"", "truncated or not a tar")
    assert_rejected(b"text" * 300, "truncated or not a tar")
    assert_rejected(whole[:600], "truncated or not a tar")  # in an image
    assert_rejected(whole[:2048], "truncated")  # between a header and the end mark
    assert_rejected(whole[:1024] + b"x" * 512 + whole[1536:], "damaged at byte 1024")
    assert_rejected(whole + whole, "concatenated")
    assert_rejected(whole[:2048] + whole, "b.tar contains 1.png twice")


def test_rejected_contents(tmp_path):
    def assert_rejected(members, message, options=""):
        path = pack(tmp_path / "b.tar", members)
        with pytest.raises(DataError, match=message):
            open_source(f"tar:{path}{options}")
        path.unlink()

    assert_rejected([("1.png", 1), ("1.png", 2)], "contains 1.png twice")
    assert_rejected([("a.txt", "x")], "no images")
    assert_rejected([("1.png", 1)], r"no images ending in \.x", "#image=x")
    assert_rejected([("1.png", 1), ("cat/2.png", 2)], "next to class folders.*#label=none")
    assert_rejected([("1.png", 1), ("1.cls", "3")], "#folder requires class folders", "#folder=x")
    assert_rejected([("1.png", 1)], "no .cls members", "#label=cls")
    assert_rejected([("1.png", 1), ("1.json", '{"kind": 1}')], r"key 'species' \(keys: kind\)", "#label=species")
    assert_rejected([("1.png", 1)], "there are no .json", "#label=species")
    assert_rejected([("1.png", 1), ("1.json", "{")], "1.json in .*not JSON", "#label=species")
    assert_rejected([("1.png", 1), ("1.json", "[]")], "not a JSON object", "#label=species")
    assert_rejected([("1.png", 1), ("1.json", '{"species": [1]}')], "is a list; expected a label", "#label=species")


def test_links_are_rejected(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "1.png")
    os.link(tmp_path / "1.png", tmp_path / "2.png")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(tmp_path / "1.png", "1.png")
        archive.add(tmp_path / "2.png", "2.png")
    with pytest.raises(DataError, match=r"2.png in .* is a link.*hard-dereference"):
        open_source(str(tmp_path / "a.tar"))


def test_folders_without_shards_are_rejected(tmp_path):
    with pytest.raises(DataError, match=r"no \.tar files"):
        open_source(f"tar:{tmp_path}")
    (tmp_path / "a.tgz").write_bytes(gzip.compress(b"x"))
    with pytest.raises(DataError, match="compressed"):
        open_source(f"tar:{tmp_path}")


def test_shards_in_the_folders_of_splits(tmp_path):
    pack(tmp_path / "Train Set" / "0.tar", [("a.png", 1)])
    pack(tmp_path / "Test Set" / "0.tar", [("b.png", 2), ("c.png", 3)])
    with pytest.raises(DataError, match="has several splits"):
        open_source(tmp_path)
    assert len(open_source(f"{tmp_path}#train")) == 1
    assert len(open_source(f"{tmp_path}#test")) == 2


def test_hint_on_pairs_in_a_split_names_the_whole_folder(tmp_path):
    names = [f"{split}/{kind}/{name}.png" for split in ("train", "test") for kind in "ab" for name in "xy"]
    path = pack(tmp_path / "a.tar", [(name, number) for number, name in enumerate(names)])
    [note] = open_source(f"{path}#train").notes
    assert note.endswith(f"give {path}#folder=train/a")
    assert len(open_source(f"{path}#folder=train/a")) == 2


def test_shards_without_a_split_in_their_names_are_said(shards, capsys):
    os.rename(shards / "val-0000.tar", shards / "others.tar")
    open_source(f"tar:{shards}", "train")
    assert "not read, as the name says no split: others.tar (choose with #others)" in capsys.readouterr().err
