"""The program: help without torch, and the ways to start it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli import main
from simsiam_eval.commands.table import COMMANDS

ROOT = Path(__file__).parents[3]


def test_no_help_imports_torch():
    code = (
        "import sys, click, cli\n"
        "from click.testing import CliRunner\n"
        "for words in [[], *([name] for name in cli.main.commands)]:\n"
        "    shown = CliRunner().invoke(cli.main, words + ['--help'])\n"
        "    assert shown.exit_code == 0 and 'Usage' in shown.output, shown.output\n"
        "    print(words)\n"
        "heavy = {'torch', 'torchvision', 'faiss', 'sklearn', 'h5py', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert len(run.stdout.splitlines()) >= 7


def test_cli_py_runs_as_a_script():
    run = subprocess.run([sys.executable, "cli.py", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "linear-eval" in run.stdout


def test_the_program_lists_its_commands_in_order_and_whole():
    shown = CliRunner().invoke(main, ["--help"]).output
    names = list(dict.fromkeys(name.split()[0] for name in COMMANDS))
    assert re.findall(r"^  ([a-z][a-z-]*)  ", shown, re.MULTILINE) == names
    assert "..." not in shown.partition("\n")[2]
    for heading in {command.section for command in COMMANDS.values()}:
        assert f"\n{heading}:\n" in shown
    group = CliRunner().invoke(main, ["retrieval", "--help"]).output
    assert re.findall(r"^  ([a-z-]+)  ", group, re.MULTILINE) == ["eval", "build", "search"]


def test_a_typo_is_answered_by_the_near_command():
    assert "'knn'" in CliRunner().invoke(main, ["kmn"]).stderr
    assert "'search'" in CliRunner().invoke(main, ["retrieval", "serach"]).stderr


@pytest.mark.parametrize("program", ["python -m simsiam_eval", "simsiam-eval", "python cli.py"])
def test_modules_of_the_same_names_in_the_working_folder_change_nothing(program, tmp_path):
    for name in ("tasks", "pretrain", "cli"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    start = {
        "python -m simsiam_eval": [sys.executable, "-m", "simsiam_eval"],
        "simsiam-eval": [Path(sys.executable).parent / "simsiam-eval"],
        "python cli.py": [sys.executable, ROOT / "cli.py"],
    }[program]
    if not Path(start[0]).exists():
        pytest.skip("simsiam-eval is not installed beside this Python")
    environment = os.environ | ({"PYTHONPATH": str(ROOT)} if "-m" in start else {})
    for arguments, status, says in (
        (["--help"], 0, "linear-eval"),
        (["inspect", "none.pth"], 1, "none.pth"),
        (["pretrain", "--preset", "digits", "--data", "nowhere:x", "--out", "run"], 2, "nowhere"),
    ):
        run = subprocess.run([*start, *arguments], cwd=tmp_path, capture_output=True, text=True, env=environment)
        assert (run.returncode, says in run.stdout + run.stderr) == (status, True), run.stderr


def test_help_is_whole_at_a_narrow_width():
    for words in ([], ["retrieval"]):
        shown = CliRunner().invoke(main, [*words, "--help"], terminal_width=60).output
        assert "..." not in shown.partition("\n")[2]
    assert "--version" in CliRunner().invoke(main, ["--help"]).output
