"""Written feature files: their content for any HDF5 reader, and that a kill or a full disk loses no row."""

import contextlib
import os
import resource
import signal
from pathlib import Path

import h5py
import numpy as np
import pytest

from simsiam_eval.errors import DataError
from simsiam_eval.features.file import read_attributes
from simsiam_eval.features.reader import read_features
from simsiam_eval.features.writer import FeatureWriter, write_features

ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)
IDS, LABELS = ["a", "ü/b", "c", "d"], np.array([0, 1, -1, 1])
ATTRIBUTES = {
    "encoder": {"arch": "test"},
    "preprocessing": {},
    "source": {"spec": "test", "fingerprint": "f", "class_names": ["x" * 40_000, "y" * 40_000]},
    "views": None,
    "precision": "float32",
}


class FourRows:
    """Four ids and labels."""

    labels = LABELS

    def __len__(self):
        return 4

    def ids_of(self, rows):
        return IDS[rows.start : rows.stop]


def writer(path, dtype="float32", columns=None, process=0, **attributes):
    return FeatureWriter(path, FourRows(), columns or {"features": (3,)}, dtype, ATTRIBUTES | attributes, process)


def files_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_round_trip(tmp_path, dtype):
    path = tmp_path / "f.h5"
    with writer(path, dtype) as file:
        file.write(0, {"features": ROWS}, {2: ("c", "torn")})
        assert file.finish() == 1
    features = read_features(path)
    assert np.array_equal(features.features, ROWS[[0, 1, 3]])
    assert (features.ids.tolist(), features.labels.tolist(), features.unreadable) == (["a", "ü/b", "d"], [0, 1, 1], 1)
    assert len(features.class_names[1]) == 40_000
    with h5py.File(path) as file:
        assert file["features"].dtype == dtype
        assert file["features"][2].tolist() == [0, 0, 0]
        assert tuple(file["errors"][0]) == (2, b"c", b"torn")
    assert files_in(tmp_path) == ["f.h5"]


def test_unfinished_file_is_resumed(tmp_path):
    path = tmp_path / "f.h5"
    with writer(path) as file:
        file.write(0, {"features": ROWS[:2]})
    with pytest.raises(DataError, match="unfinished"):
        read_features(path)
    with pytest.raises(DataError, match="another extraction"):
        writer(path, encoder={"arch": "other"})
    with writer(path) as file:
        assert [file.is_written(range(row, row + 1)) for row in range(4)] == [True, True, False, False]
        file.write(2, {"features": ROWS[2:]})
        file.finish()
    assert np.array_equal(read_features(path).features, ROWS)


def test_kill_while_hdf5_writes_is_rolled_back(tmp_path, monkeypatch):
    path = tmp_path / "f.h5"
    file = writer(path)
    file.write(0, {"features": ROWS})

    def write_garbage(*arguments, **options):
        with open(tmp_path / "f.h5.part", "r+b") as part:
            part.write(b"garbage" * 20)
            part.seek(0, 2)
            part.write(b"more")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(h5py, "File", write_garbage)
        with pytest.raises(KeyboardInterrupt):
            file.finish()
    file.close()
    with writer(path) as resumed:
        assert resumed.is_written(range(4))
        resumed.finish()
    assert np.array_equal(read_features(path).features, ROWS)
    assert files_in(tmp_path) == ["f.h5"]


def test_second_writer_of_a_file_is_rejected(tmp_path):
    with writer(tmp_path / "f.h5"), pytest.raises(DataError, match="Another process"):
        writer(tmp_path / "f.h5")


def test_value_too_large_for_float16_is_rejected(tmp_path):
    with writer(tmp_path / "f.h5", "float16") as file, pytest.raises(DataError, match="float32"):
        file.write(0, {"features": ROWS * 1e6})


def test_layers_and_views_are_stored_with_the_features(tmp_path):
    path, columns = tmp_path / "f.h5", {"features": (3,), "layers/layer3": (2,), "views": (2, 3)}
    layer, views = np.ones((4, 2), np.float32), np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    with writer(path, columns=columns) as file:
        file.write(0, {"features": ROWS, "layers/layer3": layer, "views": views}, {1: ("ü/b", "torn")})
        file.finish()
    with h5py.File(path) as file:
        assert np.array_equal(file["layers/layer3"][:], layer * [[1], [0], [1], [1]])
        assert np.array_equal(file["views"][2], views[2])
        assert not file["views"][1].any()
    assert read_attributes(path)["columns"] == columns
    with writer(tmp_path / "g.h5", columns=columns):
        pass
    with pytest.raises(DataError, match="another extraction"):
        writer(tmp_path / "g.h5")


def test_two_processes_write_one_file(tmp_path):
    path = tmp_path / "f.h5"
    with writer(path) as first, writer(path, process=1) as second:
        first.write(0, {"features": ROWS[:2]}, {0: ("a", "torn")})
        second.write(2, {"features": ROWS[2:]}, {3: ("d", "empty")})
        second.sync()
        assert first.finish() == 2
    with h5py.File(path) as file:
        assert [tuple(error) for error in file["errors"]] == [(0, b"a", b"torn"), (3, b"d", b"empty")]
        assert file["valid"][:].tolist() == [False, True, True, False]
    assert files_in(tmp_path) == ["f.h5"]


def test_reason_truncated_by_a_kill_does_not_damage_the_next(tmp_path):
    path = tmp_path / "f.h5"
    with writer(path) as file:
        file.write(0, {"features": ROWS[:1]}, {0: ("a", "torn")})
    with open(tmp_path / "f.h5.part.errors.0", "a") as reasons:
        reasons.write('\n[1, "ü/')
    with writer(path) as file:
        file.write(1, {"features": ROWS[1:]}, {1: ("ü/b", "no such file")})
        assert file.finish() == 2
    with h5py.File(path) as file:
        assert file["errors"][1]["reason"] == b"no such file"


def test_file_with_missing_rows_cannot_be_finished(tmp_path):
    with writer(tmp_path / "f.h5") as file:
        file.write(0, {"features": ROWS[:3]})
        with pytest.raises(DataError, match="1 rows"):
            file.finish()
    assert not (tmp_path / "f.h5").exists()


def test_inconsistent_shapes_are_rejected(tmp_path):
    for features, labels, ids in ((ROWS[0], LABELS, IDS), (ROWS, LABELS[:3], IDS), (ROWS.astype(int), LABELS, IDS)):
        with pytest.raises(ValueError, match="expected"):
            write_features(tmp_path / "f.h5", features, labels, ids, encoder={}, source={})


def run_in_child(function):
    """Call `function` in a forked process; returns its exit status, or minus the signal that killed it."""
    child = os.fork()
    if not child:
        status = 1
        with contextlib.suppress(BaseException):
            status = function() or 0
        os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def write_all(path):
    """Write the missing rows one by one, as an extraction does."""
    with writer(path) as file:
        for row in range(4):
            if not file.is_written(range(row, row + 1)):
                file.write(row, {"features": ROWS[row : row + 1]}, {2: ("c", "torn")} if row == 2 else None)
                file.sync()
        file.finish()


def content(path):
    with h5py.File(path) as file:
        return [file[name][:].tolist() for name in ("features", "labels", "ids", "valid", "errors")]


def test_kill_at_any_system_call_loses_no_row(tmp_path):
    write_all(tmp_path / "whole.h5")
    expected, kills = content(tmp_path / "whole.h5"), 0
    while True:
        folder = tmp_path / str(kills)
        folder.mkdir()
        path = folder / "f.h5"

        def write_until(last_call, path=path):
            calls = 0

            def count_calls(system_call):
                def counted_call(*arguments, **options):
                    nonlocal calls
                    calls += 1
                    if calls > last_call:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return system_call(*arguments, **options)

                return counted_call

            for name in ("open", "pwrite", "fsync", "fdatasync", "replace", "unlink", "posix_fallocate", "ftruncate"):
                setattr(os, name, count_calls(getattr(os, name)))
            write_all(path)

        status = run_in_child(lambda last_call=kills: write_until(last_call))
        if not path.exists():
            assert status == -signal.SIGKILL
            write_all(path)
            assert files_in(folder) == ["f.h5"]
        assert content(path) == expected, f"killed at call {kills}"
        if status == 0:
            break
        kills += 1
    assert kills > 40


@pytest.mark.parametrize(
    ("method", "remaining"),
    [
        ("__init__", []),
        ("write", ["f.h5.part", "f.h5.part.errors.0"]),
        ("finish", ["f.h5.part", "f.h5.part.errors.0", "f.h5.part.undo"]),
    ],
)
def test_full_disk_is_reported_and_loses_no_row(tmp_path, monkeypatch, method, remaining):
    """A limit on the file size simulates a full disk."""
    write_all(tmp_path / "whole.h5")
    path = tmp_path / "limited" / "f.h5"

    def write_with_limit():
        original = getattr(FeatureWriter, method)

        def call_with_limit(self, *arguments, **options):
            size = path.with_name("f.h5.part").stat().st_size if method == "finish" else 1000
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100_000 * (method == "finish"),) * 2)
            return original(self, *arguments, **options)

        monkeypatch.setattr(FeatureWriter, method, call_with_limit)
        try:
            write_all(path)
        except DataError as error:
            return 0 if "Cannot write" in str(error) and "too large" in str(error) else 2
        return 3

    assert run_in_child(write_with_limit) == 0
    assert files_in(path.parent) == remaining
    write_all(path)
    assert content(path) == content(tmp_path / "whole.h5")
    assert files_in(path.parent) == ["f.h5"]


def test_rows_outside_the_file_are_rejected(tmp_path):
    """They would overwrite the bytes of other datasets."""
    with writer(tmp_path / "f.h5") as file:
        original = (tmp_path / "f.h5.part").read_bytes()
        for start, values, reasons in (
            (3, ROWS[:2], {}),
            (-1, ROWS[:1], {}),
            (0, ROWS[:, :2], {}),
            (1, ROWS[:2], {0: ("a", "torn")}),
        ):
            with pytest.raises(ValueError, match="file"):
                file.write(start, {"features": values}, reasons)
        with pytest.raises(ValueError, match="expected columns"):
            file.write(0, {"features": ROWS, "views": ROWS})
        assert (tmp_path / "f.h5.part").read_bytes() == original


def test_finished_file_is_not_overwritten(tmp_path):
    write_all(tmp_path / "f.h5")
    original = (tmp_path / "f.h5").read_bytes()
    with pytest.raises(DataError, match="already exists"):
        writer(tmp_path / "f.h5")
    assert (tmp_path / "f.h5").read_bytes() == original
    assert files_in(tmp_path) == ["f.h5"]


def test_running_process_of_an_earlier_run_blocks_the_file(tmp_path):
    path = tmp_path / "f.h5"
    first, second = writer(path), writer(path, process=1)
    first.close()  # as a kill does
    with pytest.raises(DataError, match="Another process"):
        writer(path)
    second.close()
    writer(path).close()


def test_damaged_part_file_is_not_overwritten(tmp_path):
    (tmp_path / "f.h5.part").write_bytes(b"a night of work" * 1000)
    with pytest.raises(DataError, match=r"damaged.*delete it"):
        writer(tmp_path / "f.h5")
    assert (tmp_path / "f.h5.part").read_bytes() == b"a night of work" * 1000
    with pytest.raises(DataError, match="already exists"):
        write_features(tmp_path / "f.h5", ROWS, LABELS, IDS, encoder={}, source={})


def test_reason_that_hdf5_cannot_store_is_escaped(tmp_path):
    with writer(tmp_path / "f.h5") as file:
        file.write(0, {"features": ROWS}, {0: ("a", "header b'\0'"), 1: ("ü/b", "no \udcff.jpg")})
        assert file.finish() == 2
    assert [error[2] for error in content(tmp_path / "f.h5")[4]] == [b"header b'\\0'", b"no \\udcff.jpg"]


def test_rows_whose_reasons_are_lost_are_recomputed(tmp_path):
    path = tmp_path / "f.h5"
    with writer(path) as file:
        file.write(0, {"features": ROWS}, {2: ("c", "torn")})
        (tmp_path / "f.h5.part.errors.0").write_bytes(b"\0\0\n5\n[99, 1, 2]")
        with pytest.raises(DataError, match="reasons of 1 unreadable rows"):
            file.finish()
    write_all(path)
    assert content(path)[4] == [(2, b"c", b"torn")]


def test_nothing_is_said_to_be_kept_where_nothing_was_written():
    with pytest.raises(DataError, match=r"Cannot write /proc/odd\.h5: .*\. Fix this and rerun") as error:
        FeatureWriter(Path("/proc/odd.h5"), FourRows(), {"features": (3,)}, "float32", ATTRIBUTES)
    assert "kept" not in str(error.value)
