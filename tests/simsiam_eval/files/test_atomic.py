import os
import resource
import stat
from pathlib import Path

import pytest
import torch

from simsiam_eval.errors import DataError
from simsiam_eval.files.atomic import (
    atomic_files,
    atomic_folder,
    atomic_write,
    make_folder,
    reject_unwritable,
    write_csv,
)


def test_file_is_written_and_replaced(tmp_path):
    path = tmp_path / "file"
    for content in (b"old", b"new"):
        with atomic_write(path) as file:
            file.write(content)
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


def test_old_file_stays_until_the_block_ends(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with atomic_write(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_exception_leaves_only_the_old_file(tmp_path, error):
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


def test_target_of_a_symbolic_link_is_replaced(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with atomic_write(tmp_path / "link") as file:
        file.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"new"


def test_missing_folders_are_created(tmp_path):
    reject_unwritable(tmp_path / "a" / "b" / "file")
    assert not list(tmp_path.iterdir())
    with atomic_write(tmp_path / "a" / "b" / "file"):
        pass
    with atomic_folder(tmp_path / "c" / "d") as folder:
        (folder / "file").touch()
    with atomic_files(tmp_path / "e" / "f" / "file") as folder:
        (folder / "file").touch()
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("file")) == [
        "a/b/file",
        "c/d/file",
        "e/f/file",
    ]


@pytest.mark.parametrize("create", [reject_unwritable, make_folder, lambda path: atomic_write(path).__enter__()])
def test_folders_of_the_root_and_those_in_a_file_are_not_created(tmp_path, create):
    with pytest.raises(DataError, match=r"\(/misspelled does not exist\)"):
        create(Path("/misspelled/folder/file"))
    assert not Path("/misspelled").exists()
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="not a directory"):
        create(tmp_path / "file" / "folder" / "file")


def test_folder_is_not_replaced(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="is a folder"), atomic_write(tmp_path / "folder"):
        pass
    assert os.listdir(tmp_path) == ["folder"]


@pytest.fixture
def small_disk():
    """Limits files to 100 kB; longer writes fail as on a full disk."""
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
def test_full_disk_leaves_only_the_old_file(tmp_path, write):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(DataError, match="cannot be written"), atomic_write(path) as file:
        write(file)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_errors_of_other_files_are_not_changed(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "file"):
        (tmp_path / "other").read_bytes()


def test_csv_is_written_atomically(tmp_path):
    path = tmp_path / "t.csv"
    write_csv(path, ("id", "n"), [("a,b", 1), ("ü", 2)])
    original = path.read_bytes()
    assert original.decode().splitlines() == ["id,n", '"a,b",1', "ü,2"]

    def rows():
        yield ("c", 3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_csv(path, ("id", "n"), rows())
    assert path.read_bytes() == original
    with pytest.raises(DataError, match="cannot be written"):
        write_csv(path / "t.csv", ("id",), [])


def test_name_that_is_too_long_is_an_error(tmp_path):
    for open_for_writing in (reject_unwritable, lambda path: atomic_write(path).__enter__()):
        with pytest.raises(DataError, match="name too long"):
            open_for_writing(tmp_path / ("n" * 300) / "x")
        with pytest.raises(DataError, match="name too long"):
            open_for_writing(tmp_path / ("n" * 300))


@pytest.mark.parametrize("open_for_writing", [reject_unwritable, lambda path: atomic_write(path).__enter__()])
def test_special_files_are_not_replaced(tmp_path, open_for_writing):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for name in ("pipe", "link"):
        with pytest.raises(DataError, match="not a regular file"):
            open_for_writing(tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["link", "pipe"]
