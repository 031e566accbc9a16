"""Writes docs/settings.md from the settings dataclasses: python docs/settings.py"""

import inspect
import textwrap
from dataclasses import fields
from itertools import chain
from pathlib import Path

from simsiam_eval.commands.fields import field_types, spelling
from simsiam_eval.commands.options import default_text, grouped_fields
from simsiam_eval.commands.settings import DeviceSettings, PrecisionSettings, SeedSettings, Settings
from simsiam_eval.commands.table import COMMANDS
from simsiam_eval.encoders.settings import CheckpointSettings
from simsiam_eval.extraction.pixel_settings import NormalizationSettings, PixelSettings
from simsiam_eval.extraction.settings import FeatureSettings, ViewSettings

HEAD = """# Settings

Every option of every command, with its default. Written by `python docs/settings.py`.

## Config file

Settings can also be read from a TOML file, `--config FILE.toml`. Settings at its top level apply to
every command, those in a table to the command or group with that name. Names may be written with
`_` or `-`.

```toml
seed = 3

[knn]
k = [20, 200]

[retrieval.eval]
gallery = "train.h5"
```

Precedence, from high to low: options, the command's table, its group's table (`[retrieval]`), the
top level, the preset. Commands that do not use `device`, `precision` or `seed` ignore them at the
top level. Paths are relative to the working folder.

## Values

- Several numbers or choices: `-k 20,200` or `-k 20 -k 200`; in TOML, a list.
- Several paths or names: `--train a.h5 --train b.h5`.
- Switches: `--strict` or `--no-strict`; in TOML, `true` or `false`.
- Names in capital letters are positional arguments: `simsiam-eval verify FILE`.

## Output and exit status

`--json` prints only the JSON [record](records.md) on standard output. `--debug` shows the traceback of
an error. Missing folders of an output are created, except in `/`, where they are misspelled or not
mounted.

| exit status | meaning |
| --- | --- |
| 0 | success |
| 1 | invalid data, or errors found by `verify` |
| 2 | invalid usage |
| 129, 130, 143 | stopped by SIGHUP, Ctrl-C, SIGTERM |
"""
# Settings that several commands share have a section of their own.
MACHINE = (DeviceSettings, PrecisionSettings, SeedSettings)
EXTRACTION = (FeatureSettings, NormalizationSettings, PixelSettings, ViewSettings)
PIXELS = {**inspect.get_annotations(NormalizationSettings), **inspect.get_annotations(PixelSettings)}


def page() -> str:
    """The Markdown of docs/settings.md."""
    lines = [line for shared in MACHINE for line in _rows(shared, shared)]
    parts = [HEAD, f"## Device, precision and seed\n\n{_table(lines)}"]
    parts.append(f"## Checkpoint\n\n{_table(_rows(CheckpointSettings, CheckpointSettings))}")
    parts.append(f"## Extraction\n\n{_table(_rows(ViewSettings, *EXTRACTION))}")
    for name, command in COMMANDS.items():
        settings_class = command.settings_class()
        shared = [spelling(field) for base in MACHINE if issubclass(settings_class, base) for field in fields(base)]
        also = [f"`{option}`" for option in shared]
        if issubclass(settings_class, CheckpointSettings):
            also.append("the [checkpoint options](#checkpoint)")
        if issubclass(settings_class, FeatureSettings):
            without = "" if issubclass(settings_class, ViewSettings) else " (without `--views`)"
            also.append(f"the [extraction options](#extraction){without}")
        elif issubclass(settings_class, PixelSettings):
            also += [f"`{spelling(field)}`" for field in fields(PixelSettings) if field.name in PIXELS]
        elif issubclass(settings_class, NormalizationSettings):
            also.append("`--mean` and `--std` ([extraction](#extraction))")
        paragraphs = inspect.cleandoc(settings_class.__doc__ or "").split("\n\n")
        paragraphs += [f"Also: {', '.join(also)}."] if also else []
        text = "\n\n".join(textwrap.fill(paragraph, 100, break_on_hyphens=False) for paragraph in paragraphs)
        if settings_class.EXAMPLES:
            text += "\n\n```\n" + "\n".join(f"simsiam-eval {name} {line}" for line in settings_class.EXAMPLES) + "\n```"
        elsewhere = (*MACHINE, CheckpointSettings, *EXTRACTION, object)
        declaring = [base for base in settings_class.__mro__ if base not in elsewhere]
        parts.append(f"## {name}\n\n{text}\n\n{_table(_rows(settings_class, *declaring))}")
    return "\n".join(parts)


def _table(rows: list[str]) -> str:
    return "\n".join(["| option | default | description |", "| --- | --- | --- |", *rows]) + "\n"


def _rows(settings_class: type[Settings], *declaring: type) -> list[str]:
    """A line for each setting of `settings_class` that one of `declaring` declares, in the order of `--help`."""
    rows = []
    kinds = field_types(settings_class)
    names = {name for base in declaring for name in inspect.get_annotations(base)}
    for field in chain.from_iterable(members for _, members in grouped_fields(settings_class)):
        if field.name not in names:
            continue
        dots = "..." if field.metadata["positional"] and kinds[field.name].several else ""
        default = default_text(field, settings_class).replace("None", "-")
        text, choices = field.metadata["help"], field.metadata["choices"]
        if not all(choice in text for choice in choices):
            text += f" One of {', '.join(choices)}."
        rows.append(f"| `{spelling(field)}{dots}` | {default} | {text} |")
    return rows


if __name__ == "__main__":
    Path(__file__).with_suffix(".md").write_text(page(), encoding="utf-8")
