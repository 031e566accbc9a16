"""Writes docs/settings.md from the settings dataclasses: python docs/settings.py"""

import inspect
from dataclasses import fields
from itertools import chain
from pathlib import Path

from simsiam_eval.commands.fields import field_types, spelling
from simsiam_eval.commands.options import default_text, grouped_fields
from simsiam_eval.commands.settings import DeviceSettings, PrecisionSettings, SeedSettings, Settings
from simsiam_eval.commands.table import COMMANDS
from simsiam_eval.extraction.settings import FeatureSettings, ViewSettings

HEAD = """# Settings

Written by `python docs/settings.py`. Every option may stand in a file, `--config FILE.toml`, with `_` or `-`; a table is for
one command, the top level for every one:

```toml
seed = 3

[knn]
k = [20, 200]

[retrieval.eval]
gallery = "train.h5"
```

Options override the command's table, the table that of its group (`[retrieval]`), this the top level, and that the preset.
Paths are relative to the folder where the command runs.

Lists of numbers or given words are written with commas or option by option: `-k 20,200` is `-k 20 -k 200`; in TOML they are
lists. What is on or off is a switch: `--strict`, `--no-strict`; in TOML `true`, `false`. Capital letters are given by
position, without a name: `simsiam-eval verify FILE`.

`--json` prints the record alone on standard output, `--debug` the traceback of an error. Exit status: 0; 1 for bad data (or
what `verify` found wrong); 2 for wrong usage; 130 after Ctrl-C, 143 after SIGTERM, 129 after
SIGHUP.
"""
# Settings that several commands share stand in a section of their own.
MACHINE = (DeviceSettings, PrecisionSettings, SeedSettings)


def page() -> str:
    """The Markdown of docs/settings.md."""
    lines = [line for shared in MACHINE for line in _rows(shared, shared)]
    parts = [HEAD, f"## Device, precision and seed\n\n{_table(lines)}"]
    parts.append(f"## Extraction\n\n{_table(_rows(ViewSettings, FeatureSettings, ViewSettings))}")
    for name, command in COMMANDS.items():
        settings_class = command.settings_class()
        shared = [spelling(field) for base in MACHINE if issubclass(settings_class, base) for field in fields(base)]
        also = [f"`{option}`" for option in shared]
        if issubclass(settings_class, FeatureSettings):
            without = "" if issubclass(settings_class, ViewSettings) else " (without `--views`)"
            also.append(f"[those of the extraction](#extraction){without}")
        text = inspect.cleandoc(settings_class.__doc__ or "") + (f"\n\nAlso: {', '.join(also)}." if also else "")
        if settings_class.EXAMPLES:
            text += "\n\n```\n" + "\n".join(f"simsiam-eval {name} {line}" for line in settings_class.EXAMPLES) + "\n```"
        declaring = [
            base for base in settings_class.__mro__ if base not in (*MACHINE, FeatureSettings, ViewSettings, object)
        ]
        parts.append(f"## {name}\n\n{text}\n\n{_table(_rows(settings_class, *declaring))}")
    return "\n".join(parts)


def _table(rows: list[str]) -> str:
    return "\n".join(["| option | default | what it is |", "| --- | --- | --- |", *rows]) + "\n"


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
