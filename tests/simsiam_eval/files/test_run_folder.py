import os

import pytest

from simsiam_eval.errors import DataError
from simsiam_eval.files.run_folder import LockedFolder, continue_if_unwritable, reject_other_settings


def test_folder_can_be_locked_only_once(tmp_path):
    first = LockedFolder(tmp_path / "a" / "run")
    with pytest.raises(DataError, match=r"Another process is pretraining in .*run: .* another --out"):
        LockedFolder(tmp_path / "a" / "run", "pretraining")
    first.close()
    first.close()
    LockedFolder(tmp_path / "a" / "run").close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder_is_an_error(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(DataError, match="cannot be written"):
        LockedFolder(tmp_path / "run")


def test_file_instead_of_the_folder_is_an_error(tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(DataError, match="cannot be written"):
        LockedFolder(tmp_path / "run")


def test_only_temporary_files_of_a_killed_process_are_removed(tmp_path):
    kept = {"checkpoint.pth", ".notes.tmp", "notes.0123456789ab.tmp", ".lock"}
    for name in (*kept, ".checkpoint.pth.0123456789ab.tmp"):
        (tmp_path / name).write_text("")
    LockedFolder(tmp_path).close()
    assert {path.name for path in tmp_path.iterdir()} == kept


@pytest.mark.parametrize(
    ("saved", "given", "message"),
    [
        ({"lr": 0.1}, {"lr": 0.2}, "a run with --lr 0.1, not 0.2: use the same value"),
        ({}, {"lr": 0.2}, "a run without --lr, not 0.2"),
        ({"lr": 0.1}, {"lr": None}, "a run with --lr 0.1, not none"),
        ({"lr": False}, {"lr": True}, "a run with --no-lr, not --lr"),
    ],
)
def test_error_for_a_different_setting_names_the_option(tmp_path, saved, given, message):
    with pytest.raises(DataError, match=message):
        reject_other_settings(tmp_path, saved, given, (), lambda name: f"--{name}")


def test_equal_and_changeable_settings_are_accepted(tmp_path):
    saved, given = {"lr": 0.1, "workers": 1, "old": 1}, {"lr": 0.1, "workers": 2}
    reject_other_settings(tmp_path, saved, given, {"workers"}, str)


def test_full_disk_is_only_a_warning():
    def write_to_full_disk():
        raise DataError("disk full")

    warnings = []
    assert not continue_if_unwritable(write_to_full_disk, warnings.append)
    assert continue_if_unwritable(lambda: None, warnings.append)
    assert warnings == ["Warning: disk full; training continues"]
