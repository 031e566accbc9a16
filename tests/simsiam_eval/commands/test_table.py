"""The table of commands: every entry can be imported, and imports this project's modules whatever others are called."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed.run

from simsiam_eval.commands.settings import Settings
from simsiam_eval.commands.table import COMMANDS, GROUPS, load

ROOT = Path(__file__).parents[3]
NAMES = (
    "demo pretrain inspect convert extract import verify merge export linear-eval predict knn retrieval serve duplicates "
    "suspects compare rank detect atlas runs report"
)


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_every_command_has_its_settings_and_its_function(command):
    assert issubclass(command.settings_class(), Settings)
    assert load(command.function).__name__ == command.python_name
    assert set(command.uses) <= set(COMMANDS)
    assert command.summary.endswith(".") and "\n" not in command.summary


def test_commands_are_in_the_order_of_the_pipeline():
    assert list(dict.fromkeys(name.split()[0] for name in COMMANDS)) == NAMES.split()
    assert set(GROUPS) == {name.split()[0] for name in COMMANDS if " " in name}


def test_a_module_of_the_same_name_that_comes_first_is_not_imported(tmp_path):
    for name in ("tasks", "pretrain", "cli"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    code = (
        f"import sys; sys.path.append({str(ROOT)!r})\n"
        "from simsiam_eval.commands.table import COMMANDS, load\n"
        "for command in COMMANDS.values(): command.settings_class()\n"
        "load('cli:main')"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_a_module_of_the_same_name_that_is_imported_already_is_named(tmp_path):
    (tmp_path / "tasks.py").write_text("")
    code = (
        f"import sys, tasks; sys.path.append({str(ROOT)!r})\n"
        "from simsiam_eval.commands.table import COMMANDS\n"
        "from simsiam_eval.errors import UsageError\n"
        "try: COMMANDS['knn'].settings_class()\n"
        "except UsageError as error: print(error)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert "needs its own module 'tasks'" in run.stdout and "tasks.py" in run.stdout, run.stderr


@pytest.mark.parametrize("name", ["pretrain", "extract", "detect"])
def test_num_gpus_starts_the_processes(name, monkeypatch):
    calls = []
    monkeypatch.setattr(torch.distributed.run, "run", calls.append)
    monkeypatch.setattr(sys, "argv", [str(ROOT / "cli.py"), name])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    values = dict(checkpoint="x", out="x.h5", data="digits", train="x", test="x", num_gpus=2, device="cpu")
    known = {field.name for field in dataclasses.fields(COMMANDS[name].settings_class())}
    with pytest.raises(SystemExit, match="0"):
        COMMANDS[name](**{key: value for key, value in values.items() if key in known})
    assert [call.nproc_per_node for call in calls] == ["2"]
