"""Writes docs/settings.md from the settings dataclasses: python docs/settings.py"""

import dataclasses
import inspect
from pathlib import Path

from simsiam_eval.commands.options import declared_in, default_text
from simsiam_eval.commands.settings import Settings, field_types, spelling
from simsiam_eval.commands.table import COMMANDS
from simsiam_eval.extraction.settings import FeatureSettings

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
# Settings that many commands share, once: the class that declares them -> the title of its section.
SHARED = {Settings: "Of every command", FeatureSettings: "Of an extraction"}


def page() -> str:
    """The Markdown of docs/settings.md."""
    parts = [HEAD]
    for shared, title in SHARED.items():
        parts.append(f"## {title}\n\n{_table(shared, shared)}")
    for name, command in COMMANDS.items():
        settings_class = command.settings_class()
        text = inspect.cleandoc(settings_class.__doc__ or "")
        if issubclass(settings_class, FeatureSettings):
            text += "\n\nAlso [those of an extraction](#of-an-extraction)."
        declaring = [one for one in settings_class.__mro__ if one not in SHARED and one is not object]
        parts.append(f"## {name}\n\n{text}\n\n{_table(settings_class, *declaring)}")
    return "\n".join(parts)


def _table(settings_class: type[Settings], *declaring: type) -> str:
    """The settings of `settings_class` that one of `declaring` declares."""
    lines = ["| option | default | what it is |", "| --- | --- | --- |"]
    kinds = field_types(settings_class)
    for field in dataclasses.fields(settings_class):
        if settings_class.__mro__[declared_in(field.name, settings_class)] not in declaring:
            continue
        dots = "..." if field.metadata["positional"] and kinds[field.name][1] else ""
        default = default_text(field, settings_class).replace("None", "-")
        text, choices = field.metadata["help"], field.metadata["choices"]
        if not all(one in text for one in choices):
            text += f" One of {', '.join(choices)}."
        lines.append(f"| `{spelling(field)}{dots}` | {default} | {text} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    Path(__file__).with_suffix(".md").write_text(page(), encoding="utf-8")
