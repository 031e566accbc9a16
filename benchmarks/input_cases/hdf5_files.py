"""HDF5 files with links, filters and texts that need care."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from input_cases.case import Case, difference
from input_cases.sources import PIXELS, rejected
from simsiam_eval.sources.opening import open_source


def linked(words: str, **links: h5py.SoftLink | h5py.ExternalLink) -> Callable[[Path], str | None]:
    def check(folder: Path) -> str | None:
        with h5py.File(folder / "a.h5", "w") as file:
            file["x"] = PIXELS
            for name, link in links.items():
                file[name] = link
        return rejected(f"{folder}/a.h5", words)

    return check


def virtual_of(*files: str) -> Callable[[Path], str | None]:
    """Virtual datasets of which each refers to the next file, and the last to the first."""

    def check(folder: Path) -> str | None:
        for name, other in zip(files, (*files[1:], files[0]), strict=True):
            layout = h5py.VirtualLayout(PIXELS.shape, np.uint8)
            layout[:] = h5py.VirtualSource(other if len(files) > 1 else ".", "images", PIXELS.shape)
            with h5py.File(folder / name, "w") as file:
                file.create_virtual_dataset("images", layout)
        return rejected(f"{folder}/{files[0]}", "is a virtual dataset that is a part of itself")

    return check


def blosc(folder: Path) -> str | None:
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((1, *PIXELS.shape[1:]))
    properties.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, (2, 2, 1, 192))
    with h5py.File(folder / "a.h5", "w") as file:
        space = h5py.h5s.create_simple(PIXELS.shape)
        h5py.h5d.create(file.id, b"images", h5py.h5t.NATIVE_UINT8, space, properties)
    return rejected(f"{folder}/a.h5", "the HDF5 filter blosc (32001), which is not installed: pip install hdf5plugin")


def labels(values: np.ndarray, dtype: np.dtype | None = None) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        with h5py.File(folder / "a.h5", "w") as file:
            file["images"] = PIXELS
            file.create_dataset("labels", data=values, dtype=dtype)
        return folder / "a.h5"

    return write


def enumerated(folder: Path) -> str | None:
    kind = h5py.enum_dtype({"cat": 0, "dog": 5}, basetype="i1")
    source = open_source(labels(np.array([0, 5, 5, 0, 0, 5], np.int8), kind)(folder))
    return difference(
        [source.class_names[label] for label in source.labels], ["cat", "dog", "dog", "cat", "cat", "dog"]
    )


def latin(folder: Path) -> str | None:
    path = labels(np.array([b"caf\xe9", b"caf\xe8"] * 3))(folder)
    return rejected(str(path), r"/labels of " + str(path) + r" contains b'caf\xe9', which is not UTF-8")


def split_beside(folder: Path) -> str | None:
    """A dataset that names the split of each row."""
    with h5py.File(folder / "a.h5", "w") as file:
        file["images"], file["split"] = PIXELS, ["train", "test"] * 3
    if wrong := rejected(f"{folder}/a.h5", "several splits (test, train)"):
        return wrong
    source = open_source(f"{folder}/a.h5#test")
    return difference(source.ids_of(range(len(source))), [f"images/{row:08d}" for row in (1, 3, 5)])


CASES = [
    Case("soft link to itself", "an error that names it", linked(
        "images is a link that leads back to itself", images=h5py.SoftLink("/images"))),
    Case("soft link to nothing", "an error that names both", linked(
        "images is a broken link to /gone", images=h5py.SoftLink("/gone"))),
    Case("link to a file that is gone, as labels", "an error that names both", linked(
        "labels is a broken link to /y of gone.h5", labels=h5py.ExternalLink("gone.h5", "/y"))),
    Case("virtual dataset of itself", "an error", virtual_of("a.h5")),
    Case("two virtual datasets of each other", "an error", virtual_of("a.h5", "b.h5")),
    Case("a filter that is not installed", "one error with the package", blosc),
    Case("labels of an enumeration", "their names are the classes", enumerated),
    Case("labels in Latin-1", "an error, not merged classes", latin),
    Case("a dataset that names the splits", "they are known", split_beside),
]  # fmt: skip
