"""Settings: one frozen dataclass per command, the only place where an option's type, default and help live.

The Click options, the keys of `--config FILE.toml`, the table in docs/settings.md and the JSON record are all read from
these fields. Needs no torch, so that `--help` answers at once.
"""

from __future__ import annotations

import dataclasses
import os
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from simsiam_eval.architectures import LAYERS, POOLINGS
from simsiam_eval.atomic_file import refuse_unwritable
from simsiam_eval.errors import UsageError

DECODINGS = ("full", "scaled")
PRECISIONS = ("float32", "bf16")
_LARGEST_WHOLE = 10**12  # rows of a source may be billions; libraries count in 64 bits
_LARGEST = 1e36  # float32 ends at 3.4e38, and a learning rate is multiplied by the batch
FEATURE_ENDINGS = (".h5", ".hdf5")
INDEX_ENDING = ".index"
SHEET_ENDINGS = (".png", ".html")  # of the files that pictures.write_sheet writes


def setting(
    default: Any = dataclasses.MISSING,
    *,
    help: str,
    choices: tuple[str, ...] = (),
    at_least: float | None = None,
    at_most: float | None = None,
    above: float | None = None,
    by_preset: bool = False,
    short: str | None = None,
    may_change: bool = False,
    endings: tuple[str, ...] = (),
    positional: bool = False,
    output: bool = False,
) -> Any:
    """Declare one field of a Settings class: its default (none: required), help text and permitted values.

    `by_preset=True` means that the value comes from the preset unless it is given; `may_change=True` that work which is
    resumed may have another value than it started with; `endings` are those that a path may have; a `positional` one is
    given without its name (several values: all that are left); an `output` is a file that the command writes.
    """
    metadata = dict(
        help=help, choices=choices, at_least=at_least, at_most=at_most, above=above, by_preset=by_preset, short=short,
        may_change=may_change, endings=endings, positional=positional, output=output,
    )  # fmt: skip
    return dataclasses.field(default=None if by_preset else default, metadata=metadata)


def option_name(field_name: str) -> str:
    """The command line's spelling of a field.

    >>> option_name("batch_size")
    '--batch-size'
    """
    return "--" + field_name.replace("_", "-")


def spelling(field: dataclasses.Field[Any]) -> str:
    """How the command line gives a field: `-k`, `--batch-size`, or `FILE` for a positional one."""
    if field.metadata["positional"]:
        return field.name.upper()
    return field.metadata["short"] or option_name(field.name)


def may_change(settings_class: type[Settings]) -> set[str]:
    """Names of the settings that resumed work may have other values of."""
    return {field.name for field in dataclasses.fields(settings_class) if field.metadata["may_change"]}


def field_types(settings_class: type[Settings]) -> dict[str, tuple[type, bool, bool]]:
    """For each field: its scalar type, whether several values may be given, and whether it may be None."""
    found = {}
    for name, hint in typing.get_type_hints(settings_class).items():
        if typing.get_origin(hint) is ClassVar:
            continue
        optional = typing.get_origin(hint) in (types.UnionType, typing.Union)
        if optional:
            hint = next(part for part in typing.get_args(hint) if part is not type(None))
        several = typing.get_origin(hint) is tuple
        found[name] = (typing.get_args(hint)[0] if several else hint, several, optional)
    return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What every command takes. Values are checked, and filled from the preset, when the object is made.

    Raises:
        UsageError: a value is of the wrong type, out of range or not among the choices; the sentence names the option.
    """

    # preset name -> values of the `by_preset` fields; a class without presets leaves it empty.
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {}

    device: str = setting("auto", may_change=True, help="auto (CUDA where there is one), cpu, cuda or cuda:N.")
    precision: str = setting(
        "float32",
        choices=PRECISIONS,
        help="Arithmetic of the encoder: float32 (on a GPU its convolutions are TF32, as is PyTorch's default), or bfloat16 "
        "(faster; features differ slightly).",
    )
    seed: int = setting(0, at_least=0, at_most=2**32 - 1, help="Seed of everything random.")

    def __post_init__(self) -> None:
        self._fill_from_preset()
        kinds = field_types(type(self))
        for field in dataclasses.fields(self):
            scalar, several, optional = kinds[field.name]
            value = getattr(self, field.name)
            if value is None and optional:
                continue
            values = value if several and isinstance(value, list | tuple) else (value,)
            checked = tuple(_checked(field, scalar, one) for one in values)
            if several and not checked and field.default != ():
                raise UsageError(f"{spelling(field)} needs at least one value.")
            object.__setattr__(self, field.name, checked if several else checked[0])
        self._refuse_output_that_is_read()
        self.check()

    def try_outputs(self) -> None:
        """Find out before the work whether the output files can be written. Raises DataError."""
        for _, path in self.outputs():
            refuse_unwritable(path)

    def outputs(self) -> list[tuple[str, Path]]:
        """The files to write: the option that asks for it, and where. A subclass adds those that lie beside them."""
        fields = [field for field in dataclasses.fields(self) if field.metadata["output"]]
        return [(spelling(field), path) for field in fields if (path := getattr(self, field.name)) is not None]

    def _refuse_output_that_is_read(self) -> None:
        """An output takes the place of what is there: that must not be what the command reads, or its other output."""
        outputs = self.outputs()
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            given = value if isinstance(value, tuple) else (value,)
            if field.metadata["choices"] or not all(isinstance(one, str | Path) for one in given):
                continue
            for option, output in outputs:
                if option != spelling(field) and any(_same_file(output, one) for one in given):
                    raise UsageError(f"{option} {output} is the file of {spelling(field)}: choose another.")

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
        """Refuse settings that contradict each other; a subclass overrides it."""

    def refuse_given(self, names: Sequence[str], why: str) -> None:
        """UsageError for the first of these settings that is not at its default: one that changes nothing misleads."""
        known = {field.name: field for field in dataclasses.fields(self)}
        defaults = {name: field.default for name, field in known.items()}
        if self.PRESETS:
            defaults |= self.PRESETS[getattr(self, "preset")]  # noqa: B009 - as above
        for name in names:
            if getattr(self, name) != defaults[name]:
                raise UsageError(f"{spelling(known[name])} {why}.")

    def protocol(self) -> str | None:
        """The preset, and which of its values are not its own: numbers under another lr are not that protocol's."""
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
            raise UsageError(f"Unknown setting {unknown[0]!r}; there are: {', '.join(known)}.")
        for name, field in known.items():
            if field.default is dataclasses.MISSING and name not in values:
                raise UsageError(f"{spelling(field)} is missing.")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the JSON record and the checkpoint."""
        return {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}


def _same_file(one: Path, other: str | Path) -> bool:
    if isinstance(other, str):  # a path, or an image source: kind:PATH#options
        texts = {other, os.path.expanduser(other.partition(":")[2])}
        paths = texts | {text.rpartition("#")[0] for text in texts}
        return any(one.exists() and os.path.exists(path) and one.samefile(path) for path in paths)
    if one.exists() and other.exists():
        return one.samefile(other)
    return os.path.abspath(one) == os.path.abspath(other)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value


def _checked(field: dataclasses.Field[Any], scalar: type, value: Any) -> Any:
    rules = field.metadata
    name = spelling(field)
    wrong = UsageError(f"{name} must be {_describe(scalar)}, got {value!r}.")
    if scalar is bool:
        if not isinstance(value, bool):
            raise wrong
    elif isinstance(value, bool):
        raise wrong
    elif scalar is float and isinstance(value, int):
        value = float(value)
    elif scalar is Path and isinstance(value, str | Path):
        value = Path(os.path.expanduser(value))
    elif not isinstance(value, scalar):
        raise wrong
    if scalar is str and value.startswith("~"):
        value = os.path.expanduser(value)
    if "\0" in str(value):
        raise UsageError(f"{name} must be without zero bytes, got {value!r}.")
    if isinstance(value, float) and not abs(value) <= _LARGEST:
        raise UsageError(f"{name} must be a finite number within ±{_LARGEST:g}, got {value}.")
    if isinstance(value, int) and not abs(value) <= _LARGEST_WHOLE:
        raise UsageError(f"{name} must be a whole number within ±{_LARGEST_WHOLE}, got {value}.")
    if rules["choices"] and value not in rules["choices"]:
        raise UsageError(f"{name} must be one of {', '.join(rules['choices'])}, got {value!r}.")
    if rules["endings"] and value.suffix.lower() not in rules["endings"]:
        raise UsageError(f"{name} must end in {' or '.join(rules['endings'])}, got {value}.")
    for rule, holds in (
        ("at_least", lambda bound: value >= bound),
        ("at_most", lambda bound: value <= bound),
        ("above", lambda bound: value > bound),
    ):
        if rules[rule] is not None and not holds(rules[rule]):
            raise UsageError(f"{name} must be {rule.replace('_', ' ')} {rules[rule]}, got {value}.")
    return value


def _describe(scalar: type) -> str:
    return {int: "a whole number", float: "a number", bool: "true or false", str: "a text", Path: "a path"}[scalar]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureSettings(Settings):
    """How features are taken from images: shared by `extract` and by every task that extracts first (contract 4)."""

    layer: tuple[str, ...] = setting(
        ("pool",),
        choices=LAYERS,
        help="Which output of the encoder; pool is the trunk's own pool5. Several: all come from one pass, the "
        "first is `features` of the file, the others lie under layers/.",
    )
    pool: str = setting("avg", choices=POOLINGS, help="How the spatial positions of the layer become one vector.")
    transform: str = setting(
        "auto",
        choices=("auto", "imagenet", "cifar", "squash"),
        help="auto: as the encoder was trained; imagenet: 256, crop 224; cifar: 32; squash: the whole image to a square.",
    )
    resize: int | None = setting(
        None,
        at_least=1,
        at_most=8192,
        help="Short side in pixels before the centre crop; default: that of --transform.",
    )
    crop: int | None = setting(
        None, at_least=1, help="Side of the centre crop in pixels; default: that of --transform."
    )
    flip_average: bool = setting(False, help="Features are the mean of those of the image and of its mirror image.")
    normalize: bool = setting(False, help="Features are scaled to length one.")
    views: int = setting(
        0,
        at_least=0,
        help="Augmented views per image beside the centre crop (RandomResizedCrop and flip, drawn from --seed and the row), "
        "for the linear protocol with augmentation; data set `views` (N,V,D).",
    )
    decode: str | None = setting(
        None,
        choices=DECODINGS,
        help="full, or scaled: JPEGs much larger than needed are decoded to a half, quarter or eighth of their sides; "
        "default: as the checkpoint says, else full.",
    )
    dtype: str = setting("float32", choices=("float32", "float16"), help="Stored precision of the features.")
    compile: str = setting(
        "off", choices=("on", "off"), help="torch.compile of the encoder; on a CPU instead of fusing its blocks."
    )
    extract_batch: int | None = setting(
        None,
        at_least=1,
        help="Images per forward pass; default: 8 on a CPU, where every core makes its own, and 256 on a GPU.",
    )
    workers: int | None = setting(
        None,
        at_least=0,
        help="Decoding processes; default: for a GPU one per core, at most 16, none for images in memory; on a CPU none, "
        "since its cores decode for themselves.",
    )
    fingerprint: str = setting(
        "content",
        choices=("content", "listing"),
        help="What tells that the images are the same: their content, which is read once and remembered; or ids, labels and "
        "sizes only, for sources too large to be read twice.",
    )
    strict: bool = setting(False, help="Stop at the first unreadable image instead of skipping it by name.")


def is_feature_file(spec: str) -> bool:
    """Whether a --train or --test value names a feature file rather than an image source.

    >>> is_feature_file("runs/train.h5"), is_feature_file("hdf5:images.h5"), is_feature_file("digits")
    (True, False, False)
    """
    path = Path(spec)
    return path.suffix.lower() in FEATURE_ENDINGS and (":" not in spec or path.exists())


def is_index_file(spec: str) -> bool:
    """Whether a --gallery value names an index file of `retrieval build`."""
    return Path(spec).suffix.lower() == INDEX_ENDING


def leakage_setting() -> Any:
    """--leakage of the commands that judge an encoder by its neighbours of another set."""
    return setting(
        0.99,
        above=0,
        at_most=1,
        help="Cosine similarity to a training (gallery) image from which a test image (query) is called its near-duplicate: "
        "their number is said, and the accuracy without them.",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderSettings(FeatureSettings):
    """Sets as feature files, or as images with the checkpoint of an encoder."""

    SETS: ClassVar[tuple[str, ...]]  # names of the settings that are sets
    # Names of extraction's settings that the task also applies to a feature file, and whether it reads several layers.
    ON_FILES: ClassVar[frozenset[str]] = frozenset({"layer"})
    SEVERAL_LAYERS: ClassVar[bool] = False

    checkpoint: Path | None = setting(None, help="Encoder whose features are extracted (into a cache) from images.")

    def check(self) -> None:
        super().check()
        if len(self.layer) > 1 and not self.SEVERAL_LAYERS:
            raise UsageError(f"Give one --layer; got {', '.join(self.layer)}.")
        if not self._only_files():
            return
        for name in self._of_extraction():
            default = next(field.default for field in dataclasses.fields(self) if field.name == name)
            if getattr(self, name) != default:
                verb = "holds" if len(self._sets()) == 1 else "hold"
                raise UsageError(
                    f"{option_name(name)} is for images: {' and '.join(self._sets())} {verb} features already."
                )

    def to_dict(self) -> dict[str, Any]:
        """As Settings'; without the settings of an extraction that did not happen."""
        left_out = self._of_extraction() if self._only_files() else ()
        return {name: value for name, value in super().to_dict().items() if name not in left_out}

    def _sets(self) -> list[str]:
        return list(filter(None, (getattr(self, name) for name in self.SETS)))

    def _only_files(self) -> bool:
        return all(is_feature_file(one) or is_index_file(one) for one in self._sets())

    def _of_extraction(self) -> list[str]:
        names = [field.name for field in dataclasses.fields(FeatureSettings)]
        return [name for name in names if name not in self.ON_FILES | {"device", "seed"}]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationSettings(EncoderSettings):
    """A training and a test set."""

    SETS = ("train", "test")

    train: str = setting(help="Training set: a feature file (.h5), or an image source with --checkpoint.")
    test: str = setting(help="Test set: a feature file (.h5), or an image source with --checkpoint.")
    leakage: float = leakage_setting()
