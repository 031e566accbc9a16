"""A command for these tests."""

import json
from dataclasses import dataclass
from typing import Any, ClassVar

from click.testing import CliRunner

from simsiam_eval.commands.options import command
from simsiam_eval.commands.record import Result, Table
from simsiam_eval.commands.settings import DeviceSettings, PrecisionSettings, SeedSettings, setting
from simsiam_eval.errors import DataError, UsageError
from simsiam_eval.runtime.progress import say


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


def bake_it(settings):
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
    made = command("bake", Oven, bake_it)
    return CliRunner().invoke(made, [str(one) for one in arguments])


def settings_of(*arguments):
    result = bake(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)["settings"]
