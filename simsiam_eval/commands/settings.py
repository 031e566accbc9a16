"""Settings: one frozen dataclass per command, which alone defines the type, default and help of its options.

The Click options, the keys of `--config FILE.toml`, the table in docs/settings.md and the JSON record are all read from
these fields. Does not import torch, so that `--help` is fast.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from simsiam_eval.commands.fields import checked_values, field_types, name_of, option_name, setting
from simsiam_eval.errors import UsageError
from simsiam_eval.files.atomic import reject_unwritable
from simsiam_eval.sources.spec import path_of
from simsiam_eval.vocabulary import NO_LABEL, PRECISIONS
from simsiam_eval.wording import counted

__all__ = [
    "DeviceSettings",
    "LabelSettings",
    "PrecisionSettings",
    "ProcessSettings",
    "SeedSettings",
    "Settings",
    "may_change",
    "option_name",
    "setting",
]


def may_change(settings_class: type[Settings]) -> set[str]:
    """Names of the settings that resumed work may have other values of."""
    return {field.name for field in dataclasses.fields(settings_class) if field.metadata["may_change"]}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Base of every command's settings. Values are checked, and filled from the preset, when the object is made.

    Raises:
        UsageError: a value is of the wrong type, out of range or not among the choices; the sentence names the setting.
    """

    # preset name -> values of the `by_preset` fields; a class without presets leaves it empty.
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {}
    # Group of `--help` -> the settings that this class declares in it; the others are in "protocol".
    GROUPS: ClassVar[dict[str, str]] = {}
    # Options of other commands that users may expect -> why this one has none, as a sentence.
    LACKS: ClassVar[dict[str, str]] = {}
    # Whether the command completes or keeps an output that exists, instead of replacing it.
    RESUMES: ClassVar[bool] = False
    # Arguments of example calls, which `--help` and the docs show.
    EXAMPLES: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        self._fill_from_preset()
        kinds = field_types(type(self))
        for field in dataclasses.fields(self):
            value = checked_values(field, kinds[field.name], getattr(self, field.name))
            object.__setattr__(self, field.name, value)
        self._reject_output_that_is_read()
        self.check()

    def try_outputs(self) -> None:
        """Find out before the work whether the output files can be written; those that are resumed may be complete, in a
        folder that is not writable. Raises DataError."""
        for _, path in self.outputs():
            if not (self.RESUMES and path.exists()):
                reject_unwritable(path)

    def outputs(self) -> list[tuple[str, Path]]:
        """The output files, as pairs of option and path. Subclasses add files that are written next to them."""
        fields = [field for field in dataclasses.fields(self) if field.metadata["output"]]
        return [(name_of(field), path) for field in fields if (path := getattr(self, field.name)) is not None]

    def inputs(self) -> list[tuple[str, str | Path]]:
        """All paths, and the strings that may be image sources, as pairs of option and value; outputs among them."""
        found = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not field.metadata["choices"]:
                values = value if isinstance(value, tuple) else (value,)
                found += [(name_of(field), item) for item in values if isinstance(item, str | Path)]
        return found

    def _reject_output_that_is_read(self) -> None:
        """Reject an output that would overwrite an input or another output."""
        outputs = self.outputs()
        for other, given in self.inputs():
            for option, output in outputs:
                if option != other and _same_file(output, given):
                    raise UsageError(f"{option} {output} would overwrite the file of {other}: choose another path.")

    def _fill_from_preset(self) -> None:
        if not self.PRESETS:
            return
        preset = getattr(self, "preset")  # noqa: B009 - declared by the subclasses that have presets
        if not isinstance(preset, str) or preset not in self.PRESETS:
            raise UsageError(f"--preset must be one of {', '.join(self.PRESETS)}, got {preset!r}.")
        for field in dataclasses.fields(self):
            if field.metadata.get("by_preset") and getattr(self, field.name) is None:
                object.__setattr__(self, field.name, self.PRESETS[preset][field.name])

    def check(self) -> None:
        """Reject settings that contradict each other; overridden by subclasses. Raises UsageError."""

    def reject_given(self, names: Sequence[str], why: str) -> None:
        """Raise UsageError for the first of these settings that is not at its default: it would have no effect."""
        known = {field.name: field for field in dataclasses.fields(self)}
        defaults = {name: field.default for name, field in known.items()}
        if self.PRESETS:
            defaults |= self.PRESETS[getattr(self, "preset")]  # noqa: B009 - as above
        for name in names:
            if getattr(self, name) != defaults[name]:
                raise UsageError(f"{name_of(known[name])} {why}.")

    def protocol(self) -> str | None:
        """The preset and its changed values: results with another lr are not those of the protocol."""
        if not self.PRESETS:
            return None
        name, changed = getattr(self, "preset"), self.changed()  # noqa: B009 - as above
        return f"{name}, changed: {', '.join(changed)}" if changed else str(name)

    def changed(self) -> list[str]:
        """Names of the settings whose values are not the preset's; a subclass adds those that its presets fix otherwise."""
        own = self.PRESETS[getattr(self, "preset")]  # noqa: B009 - as above
        return [key for key, value in own.items() if getattr(self, key) != value]

    @classmethod
    def from_mapping(cls, values: dict[str, Any]) -> Self:
        """Make the settings from plain values (TOML, JSON).

        Raises:
            UsageError: a key is unknown or a required one is missing.
        """
        known = {field.name: field for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise UsageError(f"Unknown setting {unknown[0]!r}; expected one of: {', '.join(known)}.")
        for name, field in known.items():
            if field.default is dataclasses.MISSING and name not in values:
                raise UsageError(f"{name_of(field)} is required.")
        return cls(**values)

    @classmethod
    def from_arguments(cls, function: str, values: Sequence[Any], named: dict[str, Any]) -> Self:
        """Make the settings from the arguments of the Python function of that name.

        Raises:
            UsageError: an argument is unknown, missing or given twice.
        """
        known = {field.name: field for field in dataclasses.fields(cls)}
        positional = [name for name, field in known.items() if field.metadata["positional"]]
        if positional and len(values) > 1 and field_types(cls)[positional[-1]].several:
            last = len(positional) - 1  # takes all that are left, as on the command line
            values = [*values[:last], list(values[last:])]
        if len(values) > len(positional):
            allowed = f"only {', '.join(positional)} by position" if positional else "keyword arguments only"
            raise UsageError(f"{function}() takes {allowed}, got {counted(len(values), 'positional argument')}.")
        by_position = dict(zip(positional, values, strict=False))
        for name in named:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"`help(simsiam_eval.{function})` lists them."
                raise UsageError(f"{function}() has no setting {name!r}; {hint}")
            if name in by_position:
                raise UsageError(f"{function}() got {name} twice, by position and by keyword.")
        given = by_position | named
        if missing := [
            name for name, field in known.items() if field.default is dataclasses.MISSING and name not in given
        ]:
            raise UsageError(f"{function}() requires {' and '.join(missing)}.")
        return cls(**given)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the JSON record and the checkpoint."""
        return {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeviceSettings(Settings):
    """For commands that compute on a GPU where there is one."""

    GROUPS: ClassVar[dict[str, str]] = {"machine": "device"}

    device: str = setting("auto", may_change=True, help="auto (CUDA if available), cpu, cuda or cuda:N.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProcessSettings(DeviceSettings):
    """For commands that can run in several processes."""

    GROUPS: ClassVar[dict[str, str]] = {"machine": "num_gpus"}

    num_gpus: int | None = setting(
        None,
        at_least=1,
        may_change=True,
        help="Number of processes to start on this machine with torchrun, one per GPU; on a CPU they share its cores "
        "(default: a single process, or those started by torchrun).",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrecisionSettings(Settings):
    """For commands that run an encoder."""

    GROUPS: ClassVar[dict[str, str]] = {"machine": "precision"}

    precision: str = setting(
        "float32",
        choices=PRECISIONS,
        help="Precision of the encoder: float32 (on a GPU with TF32 convolutions, PyTorch's default) or bf16 (bfloat16; "
        "faster, and features differ slightly).",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelSettings(Settings):
    """For commands that read labels."""

    GROUPS: ClassVar[dict[str, str]] = {"data": "no_label"}

    no_label: tuple[str, ...] = setting(
        NO_LABEL,
        may_change=True,
        once=True,
        help="Label text that means that there is no label, besides empty cells and nulls; repeatable. It replaces the "
        'default values; "" leaves only empty cells.',
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeedSettings(Settings):
    """For commands that draw random numbers."""

    GROUPS: ClassVar[dict[str, str]] = {"protocol": "seed"}

    seed: int = setting(0, at_least=0, at_most=2**32 - 1, help="Random seed.")


def _same_file(output: Path, given: str | Path) -> bool:
    """Whether an output would replace an input file; a string may be a path or an image source."""
    path = path_of(given) if isinstance(given, str) else given
    if output.exists() and path.exists():
        return output.samefile(path)
    return isinstance(given, Path) and os.path.abspath(output) == os.path.abspath(given)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
