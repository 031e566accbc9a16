"""Labels and tables as R, pandas, Excel, NumPy and MATLAB write them."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow
from PIL import Image
from pyarrow import parquet

from input_cases.case import Case, difference
from simsiam_eval.errors import DataError
from simsiam_eval.features.foreign.found import ImportOptions, open_foreign
from simsiam_eval.sources.opening import open_source
from simsiam_eval.vocabulary import NO_LABEL

Write = Callable[[Path, Sequence[Any]], str]  # labels of images 0.jpg, 1.jpg, ... -> an image source


def jpeg() -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (4, 4)).save(content, "jpeg")
    return content.getvalue()


def images(folder: Path, count: int) -> None:
    for row in range(count):
        (folder / f"{row}.jpg").write_bytes(jpeg())


def table(separator: str = ",", name: str = "a.csv", encoding: str = "utf-8", header: str = "path,label") -> Write:
    def write(folder: Path, labels: Sequence[Any]) -> str:
        images(folder, len(labels))
        lines = [header, *(f"{row}.jpg,{label}" for row, label in enumerate(labels))]
        mark = "\ufeff" if encoding == "utf-16-le" else ""
        (folder / name).write_bytes((mark + "\n".join(lines).replace(",", separator)).encode(encoding))
        return str(folder / name)

    return write


def listed(folder: Path, labels: Sequence[Any]) -> str:
    images(folder, len(labels))
    (folder / "a.txt").write_text("\n".join(f"{row}.jpg\t{label}" for row, label in enumerate(labels)), "utf-16")
    return str(folder / "a.txt")


def spaced(folder: Path, labels: Sequence[Any]) -> str:
    images(folder, len(labels))
    (folder / "a.txt").write_text("\n".join(f"{row}.jpg {label}" for row, label in enumerate(labels)))
    return str(folder / "a.txt")


def shards(kind: str, option: str) -> Write:
    def write(folder: Path, labels: Sequence[Any]) -> str:
        with tarfile.open(folder / "a.tar", "w") as archive:
            for row, label in enumerate(labels):
                text = json.dumps({"y": label}) if kind == "json" else str(label)
                for ending, content in (("jpg", jpeg()), (kind, text.encode())):
                    entry = tarfile.TarInfo(f"{row}.{ending}")
                    entry.size = len(content)
                    archive.addfile(entry, io.BytesIO(content))
        return f"{folder}/a.tar{option}"

    return write


def hdf5(folder: Path, labels: Sequence[Any]) -> str:
    with h5py.File(folder / "a.h5", "w") as file:
        file["images"], file["labels"] = np.zeros((len(labels), 4, 4, 3), np.uint8), labels
    return str(folder / "a.h5")


def columns(folder: Path, labels: Sequence[Any]) -> str:
    parquet.write_table(pyarrow.table({"image": [jpeg()] * len(labels), "label": labels}), folder / "a.parquet")
    return str(folder / "a.parquet")


def manifest(folder: Path, labels: Sequence[Any]) -> str:
    images(folder, len(labels))
    paths = [f"{row}.jpg" for row in range(len(labels))]
    parquet.write_table(pyarrow.table({"path": paths, "label": labels}), folder / "a.parquet")
    return str(folder / "a.parquet")


def read(
    write: Write, labels: Sequence[Any], numbers: Sequence[int], names: Sequence[str] | None = None, **options: Any
) -> Callable[[Path], str | None]:
    def check(folder: Path) -> str | None:
        source = open_source(write(folder, labels), **options)
        found = source.labels.tolist(), source.class_names and list(source.class_names)
        return difference(found, (list(numbers), names))

    return check


def rejected(write: Write, labels: Sequence[Any], part: str) -> Callable[[Path], str | None]:
    def check(folder: Path) -> str | None:
        try:
            source = open_source(write(folder, labels))
        except DataError as error:
            return None if part in str(error) else f"the error is: {error}"
        return f"read as {source.labels.tolist()}, {source.class_names}"

    return check


def noted(folder: Path) -> str | None:
    source = open_source(table()(folder, ["x", "NA", "", "NA", "none"]))
    return difference(source.notes[0], "3 of 5 images have no label (NA: 2, empty: 1)") or (
        None if len(source.notes) == 2 and "(none: 1)" in source.notes[1] else f"the notes are {source.notes}"
    )


def doubted(text: str) -> Callable[[Path], str | None]:
    def check(folder: Path) -> str | None:
        source = open_source(table()(folder, ["a", text, "b"]))
        if difference(sorted(source.class_names or ()), sorted(["a", "b", text])):
            return f"the classes are {source.class_names}"
        return None if len(source.notes) == 1 and f"({text}: 1)" in source.notes[0] else f"the notes are {source.notes}"

    return check


def named_folders(folder: Path) -> str | None:
    for name in ("NA", "None"):
        (folder / name).mkdir()
        images(folder / name, 1)
    return difference(open_source(folder).class_names, ("NA", "None"))


def imported(labels: np.ndarray[Any, Any], expected: list[int]) -> Callable[[Path], str | None]:
    def check(folder: Path) -> str | None:
        np.savez(folder / "a.npz", features=np.ones((len(labels), 2), np.float32), labels=labels)
        return difference(open_foreign(ImportOptions(features=(folder / "a.npz",))).labels.tolist(), expected)

    return check


NAN = float("nan")
CASES = [
    *(
        Case(f"{text!r} among {kind}", "no label", read(table(), [one, text, two], [0, -1, 1], names))
        for text in (*NO_LABEL, "", " ")
        for kind, one, two, names in (("numbers", 0, 1, None), ("names", "a", "b", ["a", "b"]))
    ),
    Case("'none' in lower case", "a class", read(table(), ["a", "none"], [0, 1], ["a", "none"])),
    Case("texts for no label are counted", "one line", noted),
    Case("None is a class by --no-label", "a class", read(table(), ["None", "a"], [0, 1], ["None", "a"], no_label=[""])),
    Case("-2 is no label by --no-label", "no label", read(table(), ["-2", "1"], [-1, 1], no_label=["-2"])),
    Case("whole floats", "class numbers", read(table(), ["1.0", "0.0", "nan", "2."], [1, 0, -1, 2])),
    Case("numpy.savetxt", "class numbers", read(table(), ["1.000000e+00", "0.000000e+00"], [1, 0])),
    Case("spaces around numbers", "class numbers", read(table(), [" 1", "0 "], [1, 0])),
    Case("1.5", "an error", rejected(table(), ["1.5", "2"], "the label 1.5; expected whole numbers")),
    Case("inf", "an error", rejected(table(), ["inf", "2"], "the label inf")),
    Case("-2 in text", "an error", rejected(table(), ["-2", "2"], "the label -2")),
    Case("numbers and names", "names", read(table(), ["1", "x"], [0, 1], ["1", "x"])),
    Case("names like 1e3", "names", read(table(), ["1e3", "2e5"], [0, 1], ["1e3", "2e5"])),
    Case("one name in two Unicode forms", "one class", read(table(), ["\u00e9", "e\u0301"], [0, 0], ["\u00e9"])),
    Case("list with a tab, UTF-16", "no label", read(listed, ["1", "NaN", "-1"], [1, -1, -1])),
    Case("list with a space", "no label", read(spaced, ["1", "NaN", "-1", "0.0"], [1, -1, -1, 0])),
    Case("list with a space, -2", "an error", rejected(spaced, ["1", "-2"], "the label -2")),
    Case("list with a space, names", "an error", rejected(spaced, ["a", "b"], "separate it from the path with a tab")),
    *(
        Case(f"{text!r} among names", "a class, and a line", doubted(text))
        for text in ("?", "-", "--", "*", "n.a.", "-2", "-9999", "NONE", "missing")
    ),
    Case("the code of Namibia", "a class by --no-label", read(
        table(), ["DE", "NA", "FR"], [0, 2, 1], ["DE", "FR", "NA"], no_label=[""]
    )),
    Case("folders NA and None", "classes", named_folders),
    Case("Parquet manifest, lists", "an error", rejected(manifest, [[1], [2]], "expected whole numbers or strings")),
    Case("tar, .cls", "no label", read(shards("cls", ""), ["1.0", "null", "0"], [1, -1, 0])),
    Case("tar, .txt", "no label", read(shards("txt", "#label=txt"), ["b", "N/A", "a"], [1, -1, 0], ["a", "b"])),
    Case("tar, .json", "no label", read(shards("json", "#label=y"), [1, None, 0.0, NAN, "NA"], [1, -1, 0, -1, -1])),
    Case("HDF5, floats", "no label", read(hdf5, [1.0, NAN, -1.0, 0.0], [1, -1, -1, 0])),
    Case("HDF5, strings", "no label", read(hdf5, ["b", "NA", "a"], [1, -1, 0], ["a", "b"])),
    Case("HDF5, 0.5", "an error", rejected(hdf5, [1.0, 0.5], "the label 0.5")),
    Case("HDF5, -3", "an error", rejected(hdf5, [1, -3], "the label -3")),
    Case("Parquet, floats and nulls", "no label", read(columns, [1.0, None, NAN, -1.0], [1, -1, -1, -1])),
    Case("Parquet, integers and nulls", "no label", read(columns, [4, None, -1], [4, -1, -1])),
    Case("Parquet, strings", "no label", read(columns, ["b", None, "nan"], [0, -1, -1], ["b"])),
    Case("Parquet, -2", "an error", rejected(columns, [1, -2], "the label -2")),
    Case("Parquet manifest, floats", "no label", read(manifest, [1.0, NAN, None, 0.0], [1, -1, -1, 0])),
    Case("imported floats", "no label", imported(np.array([1.0, NAN, 0.0, -1.0]), [1, -1, 0, -1])),
    Case("imported text", "no label", imported(np.array(["1", "NULL", "", "0"]), [1, -1, -1, 0])),
    *(
        Case(f"{name}, {encoding}, separated by {separator!r}", "read", read(
            table(separator, name, encoding), ["b", "a"], [1, 0], ["a", "b"]
        ))
        for name in ("a.csv", "a.tsv")
        for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32")
        for separator in (",", ";", "\t", "|")
    ),
    Case("Excel's line sep=;", "read", read(table(";", header="sep=;\npath,label"), ["b"], [0], ["b"])),
    Case("columns Path and LABEL", "read", read(table(header="Path,LABEL"), ["b"], [0], ["b"])),
]  # fmt: skip
