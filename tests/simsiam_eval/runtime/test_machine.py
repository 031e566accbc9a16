import tempfile

import pytest

from simsiam_eval.errors import DataError
from simsiam_eval.runtime import machine
from simsiam_eval.runtime.machine import local_processes, worker_count


@pytest.mark.parametrize(
    ("cores", "processes", "in_memory", "expected"),
    [(8, None, False, 8), (64, None, False, 16), (8, "2", False, 4), (2, "8", False, 1), (8, None, True, 0)],
)
def test_one_worker_per_core_of_this_process_but_none_for_images_in_memory(
    cores, processes, in_memory, expected, monkeypatch
):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if processes:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    monkeypatch.setattr(machine, "usable_cores", lambda: cores)
    assert worker_count(None, in_memory) == expected


def test_processes_of_a_launcher_that_does_not_say_how_many_are_local(monkeypatch):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert local_processes() == 1
    monkeypatch.setenv("RANK", "3")
    assert local_processes() == 4
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert local_processes() == 2


def test_a_given_number_of_workers_is_kept():
    assert worker_count(40) == 40
    assert worker_count(0, in_memory=True) == 0


def test_workers_need_a_folder_for_temporary_files(monkeypatch):
    """Without one, they would wait forever to send a batch."""
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", list)
    with pytest.raises(DataError, match=r"folder for temporary files, and none is writable: set \$TMPDIR"):
        worker_count(2)
    assert worker_count(0) == 0
