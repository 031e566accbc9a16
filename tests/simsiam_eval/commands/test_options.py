"""A command made from settings: config files, --json, exit statuses, and help without torch."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from dataclasses import fields as fields_of
from pathlib import Path
from typing import Any, ClassVar

import pytest
from click.testing import CliRunner

from simsiam_eval.commands.options import command, default_text
from simsiam_eval.commands.record import Result, Table
from simsiam_eval.commands.settings import DeviceSettings, PrecisionSettings, SeedSettings, Settings, setting
from simsiam_eval.errors import DataError, UsageError
from simsiam_eval.runtime.progress import say

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True, kw_only=True)
class Oven(DeviceSettings, PrecisionSettings, SeedSettings):
    """Bakes."""

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {"bread": {"heat": 220.0}, "cake": {"heat": 180.0}}

    what: str = setting(positional=True, help="Dough.")
    preset: str = setting("bread", choices=tuple(PRESETS), help="Recipe.")
    heat: float = setting(by_preset=True, above=0, help="Degrees.")
    bake_time: int = setting(30, at_least=1, help="Minutes.")
    steam: bool = setting(True, help="Wet.")
    racks: tuple[int, ...] = setting((1,), help="Which.")
    grains: tuple[str, ...] = setting(("rye",), choices=("rye", "oat", "corn"), help="Of the flour.")
    bakers: tuple[str, ...] = setting((), help="Names.")


def _bake(settings):
    say("baking")
    if settings.what == "stone":
        raise DataError("A stone is no dough.")
    if settings.what == "spoon":
        raise UsageError("A spoon cannot be baked.")
    if settings.what == "disk":
        raise OSError(28, "No space left on device")
    if settings.what == "pipe":
        raise BrokenPipeError(32, "Broken pipe")
    if settings.what == "memory":
        raise RuntimeError(
            "[enforce fail at alloc.cpp] . DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"
        )
    if settings.what == "interrupt":
        raise KeyboardInterrupt
    metrics = {"heat": settings.heat, "loss": float("nan")}
    faults = ("It is flat.", "It is black.") if settings.what == "matzo" else ()
    table = Table("Baked [bold]", ("what", "[red]heat"), [[settings.what, str(settings.heat)]], ["a note"])
    return Result(task="bake", settings=settings.to_dict(), metrics=metrics, provenance={}, table=table, faults=faults)


def bake(*arguments):
    made = command("bake", Oven, _bake)
    return CliRunner().invoke(made, [str(one) for one in arguments])


def settings_of(*arguments):
    result = bake(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)["settings"]


@pytest.fixture
def config(tmp_path):
    def write(text):
        path = tmp_path / "oven.toml"
        path.write_text(text)
        return path

    return write


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


def test_a_commands_table_goes_before_the_top_level(config):
    found = settings_of("rye", "--config", config("heat = 5\nseed = 3\n[bake]\nheat = 6\n"))
    assert (found["heat"], found["seed"]) == (6, 3)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("bake_time = 7\nbake-time = 8\n", "twice"),
        ("bake = 3\n", "must be a table"),
        ('preset = [["a"]]\n', "--preset"),
    ],
)
def test_a_config_that_contradicts_itself(config, text, says):
    refused = bake("rye", "--config", config(text))
    assert (refused.exit_code, says in refused.stderr) == (2, True), refused.output


@pytest.mark.parametrize("text", ["heat = 5\nbake-time = 7\n", "[bake]\nheat = 5\nbake_time = 7\n[knn]\nx = 1\n"])
def test_config_is_read_from_the_top_level_or_the_commands_table(config, text):
    found = settings_of("rye", "--config", config(text))
    assert (found["heat"], found["bake_time"]) == (5.0, 7)


def test_a_config_file_of_a_windows_editor(config):
    path = config("")
    path.write_bytes("\ufeffheat = 5\n".encode())
    assert settings_of("rye", "--config", path)["heat"] == 5


@pytest.mark.parametrize(
    "given", [["2,3,5"], ["2", "--racks", "3,5"], ["2, 3", "--racks", "5"], ["2", "--racks", "3", "--racks", "5"]]
)
def test_lists_of_numbers_take_commas(given):
    assert settings_of("rye", "--racks", *given)["racks"] == [2, 3, 5]


def test_lists_of_given_words_take_commas_and_names_keep_theirs():
    found = settings_of("rye", "--grains", "oat,corn", "--bakers", "Smith, John", "--bakers", "Ann")
    assert (found["grains"], found["bakers"]) == (["oat", "corn"], ["Smith, John", "Ann"])


@pytest.mark.parametrize(
    ("option", "given", "says"),
    [
        ("--racks", "2,x", "'x' is not a valid integer"),
        ("--racks", "2,", "'' is not a valid integer"),
        ("--grains", "oat,wheat", "'wheat' is not one of"),
        ("--grains", "", "'' is not one of"),
    ],
)
def test_the_wrong_value_of_a_list_is_named(option, given, says):
    refused = bake("rye", option, given)
    assert (refused.exit_code, says in refused.stderr) == (2, True), refused.output


def test_an_option_goes_before_config_and_config_before_the_preset(config):
    path = config("heat = 5\nsteam = true\nracks = [2, 3]\nbake_time = 7\n")
    found = settings_of("rye", "--config", path, "--preset", "cake", "--no-steam", "--bake-time", 9)
    assert found["heat"] == 5.0
    assert found["racks"] == [2, 3]
    assert found["steam"] is False
    assert found["bake_time"] == 9
    assert settings_of("rye", "--preset", "cake")["heat"] == 180.0
    assert settings_of("rye", "--config", path, "--racks", 8, "--racks", 9)["racks"] == [8, 9]


def test_config_may_choose_the_preset_and_give_what_is_required(config):
    found = settings_of("--config", config('what = "rye"\npreset = "cake"\n'))
    assert (found["what"], found["heat"]) == ("rye", 180.0)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("color = 3\n", "'color'"),
        ("[bake]\ncolor = 3\n", "'color'"),
        ("heat = \n", "is not TOML"),
        ('heat = "hot"\n', "--heat must be a number"),
        ("bake_time = 1.5\n", "--bake-time must be an integer"),
        ('preset = "soup"\n', "--preset must be one of"),
        ("steam = 1\n", "--steam must be true or false"),
        ("racks = []\n", "--racks requires a value"),
    ],
)
def test_a_wrong_config_is_a_sentence_and_status_2(config, text, says):
    result = bake("rye", "--config", config(text), "--json")
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("Error: ")
    assert says in result.stderr
    assert result.stdout == ""


def test_a_config_that_cannot_be_read(tmp_path):
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    for name, says in (("none.toml", "No such file"), (".", "directory"), ("binary.toml", "is not TOML")):
        result = bake("rye", "--config", tmp_path / name)
        assert result.exit_code == 2, name
        assert says in result.stderr


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


def test_a_signal_is_a_sentence_and_a_status():
    for name, status in (("SIGTERM", 143), ("SIGHUP", 129)):
        code = (
            "import os, signal, tests.simsiam_eval.commands.test_options as t\n"
            "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # these tests may run under nohup
            f"t.command('bake', t.Oven, lambda settings: os.kill(os.getpid(), signal.{name}))(['rye'])"
        )
        run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
        assert (run.returncode, run.stderr.count("\n")) == (status, 1), run.stderr
        assert run.stderr.startswith(f"Error: {name}: finished files are whole")


def test_what_is_printed_can_always_be_printed(tmp_path):
    code = "import sys, tests.simsiam_eval.commands.test_options as t\nt.command('bake', t.Oven, t._bake)(sys.argv[1:])"

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
    assert disk.returncode == 1 and "No space left" in disk.stderr and "Traceback" not in disk.stderr


def test_debug_shows_the_traceback():
    assert isinstance(bake("stone", "--debug").exception, DataError)
    code = (
        "import sys; sys.path.insert(0, 'tests/simsiam_eval/commands'); import test_options as t\n"
        "t.command('bake', t.Oven, t._bake)(sys.argv[1:])"
    )
    for more, shown in (([], False), (["--debug"], True)):
        run = subprocess.run([sys.executable, "-c", code, "stone", *more], cwd=ROOT, capture_output=True, text=True)
        assert run.returncode != 0
        assert "A stone is no dough." in run.stderr
        assert ("Traceback" in run.stderr) is shown


def test_without_arguments_help_is_shown():
    assert "--bake-time" in bake().output


def test_help_says_defaults_and_those_of_each_preset():
    shown = " ".join(bake("--help").output.split())
    assert "[bread 220.0, cake 180.0]" in shown
    assert "--steam / --no-steam" in shown
    assert "Wet. [on]" in shown
    assert "[30]" in shown


def test_help_names_what_is_given_by_position_and_says_what_it_is():
    shown = bake("--help").output
    assert "[OPTIONS] WHAT\n" in shown
    assert "WHAT: Dough." in shown
    assert "--what" not in shown


def test_values_that_all_presets_share_are_said_once():
    @dataclass(frozen=True, kw_only=True)
    class Grill(Settings):
        PRESETS: ClassVar[dict[str, dict[str, Any]]] = {"a": {"heat": 1.0, "salt": 2}, "b": {"heat": 1.0, "salt": None}}
        preset: str = setting("a", choices=tuple(PRESETS), help="Recipe.")
        heat: float = setting(by_preset=True, help="Degrees.")
        salt: int | None = setting(by_preset=True, help="Grams.")

    fields = {field.name: field for field in fields_of(Grill)}
    assert default_text(fields["heat"], Grill) == "1.0"
    assert default_text(fields["salt"], Grill) == "a 2"


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
