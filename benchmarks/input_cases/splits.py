"""Splits by many names, in every kind of source: never classes, never mixed in silence."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pyarrow
from PIL import Image
from pyarrow import parquet

from input_cases.case import Case, difference
from simsiam_eval.errors import DataError
from simsiam_eval.sources.opening import open_source

# Name of a layout -> its split folders; those that #train and #test select (None: there is none).
LAYOUTS: dict[str, tuple[list[str], str | None, str | None]] = {
    "Train, Test": (["Train", "Test"], "Train", "Test"),
    "training, testing": (["training", "testing"], "training", "testing"),
    "TRAIN, EVAL": (["TRAIN", "EVAL"], "TRAIN", "EVAL"),
    "train, dev": (["train", "dev"], "train", None),
    "seg_train, seg_test, seg_pred": (["seg_train", "seg_test", "seg_pred"], "seg_train", "seg_test"),
    "train, test, extra": (["train", "test", "extra"], "train", "test"),
    "train, holdout": (["train", "holdout"], "train", None),
    "train2017, val2017": (["train2017", "val2017"], "train2017", None),
    "01_train, 02_test": (["01_train", "02_test"], "01_train", "02_test"),
    "Train Data, Test Data": (["Train Data", "Test Data"], "Train Data", "Test Data"),
    "TrainSet, TestSet": (["TrainSet", "TestSet"], "TrainSet", "TestSet"),
    "trainA, testA": (["trainA", "testA"], "trainA", "testA"),
    "TrainImages, TestImages": (["TrainImages", "TestImages"], "TrainImages", "TestImages"),
    "traindata, testdata": (["traindata", "testdata"], "traindata", "testdata"),
    "trn, tst": (["trn", "tst"], "trn", "tst"),
    "fold1, fold2": (["fold1", "fold2"], None, None),
    "photo, sketch": (["photo", "sketch"], None, None),
}
CLASSES = ("cat", "dog")
SIZE = 4  # images of the first split; the second has one more, and so on


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (3, 3)).save(buffer, "PNG")
    return buffer.getvalue()


def files_of(splits: list[str]) -> list[str]:
    return [
        f"{split}/{CLASSES[row % 2]}/{row}.png" for number, split in enumerate(splits) for row in range(SIZE + number)
    ]


def as_folder(folder: Path, splits: list[str]) -> str:
    for name in files_of(splits):
        path = folder / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png())
    return f"{folder}/data"


def as_tar(folder: Path, splits: list[str]) -> str:
    with tarfile.open(folder / "a.tar", "w") as archive:
        archive.add(as_folder(folder, splits), "data")
    return f"{folder}/a.tar"


def as_zip(folder: Path, splits: list[str]) -> str:
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        for name in files_of(splits):
            archive.writestr(name, png())
    return f"{folder}/a.zip"


def as_hdf5(folder: Path, splits: list[str]) -> str:
    with h5py.File(folder / "a.h5", "w") as file:
        for number, split in enumerate(splits):
            file[f"{split}/images"] = np.zeros((SIZE + number, 3, 3, 3), np.uint8)
    return f"{folder}/a.h5"


def as_parquet(folder: Path, splits: list[str]) -> str:
    for number, split in enumerate(splits):
        (folder / "data" / split).mkdir(parents=True)
        table = pyarrow.table({"image": [png()] * (SIZE + number)})
        parquet.write_table(table, folder / "data" / split / "0000.parquet")
    return f"{folder}/data"


def as_npz(folder: Path, splits: list[str]) -> str:
    arrays = {f"{name}_images": np.zeros((SIZE + number, 3, 3), np.uint8) for number, name in enumerate(splits)}
    np.savez(folder / "a.npz", **arrays)
    return f"{folder}/a.npz"


FORMS = {
    "folders": as_folder, "tar": as_tar, "zip": as_zip, "HDF5 groups": as_hdf5, "Parquet": as_parquet, "npz": as_npz,
}  # fmt: skip


def rows_of(spec: str) -> int | None:
    """The number of images; None: rejected."""
    try:
        return len(open_source(spec))
    except DataError:
        return None


def chosen(form: Callable[[Path, list[str]], str], layout: str) -> Callable[[Path], str | None]:
    def check(folder: Path) -> str | None:
        splits, train, test = LAYOUTS[layout]
        path = form(folder, splits)
        sizes = {split: SIZE + number for number, split in enumerate(splits)}
        expected = {"": None, "#train": sizes.get(train or ""), "#test": sizes.get(test or "")}
        return difference({tail: rows_of(path + tail) for tail in expected}, expected)

    return check


def layout_of(names: list[str], expected: dict[str, int | None]) -> Callable[[Path], str | None]:
    def check(folder: Path) -> str | None:
        for name in names:
            path = folder / "data" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png())
        return difference({tail: rows_of(f"{folder}/data{tail}") for tail in expected}, expected)

    return check


def product(*parts: tuple[str, ...]) -> list[str]:
    names = [""]
    for part in parts:
        names = [f"{name}/{last}".lstrip("/") for name in names for last in part]
    return names


def table_of(column: str, ending: str) -> Callable[[Path], str | None]:
    """A table, or image bytes, of which a column names the splits."""

    def check(folder: Path) -> str | None:
        columns = {"path": [f"{row}.png" for row in range(5)], column: ["train"] * 3 + ["test"] * 2}
        for name in columns["path"]:
            (folder / name).write_bytes(png())
        path = folder / f"table.{ending.rpartition(' ')[2]}"
        if ending == "csv":
            path.write_text("\n".join(map(",".join, [tuple(columns), *zip(*columns.values(), strict=True)])))
        elif ending == "jsonl":
            path.write_text("\n".join(map(json.dumps, pyarrow.table(columns).to_pylist())))
        else:
            image = {"image": [png()] * 5} if ending.startswith("images") else {}
            parquet.write_table(pyarrow.table({**columns, **image}), path)
        expected = {"": None, "#train": 3, "#test": 2, "#val": None, "#split=none": 5}
        return difference({tail: rows_of(f"{path}{tail}") for tail in expected}, expected)

    return check


def shards(folder: Path) -> str | None:
    for number, split in enumerate(("Train Set", "Test Set")):
        (folder / split).mkdir()
        with tarfile.open(folder / split / "0.tar", "w") as archive:
            for row in range(SIZE + number):
                info = tarfile.TarInfo(f"{row}.png")
                info.size = len(png())
                archive.addfile(info, io.BytesIO(png()))
    expected = {"": None, "#train": SIZE, "#test": SIZE + 1}
    return difference({tail: rows_of(f"{folder}{tail}") for tail in expected}, expected)


def configurations(folder: Path) -> str | None:
    for name in ("full", "small"):
        (folder / name).mkdir()
        table = pyarrow.table({"image": [png()] * SIZE})
        parquet.write_table(table, folder / name / "train-00000-of-00001.parquet")
    expected = {"": None, "#train": None, "/small#train": SIZE}
    return difference({tail: rows_of(f"{folder}{tail}") for tail in expected}, expected)


CASES = [
    *(
        Case(f"{layout}, in {name}", "must be chosen; #train and #test select", chosen(form, layout))
        for layout in LAYOUTS
        for name, form in FORMS.items()
    ),
    Case("splits without classes", "must be chosen",
         layout_of(product(("train", "test"), ("1.png", "2.png")), {"": None, "#train": 2})),
    Case("splits inside the classes", "an error",
         layout_of(product(("cat", "dog"), ("train", "test"), ("1.png",)), {"": None, "#train": None, "#split=none": 4})),
    Case("an archive unpacked over itself", "must be chosen",
         layout_of([*product(("train", "test"), CLASSES, ("1.png",)),
                    *product(("all",), ("train", "test"), CLASSES, ("1.png",))], {"": None, "#train": 2})),
    Case("train/train", "its inner folder", layout_of(product(("train",), ("train",), CLASSES, ("1.png",)), {"#train": 2})),
    Case("classes that are named like a split", "classes",
         layout_of(product(("test", "prod"), ("1.png",)), {"": 2})),
    Case("a train among vehicles", "classes", layout_of(product(("train", "plane", "car"), ("1.png",)), {"": 3})),
    Case("trains among vehicles, by day", "classes",
         layout_of(product(("train", "plane", "car"), ("day",), ("1.png",)), {"": 3})),
    Case("train and unlabeled without classes", "must be chosen",
         layout_of(product(("train", "unlabeled"), ("1.png",)), {"": None, "#train": 1, "#split=none": 2})),
    Case("trainval and test without classes", "must be chosen",
         layout_of(product(("trainval", "test"), ("1.png",)), {"": None, "#trainval": 1, "#test": 1, "#train": None})),
    Case("train and holdout of one class", "must be chosen",
         layout_of(product(("train", "holdout"), ("cat",), ("1.png",)), {"": None, "#train": 1})),
    Case("numbered folds without classes", "must be chosen",
         layout_of(product(("fold1", "fold2"), ("1.png",)), {"": None, "#fold1": 1, "#split=none": 2})),
    Case("one folder, Training Set", "its classes",
         layout_of(product(("Training Set",), CLASSES, ("1.png",)), {"": 2, "#train": 2})),
    Case("splits in a folder in a folder", "must be chosen",
         layout_of(product(("a",), ("b",), ("train", "test"), CLASSES, ("1.png",)), {"": None, "#train": 2})),
    Case("splits in one of two folders", "an error",
         layout_of([*product(("data",), ("train", "test"), CLASSES, ("1.png",)), "docs/1.png"],
                   {"": None, "/data#train": 2, "#split=none": 5})),
    *(
        Case(f"column {column}, {ending}", "must be chosen; #train and #test select", table_of(column, ending))
        for column in ("split", "Subset", "partition")
        for ending in ("csv", "jsonl", "parquet", "images in parquet")
    ),
    Case("tar files in folders of splits", "must be chosen; #train and #test select", shards),
    Case("two configurations of a data set on the Hub", "an error that lists them", configurations),
]  # fmt: skip
