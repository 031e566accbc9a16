"""Patterns and splits."""

from pathlib import Path

import pytest

from simsiam_eval.errors import DataError, UsageError
from simsiam_eval.sources.shards import by_split, files_of, names_of


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_ranges_lists_and_wildcards(tmp_path):
    touch(tmp_path, *(f"train-{number:04d}.tar" for number in range(8, 12)), "x/a.tar", "y/a.tar")

    def names(pattern):
        return [file.relative_to(tmp_path).as_posix() for file in files_of(tmp_path / pattern, "spec")]

    assert names("train-{0009..0011}.tar") == ["train-0009.tar", "train-0010.tar", "train-0011.tar"]
    assert names("train-00{11..10}.tar") == ["train-0011.tar", "train-0010.tar"]
    assert names("{y,x}/a.tar") == ["y/a.tar", "x/a.tar"]
    assert names("*-001?.tar") == ["train-0010.tar", "train-0011.tar"]
    touch(tmp_path, "odd{1..2}.tar")
    assert names("odd{1..2}.tar") == ["odd{1..2}.tar"]


def test_missing_files(tmp_path):
    touch(tmp_path, "t-0.tar", "t-2.tar")
    with pytest.raises(DataError, match=r"t-1.tar does not exist \(1 of 3 files"):
        files_of(tmp_path / "t-{0..2}.tar", "spec")
    with pytest.raises(DataError, match=r"No file matches .*u-"):
        files_of(tmp_path / "u-*.tar", "spec")
    with pytest.raises(UsageError, match="more than"):
        files_of(tmp_path / "{0..9999999}.tar", "spec")


def test_names_are_short_and_distinct(tmp_path):
    assert names_of([tmp_path / "x/a.tar", tmp_path / "y/a.tar"]) == ["x/a.tar", "y/a.tar"]
    assert names_of([tmp_path / "x/a.tar", tmp_path / "x/b.tar"]) == ["a.tar", "b.tar"]


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["train-0.tar", "train-1.tar", "val-0.tar"], {"train": 2, "val": 1}),
        (["imagenet1k-train-0000.tar", "imagenet1k-validation-00.tar"], {"train": 1, "validation": 1}),
        (["train_small-00000-of-00001.parquet", "test-00000-of-00001.parquet"], {"train_small": 1, "test": 1}),
        (["data/train/0000.parquet", "data/test/0000.parquet"], {"train": 1, "test": 1}),
        (["Training-0.tar", "EVAL_0.tar"], {"training": 1, "eval": 1}),
        (["train-0.tar", "more-0.tar", "more-1.tar"], {"train": 1, "more": 2}),
        (["train/0.parquet", "extra/0.parquet", "extra/1.parquet"], {"train": 1, "extra": 2}),
        (["query/0.parquet", "gallery/0.parquet"], {"query": 1, "gallery": 1}),
        (["train/data-00000-of-00001.arrow", "test/data-00000-of-00001.arrow"], {"train": 1, "test": 1}),
        (["data-00000-of-00001.arrow"], {}),
        (["data/0.parquet", "data/1.parquet"], {}),
        (["trains-0.tar", "contest.tar"], {}),
    ],
)
def test_splits_in_file_names(names, splits):
    groups = by_split(Path("d"), [Path("d") / name for name in names])
    assert {split: len(files) for split, files in groups.items()} == splits


def test_missing_file_of_a_numbered_set():
    names = ["train-00000-of-00003.parquet", "train-00002-of-00003.parquet"]
    with pytest.raises(DataError, match="d lacks train-00001-of-00003"):
        by_split(Path("d"), [Path("d") / name for name in names])
