"""Which runs a folder may resume."""

from dataclasses import replace

import pytest

from simsiam_eval.errors import DataError
from tasks.detection.run_folder import RunIdentity, run_folder

IDENTITY = RunIdentity({"iterations": 1, "lr": None, "seed": 0}, "a", "b", "torchvision")


def start(folder, identity=IDENTITY, may_resume=True):
    with run_folder(folder, identity, {"seed"}, may_resume):
        pass


def test_same_run_is_resumed(tmp_path):
    start(tmp_path / "run", may_resume=False)
    start(tmp_path / "run")
    start(tmp_path / "run", replace(IDENTITY, settings=IDENTITY.settings | {"seed": 1}))
    with pytest.raises(
        DataError, match="already contains a run; choose another --out, or resume it with --resume auto"
    ):
        start(tmp_path / "run", may_resume=False)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"settings": {"iterations": 5, "lr": None}}, "a run with --iterations 1, not 5"),
        ({"settings": {"iterations": 1, "lr": 1.0}}, r"a run without --lr, not 1\.0"),
        ({"training_set": "c"}, "a run on other data than --train"),
        ({"test_set": "c"}, "a run on other data than --test"),
        ({"backend": "detectron2"}, "a run of backend torchvision, not detectron2; use --backend torchvision"),
    ],
)
def test_other_runs_are_rejected(tmp_path, changed, message):
    start(tmp_path)
    with pytest.raises(DataError, match=message):
        start(tmp_path, replace(IDENTITY, **changed))


def test_folder_is_locked(tmp_path):
    with run_folder(tmp_path, IDENTITY, (), True), pytest.raises(DataError, match="Another process is training"):
        start(tmp_path)
    start(tmp_path)


def test_damaged_file_is_named(tmp_path):
    for content in ("{", "[]"):
        (tmp_path / "run.json").write_text(content)
        with pytest.raises(DataError, match=r"run.json is damaged .*; delete it"):
            start(tmp_path)
