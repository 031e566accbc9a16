"""The config file: its tables, what goes before what, and what is wrong with it."""

from dataclasses import dataclass

import pytest
from click.testing import CliRunner

from simsiam_eval.commands.options import command
from simsiam_eval.commands.record import Result, Table
from simsiam_eval.commands.settings import Settings, setting
from tests.simsiam_eval.commands.oven import bake, settings_of


@pytest.fixture
def config(tmp_path):
    def write(text):
        path = tmp_path / "oven.toml"
        path.write_text(text)
        return path

    return write


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
    rejected = bake("rye", "--config", config(text))
    assert (rejected.exit_code, says in rejected.stderr) == (2, True), rejected.output


@pytest.mark.parametrize("text", ["heat = 5\nbake-time = 7\n", "[bake]\nheat = 5\nbake_time = 7\n[knn]\nx = 1\n"])
def test_config_is_read_from_the_top_level_or_the_commands_table(config, text):
    found = settings_of("rye", "--config", config(text))
    assert (found["heat"], found["bake_time"]) == (5.0, 7)


def test_a_config_file_of_a_windows_editor(config):
    path = config("")
    path.write_bytes("\ufeffheat = 5\n".encode())
    assert settings_of("rye", "--config", path)["heat"] == 5


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


@dataclass(frozen=True, kw_only=True)
class Fridge(Settings):
    """Cools."""

    shelves: int = setting(3, help="How many.")


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ('seed = 3\ndevice = "cpu"\nprecision = "bf16"\nshelves = 2\n', 0),
        ("[fridge]\nseed = 3\n", 2),
        ("speed = 3\n", 2),
    ],
)
def test_a_command_ignores_device_precision_and_seed_of_all_commands_only(config, text, status):
    def cool(settings):
        return Result("fridge", settings.to_dict(), {}, {}, Table(str(settings.shelves), ("a",), []))

    run = CliRunner().invoke(command("fridge", Fridge, cool), ["--config", str(config(text))])
    assert (run.exit_code, run.stdout) == (status, "" if status else "2\n")
