"""The floors of the house, as pyproject.toml lists them: no import runs up, and none in a circle."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_no_import_runs_up_or_in_a_circle(tmp_path):
    command = [Path(sys.executable).with_name("lint-imports"), "--config", ROOT / "pyproject.toml", "--no-cache"]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def test_an_import_that_runs_up_is_found(tmp_path):
    for name in ("simsiam_eval", "pretrain", "tasks"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "simsiam_eval" / "errors.py").open("a") as file:
        file.write("\nimport simsiam_eval.features.rows\n")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    checked = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert checked.returncode == 1
    assert "simsiam_eval.errors -> simsiam_eval.features.rows" in checked.stdout
