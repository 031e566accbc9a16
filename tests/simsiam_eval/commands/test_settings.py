"""Settings: presets, checks that name the option, and plain values in and out."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from pretrain.settings import PretrainSettings
from simsiam_eval.commands.fields import field_types
from simsiam_eval.commands.settings import DeviceSettings, PrecisionSettings, SeedSettings, Settings, setting
from simsiam_eval.errors import DataError, UsageError
from tasks.convert import ConvertSettings
from tasks.knn import KnnSettings
from tasks.linear.settings import LinearEvalSettings
from tasks.retrieval.build import RetrievalBuildSettings


@dataclass(frozen=True, kw_only=True)
class Oven(DeviceSettings, PrecisionSettings, SeedSettings):
    """Bakes."""

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "bread": {"heat": 220.0, "steam": True, "racks": (1,)},
        "cake": {"heat": 180.0, "steam": False, "racks": (1, 2)},
    }

    out: Path = setting(help="Where to.")
    preset: str = setting("bread", choices=tuple(PRESETS), help="What.")
    heat: float = setting(by_preset=True, above=0, at_most=300, help="Degrees.")
    steam: bool = setting(by_preset=True, help="Wet.")
    racks: tuple[int, ...] = setting(by_preset=True, at_least=1, once=True, help="Which.")
    layers: tuple[int, ...] = setting((), help="Of dough, in cm.")
    rack_count: int | None = setting(None, at_least=1, help="How many.")


def test_preset_fills_what_is_not_given():
    oven = Oven(out="x", preset="cake")
    assert (oven.heat, oven.steam, oven.racks) == (180.0, False, (1, 2))
    assert Oven(out="x").heat == 220.0


def test_a_given_value_goes_before_the_preset_even_where_it_is_false():
    oven = Oven(out="x", preset="bread", steam=False, heat=1, racks=[7])
    assert (oven.heat, oven.steam, oven.racks) == (1.0, False, (7,))
    assert isinstance(oven.heat, float)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"heat": 0}, "--heat must be above 0"),
        ({"heat": 301.0}, "--heat must be at most 300"),
        ({"heat": float("nan")}, "--heat must be a finite number"),
        ({"heat": float("inf")}, "--heat must be a finite number"),
        ({"heat": 1e40}, "--heat must be a finite number within"),
        ({"heat": "hot"}, "--heat must be a number, got 'hot'"),
        ({"heat": True}, "--heat must be a number"),
        ({"steam": 1}, "--steam must be true or false"),
        ({"racks": (1, 0)}, "--racks must be at least 1, got 0"),
        ({"racks": ()}, "--racks requires a value"),
        ({"rack_count": 0}, "--rack-count must be at least 1"),
        ({"rack_count": 1.5}, "--rack-count must be an integer, got 1.5"),
        ({"out": 3}, "--out must be a path"),
        ({"preset": "soup"}, "--preset must be one of bread, cake, got 'soup'"),
        ({"precision": "fp8"}, "--precision must be one of float32, bf16, got 'fp8'"),
        ({"seed": -1}, "--seed must be at least 0"),
        ({"seed": 2**32}, "--seed must be at most"),
        ({"device": None}, "--device must be a string"),
    ],
)
def test_a_wrong_value_is_rejected_by_the_name_of_its_option(wrong, says):
    with pytest.raises(UsageError) as rejected:
        Oven(**({"out": "x"} | wrong))
    assert says in str(rejected.value)


@pytest.mark.parametrize("bound", [{"seed": 0}, {"seed": 2**32 - 1}, {"heat": 300}, {"rack_count": 1}])
def test_the_bounds_themselves_are_allowed(bound):
    (name, value), oven = next(iter(bound.items())), Oven(out="x", **bound)
    assert getattr(oven, name) == value


def test_a_path_may_start_at_home():
    assert Oven(out="~/bread").out == Path.home() / "bread"


def test_of_values_that_must_differ_equal_ones_count_once():
    oven = Oven(out="x", racks=(3, 1, 3), layers=(3, 1, 3))
    assert (oven.racks, oven.layers) == ((3, 1), (3, 1, 3))


def test_one_value_stands_for_a_list_of_one():
    assert Oven(out="x", racks=3).racks == (3,)


def test_from_mapping_rejects_unknown_keys_and_names_missing_ones():
    assert Oven.from_mapping({"out": "x", "heat": 5}) == Oven(out=Path("x"), heat=5.0)
    with pytest.raises(UsageError, match=r"Unknown setting 'color'.*racks"):
        Oven.from_mapping({"out": "x", "color": "red"})
    with pytest.raises(UsageError, match=r"--out is required"):
        Oven.from_mapping({"heat": 5})


def test_to_dict_is_json_and_goes_back():
    oven = Oven(out="a/b", preset="cake", heat=7)
    plain = json.loads(json.dumps(oven.to_dict(), allow_nan=False))
    assert plain["out"] == "a/b"
    assert plain["racks"] == [1, 2]
    assert plain["rack_count"] is None
    assert Oven.from_mapping(plain) == oven


def test_replace_keeps_the_rest_and_checks_again():
    oven = dataclasses.replace(Oven(out="x", preset="cake"), heat=9.0)
    assert (oven.heat, oven.racks, oven.out) == (9.0, (1, 2), Path("x"))
    with pytest.raises(UsageError, match="--heat"):
        dataclasses.replace(oven, heat=-1.0)


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Oven(out="x").heat = 3.0


def test_field_types_leave_presets_out():
    kinds = field_types(Oven)
    assert kinds["racks"] == (int, True, False)
    assert kinds["rack_count"] == (int, False, True)
    assert "PRESETS" not in kinds


@pytest.mark.parametrize("settings_class", [PretrainSettings, KnnSettings, LinearEvalSettings])
def test_every_preset_has_exactly_the_fields_that_come_from_it_and_passes_the_checks(settings_class):
    by_preset = {field.name for field in dataclasses.fields(settings_class) if field.metadata["by_preset"]}
    required = {field.name: "x" for field in dataclasses.fields(settings_class) if field.default is dataclasses.MISSING}
    for preset, values in settings_class.PRESETS.items():
        assert set(values) == by_preset, preset
        made = settings_class(preset=preset, **required)
        assert {name: getattr(made, name) for name in by_preset} == values


@pytest.mark.parametrize(
    ("settings_class", "values", "says"),
    [
        (PretrainSettings, {"data": "digits", "out": "x", "image_size": 8}, "--image-size"),
        (LinearEvalSettings, {"train": "a.h5", "test": "b.h5", "momentum": 1.0}, "--momentum"),
    ],
)
def test_settings_that_contradict_each_other_are_rejected(settings_class, values, says):
    with pytest.raises(UsageError, match=says):
        settings_class(**values)


def test_a_protocol_with_other_values_says_so():
    sets = {"train": "a.h5", "test": "b.h5"}
    assert KnnSettings(**sets).protocol() == "dino"
    assert KnnSettings(**sets, temperature=1).protocol() == "dino, changed: temperature"


def test_a_path_ends_as_it_must():
    @dataclass(frozen=True, kw_only=True)
    class Photo(Settings):
        out: Path | None = setting(None, endings=(".png", ".html"), help="Where.")

    assert Photo(out="A.PNG").out == Path("A.PNG")
    assert Photo().out is None
    with pytest.raises(UsageError, match=r"--out must end in \.png or \.html, got a\.gif\."):
        Photo(out="a.gif")


@dataclass(frozen=True, kw_only=True)
class Reader(Settings):
    read: tuple[Path, ...] = setting((), positional=True, help="Files.")
    spec: str | None = setting(None, help="Another.")
    out: Path | None = setting(None, output=True, help="Written.")
    table: Path | None = setting(None, output=True, help="Written too.")


def test_an_output_is_no_input_and_no_other_output(tmp_path):
    there = tmp_path / "there"
    there.write_text("x")
    (tmp_path / "link").symlink_to(there)
    for values, says in (
        (dict(read=[tmp_path / "else", there], out=there), "--out .* would overwrite the file of READ"),
        (dict(spec=str(there), out=tmp_path / "link"), "--out .* would overwrite the file of --spec"),
        (
            dict(out=tmp_path / "new", table=tmp_path / "x" / ".." / "new"),
            "--table .* would overwrite the file of --out",
        ),
    ):
        with pytest.raises(UsageError, match=says):
            Reader(**values)
    assert Reader(read=[there], spec="new", out=tmp_path / "new").out == tmp_path / "new"
    for spec in (f"manifest:{there}", f"manifest:{there}#label=label", f"{there}#label=label"):
        with pytest.raises(UsageError, match="would overwrite the file of --spec"):
            Reader(spec=spec, out=there)
    with pytest.raises(UsageError, match=r"--out .*index\.h5 would overwrite the file of --gallery"):
        (tmp_path / "g.index.h5").write_text("x")
        RetrievalBuildSettings(gallery=str(tmp_path / "g.index.h5"), out=tmp_path / "g.index")
    (tmp_path / "timm").write_text("x")
    assert ConvertSettings(checkpoint=there, to="timm", out=tmp_path / "timm.pth").to == "timm"


def test_outputs_are_tried(tmp_path):
    Reader(out=tmp_path / "new", table=tmp_path / "other" / "x").try_outputs()
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="file/x cannot be written"):
        Reader(table=tmp_path / "file" / "x").try_outputs()


def test_values_that_no_library_can_take(monkeypatch, tmp_path):
    for values in (dict(rack_count=10**13), dict(out="a\0b"), dict(heat=float("nan")), dict(heat=1e-320)):
        with pytest.raises(UsageError, match="must"):
            Oven(**{"out": "x"} | values)
    monkeypatch.setenv("HOME", str(tmp_path))
    found = Reader(spec="~/train.h5", out="~/out", table="~nobody-of-this-name/x")
    assert (found.spec, found.out) == (f"{tmp_path}/train.h5", tmp_path / "out")
    assert found.table == Path("~nobody-of-this-name/x")


def test_numbers_and_arrays_of_numpy_and_torch_are_taken():
    oven = Oven(out=Path("x"), heat=np.float32(5), steam=np.bool_(True), racks=np.array([2, 3]), rack_count=np.int64(4))
    assert (oven.heat, oven.steam, oven.racks, oven.rack_count) == (5.0, True, (2, 3), 4)
    assert [type(value) for value in (oven.heat, oven.steam, *oven.racks)] == [float, bool, int, int]
    assert Oven(out="x", racks=[np.int64(2), torch.tensor(3)], preset=np.str_("cake")).racks == (2, 3)
    assert Oven(out="x", racks=torch.tensor([2, 3])).racks == (2, 3) == Oven(out="x", racks=range(2, 4)).racks
    assert type(Reader(spec=Path("a") / "b").spec) is str
    for wrong in (np.float64(1.5), np.array([[1]]), np.bool_(True)):
        with pytest.raises(UsageError, match="--racks must be an integer"):
            Oven(out="x", racks=wrong)


@pytest.mark.usefixtures("messages_name_arguments")
def test_from_python_a_message_names_the_argument():
    for wrong, says in (({"rack_count": 0}, "rack_count must be"), ({"k": 0}, "k must be at least 1, got 0.")):
        with pytest.raises(UsageError) as error:
            KnnSettings(train="a.h5", test="b.h5", **wrong) if "k" in wrong else Oven(out="x", **wrong)
        assert str(error.value).startswith(says)


@pytest.mark.usefixtures("messages_name_arguments")
def test_from_python_a_message_names_an_argument_that_the_command_line_takes_by_position(tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(UsageError, match=r"^out .*x would overwrite the file of read: choose another path"):
        Reader(read=tmp_path / "x", out=tmp_path / "x")
    with pytest.raises(UsageError, match=r"^read must be a path, got 3"):
        Reader(read=3)
