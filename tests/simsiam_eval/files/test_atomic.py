import os
import resource
import stat

import pytest
import torch

from simsiam_eval.errors import DataError
from simsiam_eval.files.atomic import atomic_write, reject_unwritable, write_csv


def test_writes_and_replaces(tmp_path):
    path = tmp_path / "file"
    for content in (b"old", b"new"):
        with atomic_write(path) as file:
            file.write(content)
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


def test_old_file_stands_until_the_end(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with atomic_write(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_exception_leaves_the_old_file_and_no_other(tmp_path, error):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(error), atomic_write(path) as file:
        file.write(b"half")
        raise error
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_mode_follows_the_umask(tmp_path):
    old = os.umask(0o022)
    try:
        with atomic_write(tmp_path / "file"):
            pass
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644


def test_symbolic_link_stays(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with atomic_write(tmp_path / "link") as file:
        file.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"new"


def test_missing_folder(tmp_path):
    with pytest.raises(DataError, match="no such file or directory"), atomic_write(tmp_path / "none" / "file"):
        pass


def test_path_is_a_folder(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="is a folder"), atomic_write(tmp_path / "folder"):
        pass
    assert os.listdir(tmp_path) == ["folder"]


@pytest.fixture
def small_disk():
    """No file may pass 100 kB: a write past it fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("small_disk")
@pytest.mark.parametrize(
    "write",
    [
        lambda file: file.write(bytes(1_000_000)),
        lambda file: torch.save({"weight": torch.zeros(100, 1000)}, file),
    ],
)
def test_full_disk(tmp_path, write):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(DataError, match="cannot be written"), atomic_write(path) as file:
        write(file)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_another_files_error_is_not_taken_for_ours(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "file"):
        (tmp_path / "other").read_bytes()


def test_a_table_is_whole_or_the_old_one(tmp_path):
    path = tmp_path / "t.csv"
    write_csv(path, ("id", "n"), [("a,b", 1), ("ü", 2)])
    old = path.read_bytes()
    assert old.decode().splitlines() == ["id,n", '"a,b",1', "ü,2"]

    def rows():
        yield ("c", 3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_csv(path, ("id", "n"), rows())
    assert path.read_bytes() == old
    with pytest.raises(DataError, match="cannot be written"):
        write_csv(tmp_path / "nowhere" / "t.csv", ("id",), [])


def test_a_name_that_is_too_long_is_a_sentence(tmp_path):
    for refuse in (reject_unwritable, lambda path: atomic_write(path).__enter__()):
        with pytest.raises(DataError, match="name too long"):
            refuse(tmp_path / ("n" * 300) / "x")
        with pytest.raises(DataError, match="name too long"):
            refuse(tmp_path / ("n" * 300))


@pytest.mark.parametrize("refuse", [reject_unwritable, lambda path: atomic_write(path).__enter__()])
def test_what_is_no_file_is_not_replaced(tmp_path, refuse):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for name in ("pipe", "link"):
        with pytest.raises(DataError, match="no regular file"):
            refuse(tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["link", "pipe"]
