"""A command made from settings: its options, and its help."""

import re
import shlex
from dataclasses import dataclass, fields as fields_of
from pathlib import Path
from typing import Any, ClassVar

import pytest
from click.testing import CliRunner

from simsiam_eval.commands.options import GROUPS, command, default_text
from simsiam_eval.commands.record import Result, Table
from simsiam_eval.commands.settings import DeviceSettings, Settings, setting
from simsiam_eval.commands.table import COMMANDS
from tests.simsiam_eval.commands.oven import bake, settings_of


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
    rejected = bake("rye", option, given)
    assert (rejected.exit_code, says in rejected.stderr) == (2, True), rejected.output


def test_without_arguments_help_is_shown():
    assert "--bake-time" in bake().output


def test_help_says_defaults_and_those_of_each_preset():
    shown = " ".join(bake("--help").output.split())
    assert "[default: by --preset: bread 220.0; cake 180.0]" in shown
    assert "--steam / --no-steam" in shown
    assert "Wet. [default: on]" in shown
    assert "[default: 30]" in shown


def test_help_names_what_is_given_by_position_and_says_what_it_is():
    shown = bake("--help").output
    assert "[OPTIONS] WHAT\n" in shown
    assert "WHAT Dough." in " ".join(shown.split())
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
    assert default_text(fields["salt"], Grill) == "by --preset: a 2"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_example_of_a_command_can_be_parsed(name):
    settings_class, runs = COMMANDS[name].settings_class(), []

    def run(settings):
        runs.append(settings)
        return Result(name, {}, {}, {}, Table("t", ("a",), []))

    assert settings_class.EXAMPLES
    for example in settings_class.EXAMPLES:
        result = CliRunner().invoke(command(name, settings_class, run), shlex.split(example))
        assert result.exit_code == 0, result.output
        shown = CliRunner().invoke(command(name, settings_class, run), ["--help"]).output
        assert f"simsiam-eval {name} {example}\n" in shown
    assert len(runs) == len(settings_class.EXAMPLES)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_groups_of_a_command_are_known_and_hold_settings(name):
    for base in COMMANDS[name].settings_class().__mro__[:-1]:
        assert set(base.GROUPS) <= set(GROUPS)
        names = " ".join(base.__dict__.get("GROUPS", {}).values()).split()
        assert len(set(names)) == len(names) and set(names) <= set(base.__annotations__)


def test_help_shows_required_options_first_and_common_ones_last():
    @dataclass(frozen=True, kw_only=True)
    class Grill(DeviceSettings):
        GROUPS: ClassVar[dict[str, str]] = {"output": "out", "data": "meat bread"}
        EXAMPLES: ClassVar[tuple[str, ...]] = ("dish --meat beef",)

        heat: int = setting(3, help="Of the coals.")
        out: Path | None = setting(None, help="Plate.")
        meat: str = setting(help="What to grill.")
        bread: bool = setting(False, help="With bread.")
        dish: str = setting(positional=True, help="Name.")

    shown = CliRunner().invoke(command("grill", Grill, lambda settings: None), ["--help"]).output
    headings = re.findall(r"^ *([A-Z][a-z ]+):$", shown, re.MULTILINE)
    assert headings == [
        "Positional arguments",
        "Required",
        "Data",
        "Protocol",
        "Output",
        "Machine",
        "Common",
        "Example",
    ]
    order = ["DISH  ", "--meat", "--bread", "--heat", "--out", "--device", "--config", "--help", "dish --meat beef"]
    assert sorted(order, key=shown.index) == order


def test_a_typo_is_answered_by_the_near_option():
    assert "--bake-time" in bake("rye", "--bake-tmie", "3").stderr


@pytest.mark.parametrize(
    ("command", "named"),
    [
        (("import", "a.npy", "--to", "a.txt"), "--to must end in .h5"),
        (("import", "a.npy", "--out=a.txt"), "--out must end in .h5"),
        (("knn", "--train", "a.h5", "--test", "b.h5", "--k", 0), "--k must be at least 1"),
        (("knn", "--train", "a.h5", "--test", "b.h5", "-k", 0), "-k must be at least 1"),
        (("linear-eval", "--train", "a.h5", "--test", "b.h5", "--c", 1), "--c cannot be used"),
    ],
)
def test_an_error_names_the_option_as_it_was_typed(call, command, named):
    result = call(*command)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: {named}")


def test_percentages_are_rejected_with_the_number():
    extract = command("extract", COMMANDS["extract"].settings_class(), lambda settings: pytest.fail("runs"))
    for value, says in (("5%", "'5%' is not a number; write 0.05"), ("5", "must be at most 1, got 5.\n")):
        arguments = ["--max-unreadable", value, "--checkpoint", "a", "--data", "b", "--out", "c.h5"]
        shown = CliRunner().invoke(extract, arguments)
        assert shown.exit_code == 2 and says in shown.output
