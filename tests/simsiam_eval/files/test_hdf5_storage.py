"""Rows of HDF5 datasets that are not stored, and that HDF5 reads as zeros."""

import os

import h5py
import numpy as np
import pytest

from simsiam_eval.errors import DataError
from simsiam_eval.files.hdf5_storage import require_stored, unstored_rows

VALUES = np.arange(1, 41, dtype=np.uint8).reshape(10, 2, 2)


def unstored(path, name="x"):
    """Row -> reason of the rows that are not stored; those are exactly the rows that HDF5 reads with zeros."""
    rows = reasons(path, name)
    with h5py.File(path) as file:
        values = file[name][()]
    assert list(rows) == np.flatnonzero((values == 0).reshape(len(values), -1).any(axis=1)).tolist()
    return rows


def reasons(path, name="x"):
    with h5py.File(path) as file:
        found = unstored_rows(file[name])
    return {} if found is None else {row: found.reason(row) for row in np.flatnonzero(found.codes).tolist()}


def test_whole_datasets_of_every_layout(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["contiguous"] = VALUES
        file.create_dataset("chunked", data=VALUES, chunks=(4, 1, 2))
        file.create_dataset("filtered", data=VALUES, chunks=(3, 2, 2), compression="gzip")
        compact = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        compact.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple(VALUES.shape)
        h5py.h5d.create(file.id, b"compact", h5py.h5t.NATIVE_UINT8, space, compact).write(space, space, VALUES)
        file["scalar"], file["empty"] = 1, h5py.Empty("u1")
        file.create_dataset("none", (0, 2), np.uint8, maxshape=(None, 2))
        for name in file:
            assert unstored_rows(file[name]) is None, name
            require_stored(file[name], name)


def test_rows_that_were_never_written(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", VALUES.shape, np.uint8)
        part = file.create_dataset("chunked", VALUES.shape, np.uint8, chunks=(4, 1, 2))
        part[:5] = VALUES[:5]
        part[8:, :1] = VALUES[8:, :1]  # the second chunk of these rows is not written
    assert unstored(path) == dict.fromkeys(range(10), "it was never written")
    with h5py.File(path) as file:
        assert np.flatnonzero(unstored_rows(file["chunked"]).codes).tolist() == [8, 9]
        with pytest.raises(DataError, match=r"labels is incomplete: 2 rows of 10 are not stored \(row 8: it was"):
            require_stored(file["chunked"], "labels")


def virtual(path, parts, rows=10):
    """A virtual dataset of parts: (rows in it, file, rows of the file's dataset of 5 rows)."""
    layout = h5py.VirtualLayout((rows, 2, 2), np.uint8)
    for to, name, part_rows in parts:
        layout[to] = h5py.VirtualSource(name, "d", (5, 2, 2))[part_rows]
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("x", layout)
    return path


@pytest.mark.parametrize(
    ("first", "second"), [(np.s_[:5], np.s_[5:]), (np.s_[0:10:2], np.s_[1:10:2])], ids=["blocks", "interleaved"]
)
def test_parts_of_a_virtual_dataset(tmp_path, first, second):
    path = virtual(tmp_path / "v.h5", [(first, "a.h5", np.s_[:]), (second, "b.h5", np.s_[:])])
    for name in "ab":
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["d"] = VALUES[:5]
    rows = np.arange(10)[second].tolist()
    assert unstored(path) == {}
    for shape in ((3, 2, 2), (5, 3, 2), (5, 1, 2), (5,)):  # HDF5 reads other values, or crashes
        with h5py.File(tmp_path / "b.h5", "w") as file:
            file["d"] = np.ones(shape, np.uint8)
        assert reasons(path) == dict.fromkeys(rows, f"its part {tmp_path}/b.h5 does not have the shape that it had")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["d"] = np.ones((7, 2, 2), np.uint8)
    assert unstored(path) == {}
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file.create_dataset("d", (5, 2, 2), np.uint8, chunks=(2, 2, 2))[:2] = VALUES[:2]
    assert unstored(path) == dict.fromkeys(rows[2:], f"in its part {tmp_path}/b.h5, it was never written")
    for content, reason in (
        (None, f"its file {tmp_path}/b.h5 is missing"),
        (b"text", f"its file {tmp_path}/b.h5 is not a readable HDF5 file"),
    ):
        os.remove(tmp_path / "b.h5")
        if content:
            (tmp_path / "b.h5").write_bytes(content)
        assert reasons(path) == dict.fromkeys(rows, reason)
        if content is None:
            h5py.File(tmp_path / "b.h5", "w").close()
            assert unstored(path) == dict.fromkeys(rows, f"{tmp_path}/b.h5 has no dataset d")


def test_selections_gaps_and_working_folder_of_a_virtual_dataset(tmp_path, monkeypatch):
    (tmp_path / "parts").mkdir()
    with h5py.File(tmp_path / "parts" / "a.h5", "w") as file:
        file["d"] = VALUES[:5]
    path = virtual(tmp_path / "v.h5", [(np.s_[:3], "a.h5", np.s_[2:5])], rows=4)
    assert unstored(path)[0] == f"its file {tmp_path}/a.h5 is missing"
    monkeypatch.chdir(tmp_path / "parts")
    assert unstored(path) == {3: "no part of the virtual dataset contains it"}
    layout = h5py.VirtualLayout((5, 2, 2), np.uint8)
    layout[:, :1] = h5py.VirtualSource("a.h5", "d", (5, 2, 2))[:, :1]
    with h5py.File(tmp_path / "half.h5", "w") as file:
        file.create_virtual_dataset("x", layout)
    assert list(unstored(tmp_path / "half.h5")) == [0, 1, 2, 3, 4]


def test_virtual_datasets_of_virtual_datasets_and_of_their_own_file(tmp_path):
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["d"] = VALUES[:5]
        layout = h5py.VirtualLayout((5, 2, 2), np.uint8)
        layout[:] = h5py.VirtualSource(".", "d", (5, 2, 2))
        file.create_virtual_dataset("x", layout)
        outer = h5py.VirtualLayout((5, 2, 2), np.uint8)
        outer[:] = h5py.VirtualSource("b.h5", "x", (5, 2, 2))
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file.create_virtual_dataset("x", outer)
    assert reasons(tmp_path / "b.h5") == reasons(tmp_path / "c.h5") == {}
    with h5py.File(tmp_path / "b.h5", "a") as file:
        del file["d"]
    assert unstored(tmp_path / "c.h5") == dict.fromkeys(range(5), f"{tmp_path}/b.h5 has no dataset d")


def test_external_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "raw").mkdir()
    for sizes in ([40], [13, 27]):
        names, start = [], 0
        for number, size in enumerate(sizes):
            (tmp_path / f"raw/{number}.bin").write_bytes(b"head" + VALUES.tobytes()[start : start + size])
            names.append((f"raw/{number}.bin", 4, size))
            start += size
        with h5py.File("e.h5", "w") as file:
            file.create_dataset("x", VALUES.shape, np.uint8, external=names)
        assert unstored("e.h5") == {}
        last = f"raw/{len(sizes) - 1}.bin"
        os.truncate(last, os.path.getsize(last) - 5)
        assert unstored("e.h5") == dict.fromkeys([8, 9], f"the external file {last} is too short")
        os.remove(last)
        with h5py.File("e.h5") as file:
            found = unstored_rows(file["x"])
        assert (found.reason(9), found.codes[0]) == (f"the external file {last} is missing", len(sizes) == 1)
