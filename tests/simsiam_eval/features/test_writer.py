"""The feature file as it is written: what any HDF5 reader finds in it, and that no kill costs a row."""

import contextlib
import os
import resource
import signal

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


class Four:
    """Four named and labeled rows."""

    labels = LABELS

    def __len__(self):
        return 4

    def ids_of(self, rows):
        return IDS[rows.start : rows.stop]


def writer(path, dtype="float32", columns=None, number=0, **changed):
    return FeatureWriter(path, Four(), columns or {"features": (3,)}, dtype, ATTRIBUTES | changed, number)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_round_trip(tmp_path, dtype):
    path = tmp_path / "f.h5"
    with writer(path, dtype) as file:
        file.write(0, {"features": ROWS}, {2: ("c", "torn")})
        assert file.finish() == 1
    found = read_features(path)
    assert np.array_equal(found.features, ROWS[[0, 1, 3]])
    assert (found.ids.tolist(), found.labels.tolist(), found.unreadable) == (["a", "ü/b", "d"], [0, 1, 1], 1)
    assert len(found.class_names[1]) == 40_000
    with h5py.File(path) as file:
        assert file["features"].dtype == dtype
        assert file["features"][2].tolist() == [0, 0, 0]
        assert tuple(file["errors"][0]) == (2, b"c", b"torn")
    assert [one.name for one in tmp_path.iterdir()] == ["f.h5"]


def test_goes_on_where_it_was(tmp_path):
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


def test_a_kill_while_the_metadata_changes_is_rolled_back(tmp_path, monkeypatch):
    path = tmp_path / "f.h5"
    file = writer(path)
    file.write(0, {"features": ROWS})

    def killed(*arguments, **options):
        with open(tmp_path / "f.h5.part", "r+b") as part:
            part.write(b"garbage" * 20)
            part.seek(0, 2)
            part.write(b"more")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(h5py, "File", killed)
        with pytest.raises(KeyboardInterrupt):
            file.finish()
    file.close()
    with writer(path) as again:
        assert again.is_written(range(4))
        again.finish()
    assert np.array_equal(read_features(path).features, ROWS)
    assert [one.name for one in tmp_path.iterdir()] == ["f.h5"]


def test_two_writers_of_one_file(tmp_path):
    with writer(tmp_path / "f.h5"), pytest.raises(DataError, match="Another process"):
        writer(tmp_path / "f.h5")


def test_a_value_too_large_for_float16(tmp_path):
    with writer(tmp_path / "f.h5", "float16") as file, pytest.raises(DataError, match="float32"):
        file.write(0, {"features": ROWS * 1e6})


def test_further_layers_and_views_lie_beside_the_features(tmp_path):
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


def test_several_processes_write_one_file(tmp_path):
    path = tmp_path / "f.h5"
    with writer(path) as first, writer(path, number=1) as second:
        first.write(0, {"features": ROWS[:2]}, {0: ("a", "torn")})
        second.write(2, {"features": ROWS[2:]}, {3: ("d", "empty")})
        second.sync()
        assert first.finish() == 2
    with h5py.File(path) as file:
        assert [tuple(one) for one in file["errors"]] == [(0, b"a", b"torn"), (3, b"d", b"empty")]
        assert file["valid"][:].tolist() == [False, True, True, False]
    assert [one.name for one in tmp_path.iterdir()] == ["f.h5"]


def test_a_reason_that_a_kill_tore_costs_no_other(tmp_path):
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


def test_rows_that_were_not_written_are_not_passed_off_as_complete(tmp_path):
    with writer(tmp_path / "f.h5") as file:
        file.write(0, {"features": ROWS[:3]})
        with pytest.raises(DataError, match="1 rows"):
            file.finish()
    assert not (tmp_path / "f.h5").exists()


def test_shapes_that_do_not_fit(tmp_path):
    for features, labels, ids in ((ROWS[0], LABELS, IDS), (ROWS, LABELS[:3], IDS), (ROWS.astype(int), LABELS, IDS)):
        with pytest.raises(ValueError, match="expected"):
            write_features(tmp_path / "f.h5", features, labels, ids, encoder={}, source={})


def in_child(work):
    """Run `work` in a forked process; its exit status, or minus the signal that ended it."""
    child = os.fork()
    if not child:
        status = 1
        with contextlib.suppress(BaseException):
            status = work() or 0
        os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def write_all(path):
    """What an extraction does: the rows that are not there, in blocks of one."""
    with writer(path) as file:
        for row in range(4):
            if not file.is_written(range(row, row + 1)):
                file.write(row, {"features": ROWS[row : row + 1]}, {2: ("c", "torn")} if row == 2 else None)
                file.sync()
        file.finish()


def content(path):
    with h5py.File(path) as file:
        return [file[name][:].tolist() for name in ("features", "labels", "ids", "valid", "errors")]


def test_a_kill_at_any_call_costs_no_row(tmp_path):
    write_all(tmp_path / "whole.h5")
    whole, kills = content(tmp_path / "whole.h5"), 0
    while True:
        folder = tmp_path / str(kills)
        folder.mkdir()
        path = folder / "f.h5"

        def killed_at(call, path=path):
            calls = 0

            def counted(real):
                def maybe_killed(*arguments, **options):
                    nonlocal calls
                    calls += 1
                    if calls > call:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return real(*arguments, **options)

                return maybe_killed

            for name in ("open", "pwrite", "fsync", "fdatasync", "replace", "unlink", "posix_fallocate", "ftruncate"):
                setattr(os, name, counted(getattr(os, name)))
            write_all(path)

        ended = in_child(lambda call=kills: killed_at(call))
        if not path.exists():
            assert ended == -signal.SIGKILL
            write_all(path)
            assert [one.name for one in folder.iterdir()] == ["f.h5"]
        assert content(path) == whole, f"killed at call {kills}"
        if ended == 0:
            break
        kills += 1
    assert kills > 40


@pytest.mark.parametrize(
    ("stage", "left"),
    [
        ("__init__", []),
        ("write", ["f.h5.part", "f.h5.part.errors.0"]),
        ("finish", ["f.h5.part", "f.h5.part.errors.0", "f.h5.part.undo"]),
    ],
)
def test_a_full_disk_is_one_sentence_and_costs_no_row(tmp_path, monkeypatch, stage, left):
    """A limit of a file's size stands for the end of the disk."""
    write_all(tmp_path / "whole.h5")
    path = tmp_path / "limited" / "f.h5"

    def limited():
        real = getattr(FeatureWriter, stage)

        def with_little_room(self, *arguments, **options):
            size = path.with_name("f.h5.part").stat().st_size if stage == "finish" else 1000
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100_000 * (stage == "finish"),) * 2)
            return real(self, *arguments, **options)

        monkeypatch.setattr(FeatureWriter, stage, with_little_room)
        try:
            write_all(path)
        except DataError as error:
            return 0 if "Cannot write" in str(error) and "too large" in str(error) else 2
        return 3

    assert in_child(limited) == 0
    assert sorted(one.name for one in path.parent.iterdir()) == left
    write_all(path)
    assert content(path) == content(tmp_path / "whole.h5")
    assert [one.name for one in path.parent.iterdir()] == ["f.h5"]


def test_rows_that_the_file_has_not_are_rejected(tmp_path):
    """They would lie on the bytes of other datasets."""
    with writer(tmp_path / "f.h5") as file:
        before = (tmp_path / "f.h5.part").read_bytes()
        for start, values, reasons in (
            (3, ROWS[:2], {}),
            (-1, ROWS[:1], {}),
            (0, ROWS[:, :2], {}),
            (1, ROWS[:2], {0: ("a", "torn")}),
        ):
            with pytest.raises(ValueError, match="file"):
                file.write(start, {"features": values}, reasons)
        with pytest.raises(ValueError, match="cannot take"):
            file.write(0, {"features": ROWS, "views": ROWS})
        assert (tmp_path / "f.h5.part").read_bytes() == before


def test_a_file_finished_by_another_process_meanwhile_is_left(tmp_path):
    write_all(tmp_path / "f.h5")
    before = (tmp_path / "f.h5").read_bytes()
    with pytest.raises(DataError, match="already exists"):
        writer(tmp_path / "f.h5")
    assert (tmp_path / "f.h5").read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["f.h5"]


def test_a_process_left_over_from_an_earlier_run_is_in_the_way(tmp_path):
    path = tmp_path / "f.h5"
    first, second = writer(path), writer(path, number=1)
    first.close()  # as a kill does
    with pytest.raises(DataError, match="Another process"):
        writer(path)
    second.close()
    writer(path).close()


def test_a_damaged_part_file_is_rejected_not_overwritten(tmp_path):
    (tmp_path / "f.h5.part").write_bytes(b"a night of work" * 1000)
    with pytest.raises(DataError, match=r"damaged.*delete it"):
        writer(tmp_path / "f.h5")
    assert (tmp_path / "f.h5.part").read_bytes() == b"a night of work" * 1000
    with pytest.raises(DataError, match="already exists"):
        write_features(tmp_path / "f.h5", ROWS, LABELS, IDS, encoder={}, source={})


def test_a_reason_that_hdf5_cannot_hold(tmp_path):
    with writer(tmp_path / "f.h5") as file:
        file.write(0, {"features": ROWS}, {0: ("a", "header b'\0'"), 1: ("ü/b", "no \udcff.jpg")})
        assert file.finish() == 2
    assert [error[2] for error in content(tmp_path / "f.h5")[4]] == [b"header b'\\0'", b"no \\udcff.jpg"]


def test_rows_whose_reasons_are_lost_are_computed_again(tmp_path):
    path = tmp_path / "f.h5"
    with writer(path) as file:
        file.write(0, {"features": ROWS}, {2: ("c", "torn")})
        (tmp_path / "f.h5.part.errors.0").write_bytes(b"\0\0\n5\n[99, 1, 2]")
        with pytest.raises(DataError, match="reasons of 1 unreadable rows"):
            file.finish()
    write_all(path)
    assert content(path)[4] == [(2, b"c", b"torn")]
