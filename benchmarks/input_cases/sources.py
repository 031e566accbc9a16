"""Data sets as their authors and other programs write them, and arrays of which parts are missing."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pyarrow
from PIL import Image
from pyarrow import parquet
from scipy.io import savemat

from input_cases.case import Case, difference
from simsiam_eval.errors import DataError
from simsiam_eval.images.opened import UnreadableImage
from simsiam_eval.sources.opening import open_source

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
LABELS = [1, 0, 2, 2, 1, 0]


def png(row: int) -> bytes:
    """An image file with the pixels of a row."""
    buffer = io.BytesIO()
    Image.fromarray(PIXELS[row]).save(buffer, "PNG")
    return buffer.getvalue()


def equal(spec: str, pixels: np.ndarray, labels: list[int]) -> str | None:
    """What differs from the images and labels that a source should have."""
    source = open_source(spec)
    if wrong := difference(source.labels.tolist(), labels):
        return wrong
    wrong_rows = [row for row in range(len(source)) if not np.array_equal(source.image(row).pixels(), pixels[row])]
    return difference(wrong_rows, [])


def rejected(spec: str, words: str) -> str | None:
    """What is wrong if a source is not rejected with these words."""
    try:
        source = open_source(spec)
    except DataError as error:
        return None if words in str(error) else f"the message is: {error}"
    return f"accepted, {len(source)} rows"


def unreadable(spec: str, rows: list[int]) -> str | None:
    """What is wrong unless exactly these rows are unreadable."""
    source, found = open_source(spec), []
    for row in range(len(source)):
        try:
            source.image(row)
        except UnreadableImage:
            found.append(row)
    return difference(found, rows)


def cifar(protocol: int) -> Callable[[Path], str | None]:
    def check(folder: Path) -> str | None:
        pixels = RNG.integers(0, 256, (4, 3072), dtype=np.uint8)
        for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
            (folder / name).write_bytes(pickle.dumps({"data": pixels, "labels": [3, 2, 1, 0]}, protocol=protocol))
        names = {"label_names": [f"class{number}" for number in range(10)]}
        (folder / "batches.meta").write_bytes(pickle.dumps(names, protocol=protocol))
        return equal(f"{folder}#test", pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), [3, 2, 1, 0])

    return check


def cifar_harmful(folder: Path) -> str | None:
    class Harmful:
        def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
            return os.mkdir, (str(folder / "harm"),)

    (folder / "data_batch_1").write_bytes(pickle.dumps({"data": Harmful(), "labels": []}))
    return rejected(f"{folder}#train", "nothing was executed") or difference((folder / "harm").exists(), False)


def zipped(method: int) -> Callable[[Path], str | None]:
    def check(folder: Path) -> str | None:
        with zipfile.ZipFile(folder / "a.zip", "w", method) as archive:
            for row, label in enumerate(LABELS):
                archive.writestr(f"data/class{label}/{row}.png", png(row))
            archive.writestr("__MACOSX/data/._x.png", b"x")
        order = np.argsort(LABELS, kind="stable")
        return equal(f"{folder}/a.zip", PIXELS[order], sorted(LABELS))

    return check


def zip_with_a_password(folder: Path) -> str | None:
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        archive.writestr("a.png", png(0))
    content = bytearray((folder / "a.zip").read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    (folder / "a.zip").write_bytes(content)
    return rejected(f"{folder}/a.zip", "is encrypted")


def zip_damaged(folder: Path) -> str | None:
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        for row in range(3):
            archive.writestr(f"{row}.png", png(row))
    content = bytearray((folder / "a.zip").read_bytes())
    content[content.index(png(1)) + 50] ^= 1
    (folder / "a.zip").write_bytes(content)
    return unreadable(f"{folder}/a.zip", [1])


def saved_to_disk(folder: Path) -> str | None:
    schema = pyarrow.schema(
        [("image", pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])), ("label", "int64")]
    )
    for split, rows in (("train", range(4)), ("extra", range(4, 6))):
        (folder / split).mkdir()
        table = pyarrow.table({"image": [{"bytes": png(row), "path": None} for row in rows],
                               "label": [LABELS[row] for row in rows]}, schema=schema)  # fmt: skip
        with pyarrow.ipc.new_stream(folder / split / "data-00000-of-00001.arrow", schema) as stream:
            stream.write_table(table, max_chunksize=3)
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "extra"]}))
    return equal(f"{folder}#train", PIXELS[:4], LABELS[:4]) or rejected(str(folder), "several splits (extra, train)")


def hub_parquet(folder: Path) -> str | None:
    (folder / "data").mkdir()
    for split in ("train", "test"):
        table = pyarrow.table({"image": [png(row) for row in range(6)], "label": LABELS})
        parquet.write_table(table, folder / "data" / f"{split}-00000-of-00001.parquet")
    return equal(f"{folder}#test", PIXELS, LABELS) or rejected(str(folder), "several splits (test, train)")


def hub_images(folder: Path) -> str | None:
    lines = []
    for row, label in enumerate(LABELS):
        (folder / f"{row}.png").write_bytes(png(row))
        lines.append(json.dumps({"file_name": f"{row}.png", "label": label}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return equal(str(folder), PIXELS, LABELS)


def idx(compressed: bool, test: str) -> Callable[[Path], str | None]:
    def check(folder: Path) -> str | None:
        gray = PIXELS[..., 0]
        for split in ("train", test):
            for name, values in (("images-idx3", gray), ("labels-idx1", np.array(LABELS, np.uint8))):
                content = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes() + values.tobytes()
                (folder / "raw").mkdir(exist_ok=True)
                path = folder / "raw" / f"{split}-{name}-ubyte{'.gz' if compressed else ''}"
                path.write_bytes(gzip.compress(content) if compressed else content)
        return equal(f"{folder}#test", np.repeat(gray[..., None], 3, 3), LABELS)

    return check


def stl10(archive: bool) -> Callable[[Path], str | None]:
    def check(folder: Path) -> str | None:
        pixels = RNG.integers(0, 256, (2, 3, 96, 96), dtype=np.uint8)
        place = folder / "stl10_binary"
        place.mkdir()
        (place / "test_X.bin").write_bytes(pixels.tobytes())
        (place / "test_y.bin").write_bytes(bytes([10, 1]))
        source = f"{folder}#test"
        if archive:
            with tarfile.open(folder / "stl10_binary.tar.gz", "w:gz") as packed:
                packed.add(place, "stl10_binary")
            source = f"{folder}/stl10_binary.tar.gz#test"
        return equal(source, pixels.transpose(0, 3, 2, 1), [9, 0])

    return check


def svhn(folder: Path) -> str | None:
    pixels = RNG.integers(0, 256, (32, 32, 3, 3), dtype=np.uint8)
    savemat(folder / "test_32x32.mat", {"X": pixels, "y": np.array([[10], [1], [9]], np.uint8)})
    return equal(f"{folder}#test", pixels.transpose(3, 0, 1, 2), [0, 1, 9])


def arrays(images: str, labels: str, shape: tuple[int, ...] = (-1,)) -> Callable[[Path], str | None]:
    def check(folder: Path) -> str | None:
        values = np.array(LABELS).reshape(shape)
        np.savez(folder / "a.npz", **{images: PIXELS, labels: values, "mean": PIXELS[0]})
        return equal(f"{folder}/a.npz", PIXELS, LABELS)

    return check


def arrays_of_objects(folder: Path) -> str | None:
    np.savez(folder / "a.npz", x=PIXELS, y=np.array([None] * 6, dtype=object))
    return rejected(f"{folder}/a.npz", "contains Python objects, which are not loaded")


def two_data_sets(folder: Path) -> str | None:
    (folder / "stl10_binary").mkdir()
    (folder / "cifar-10-batches-py").mkdir()
    return rejected(str(folder), "has several data sets; choose one of")


def hdf5_part(state: str) -> Callable[[Path], str | None]:
    def check(folder: Path) -> str | None:
        layout = h5py.VirtualLayout((6, 8, 8, 3), np.uint8)
        for part, rows in (("a", slice(0, 3)), ("b", slice(3, 6))):
            with h5py.File(folder / f"{part}.h5", "w") as file:
                file["d"] = PIXELS[rows]
            layout[rows] = h5py.VirtualSource(f"{part}.h5", "d", (3, 8, 8, 3))
        with h5py.File(folder / "v.h5", "w") as file:
            file.create_virtual_dataset("images", layout)
        os.remove(folder / "b.h5")
        if state != "gone":
            with h5py.File(folder / "b.h5", "w") as file:
                if state == "shorter":
                    file["d"] = PIXELS[:2]
                elif state == "never written":
                    file.create_dataset("d", (3, 8, 8, 3), np.uint8)
        return unreadable(f"{folder}/v.h5", [3, 4, 5])

    return check


def hdf5_chunks(folder: Path) -> str | None:
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("images", PIXELS.shape, np.uint8, chunks=(2, 8, 8, 3))[:3] = PIXELS[:3]
    return unreadable(f"{folder}/a.h5", [4, 5])


def hdf5_external(folder: Path) -> str | None:
    raw = folder / "raw.bin"
    raw.write_bytes(PIXELS.tobytes()[: 5 * 192 - 1])
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("images", PIXELS.shape, np.uint8, external=[(str(raw), 0, PIXELS.size)])
    return unreadable(f"{folder}/a.h5", [4, 5])


def hdf5_labels(folder: Path) -> str | None:
    with h5py.File(folder / "a.h5", "w") as file:
        file["images"] = PIXELS
        file.create_dataset("labels", (6,), np.int64)
    return rejected(f"{folder}/a.h5", "is incomplete: 6 rows of 6 are not stored")


CASES = [
    *(Case(f"CIFAR-10 pickled by Python 3, protocol {number}", "read", cifar(number)) for number in range(2, 6)),
    Case("a CIFAR batch that would run a command", "an error; nothing is executed", cifar_harmful),
    Case("zip archive, stored", "read in place", zipped(zipfile.ZIP_STORED)),
    Case("zip archive, compressed", "read in place", zipped(zipfile.ZIP_DEFLATED)),
    Case("zip archive with a password", "an error that says so", zip_with_a_password),
    Case("zip archive with a flipped bit in one image", "that image is unreadable", zip_damaged),
    Case("DatasetDict of save_to_disk", "read; its splits are known", saved_to_disk),
    Case("Parquet as on Hugging Face's Hub", "read; its splits are known", hub_parquet),
    Case("images with metadata.jsonl", "read, with labels", hub_images),
    *(Case(f"MNIST's format, {name}", "read", idx(*options)) for name, options in {
        "raw": (False, "t10k"), "compressed": (True, "t10k"), "named test": (False, "test")}.items()),
    Case("STL-10, binary folder", "read; labels from 0", stl10(False)),
    Case("STL-10, published archive", "read; labels from 0", stl10(True)),
    Case("SVHN", "read; label 10 is the digit 0", svhn),
    Case("npz named as by Keras", "read", arrays("x_train", "y_train")),
    Case("npz named as by MedMNIST, labels (N,1)", "read", arrays("train_images", "train_labels", (-1, 1))),
    Case("npz with labels as Python objects", "an error; nothing is loaded", arrays_of_objects),
    Case("CIFAR-10 and STL-10 in one folder", "an error that lists both", two_data_sets),
    *(Case(f"part of an HDF5 virtual dataset: {state}", "its images are unreadable, not black", hdf5_part(state))
      for state in ("gone", "empty", "shorter", "never written")),
    Case("HDF5 chunks that were never written", "their images are unreadable, not black", hdf5_chunks),
    Case("HDF5 external file that is too short", "its last images are unreadable, not black", hdf5_external),
    Case("HDF5 labels that were never written", "an error, not class 0", hdf5_labels),
]  # fmt: skip
