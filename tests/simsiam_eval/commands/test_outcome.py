"""How a command ends: what it prints, its exit status, and its one sentence."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from simsiam_eval.errors import DataError
from tests.simsiam_eval.commands.oven import bake

ROOT = Path(__file__).parents[3]


def test_json_is_alone_on_standard_output_and_strict():
    result = bake("rye", "--json")
    record = json.loads(result.stdout, parse_constant=lambda constant: pytest.fail(constant))
    assert record["task"] == "bake"
    assert record["metrics"] == {"heat": 220.0, "loss": None}
    assert result.stderr == "baking\n"


def test_table_shows_square_brackets_as_they_are():
    result = bake("rye[1]")
    assert result.exit_code == 0
    for shown in ("Baked [bold]", "[red]heat", "rye[1]", "220.0", "a note"):
        assert shown in result.stdout
    assert not result.stdout.startswith("{")


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["rye", "--heat", "0"], 2, "--heat"),
        (["rye", "--heat", "hot"], 2, "--heat"),
        (["rye", "--bake-time", "1.5"], 2, "--bake-time"),
        (["rye", "--preset", "soup"], 2, "soup"),
        (["rye", "--color", "3"], 2, "--color"),
        (["--heat", "3"], 2, "WHAT is required"),
        (["spoon"], 2, "A spoon cannot be baked."),
        (["stone"], 1, "A stone is no dough."),
        (["disk"], 1, "No space left on device"),
        (["interrupt"], 130, "Interrupted"),
        (["pipe"], 1, "Broken pipe"),
        (["memory"], 1, "smaller batch or smaller images (can't allocate memory: you tried 9 bytes)"),
    ],
)
def test_exit_status_and_one_sentence(arguments, status, says):
    result = bake(*arguments, "--json")
    assert result.exit_code == status, result.output
    assert says in result.stderr
    assert "Traceback" not in result.output
    assert result.stdout == ""
    assert isinstance(result.exception, SystemExit)


def test_a_result_with_faults_is_printed_and_the_status_is_1():
    result = bake("matzo", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["metrics"]["heat"] == 220.0
    assert result.stderr == "baking\nError: It is flat.\nError: It is black.\n"
    shown = bake("matzo")
    assert shown.exit_code == 1
    assert "220.0" in shown.stdout
    assert shown.stderr == result.stderr  # not in the table


def ended(code):
    """Status and standard error of a process."""

    def as_in_the_foreground():  # a shell starts background jobs, such as this test run, with Ctrl-C ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    command = [sys.executable, "-c", code]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, preexec_fn=as_in_the_foreground)
    assert run.stdout == ""
    return run.returncode, run.stderr


SIGNALS = [("SIGINT", 130, "Interrupted"), ("SIGTERM", 143, "SIGTERM"), ("SIGHUP", 129, "SIGHUP")]
# What code that a signal interrupts does with its exception.
FATES = {
    "raised": "send()",
    "turned into another one": """
    try:
        send()
    except BaseException:
        raise RecursionError("maximum recursion depth exceeded")""",
    "lost": """
    try:
        send()
    except BaseException:
        pass
    return t.bake_it(settings)""",
    "lost in __del__": """
    class Crumb:
        def __del__(self):
            send()
    Crumb()
    time.sleep(60)""",
}


@pytest.mark.parametrize(("name", "status", "says"), SIGNALS)
@pytest.mark.parametrize("fate", FATES)
def test_a_signal_is_a_sentence_and_a_status(name, status, says, fate):
    returncode, error = ended(f"""
import os, signal, time, tests.simsiam_eval.commands.oven as t
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # these tests may run under nohup
def send():
    os.kill(os.getpid(), signal.{name})
def run(settings):
    {FATES[fate]}
t.command('bake', t.Oven, run)(['rye'])""")
    lines = [line for line in error.splitlines() if line != "baking"]
    assert (returncode, len(lines)) == (status, 1), error
    assert lines[0].startswith(f"Error: {says}. Finished files are complete")


@pytest.mark.parametrize("module", ["click", "tasks.inspect", "torch", "numpy.lib"])
def test_a_signal_during_an_import_is_a_sentence_and_a_status(module):
    returncode, error = ended(f"""
import os, signal, sys
from importlib.abc import MetaPathFinder
from simsiam_eval.__main__ import main
class SignalAtImport(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, SignalAtImport())
sys.argv = ["simsiam-eval", "inspect", "missing.pth"]
main()""")
    assert (returncode, error.count("\n")) == (130, 1), error
    assert error.startswith("Error: Interrupted. Finished files are complete")


def test_a_signal_during_an_import_is_said_once_though_its_exception_waits():
    returncode, error = ended("""
import os, signal, sys, time, tests.simsiam_eval.commands.oven as t
from importlib.abc import MetaPathFinder
from simsiam_eval.commands import outcome
class SignalAtImport(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "colorsys":
            os.kill(os.getpid(), signal.SIGINT)
def say_slowly(message, say=outcome.say):
    time.sleep(0.2)
    say(message)
def run(settings):
    import colorsys
sys.meta_path.insert(0, SignalAtImport())
outcome.say = say_slowly
t.command('bake', t.Oven, run)(['rye'])""")
    assert (returncode, error.count("\n")) == (130, 1), error
    assert error.startswith("Error: Interrupted. Finished files are complete")


def test_debug_shows_where_a_signal_came():
    returncode, error = ended("""
import os, signal, tests.simsiam_eval.commands.oven as t
def rise(settings):
    os.kill(os.getpid(), signal.SIGINT)
t.command('bake', t.Oven, rise)(['rye', '--debug'])""")
    assert returncode == 130
    assert "in rise" in error
    assert error.splitlines()[-1].startswith("Error: Interrupted.")


def test_what_is_printed_can_always_be_printed(tmp_path):
    code = "import sys, tests.simsiam_eval.commands.oven as t\nt.command('bake', t.Oven, t.bake_it)(sys.argv[1:])"

    def run(*arguments, **environment):
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                encoding="latin-1", env=os.environ | environment)  # fmt: skip

    strange = run("Übär :dog: 猫", PYTHONIOENCODING="latin-1:strict")
    shown, said = strange.communicate()
    assert (strange.returncode, said) == (0, "baking\n")
    assert "Übär :dog: \\u732b" in shown
    record = run("rye \udcff", "--json")
    assert "rye" in json.loads(record.communicate()[0])["settings"]["what"]
    for arguments in ((), ("--json",)):
        left = run("rye", *arguments)
        left.stdout.close()  # as `| head -0` does
        assert (left.stderr.read(), left.wait()) == ("baking\n", 0)
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-c", code, "rye"]
        disk = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert disk.returncode == 1 and "Traceback" not in disk.stderr
    assert "Error: Cannot write the result to standard output: no space left on device." in disk.stderr


def test_debug_shows_the_traceback():
    assert isinstance(bake("stone", "--debug").exception, DataError)
    code = (
        "import sys; import tests.simsiam_eval.commands.oven as t\nt.command('bake', t.Oven, t.bake_it)(sys.argv[1:])"
    )
    for more, shown in (([], False), (["--debug"], True)):
        run = subprocess.run([sys.executable, "-c", code, "stone", *more], cwd=ROOT, capture_output=True, text=True)
        assert run.returncode != 0
        assert "A stone is no dough." in run.stderr
        assert ("Traceback" in run.stderr) is shown
