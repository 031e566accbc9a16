"""Lists in files, a value per row: lines of text, such as thingsvision's file_names.txt, or a list in JSON."""

from __future__ import annotations

import json
from pathlib import Path

from simsiam_eval.errors import DataError
from simsiam_eval.features.foreign.arrays import ForeignArray, text_array
from simsiam_eval.files.text import encoding_of, read_text
from simsiam_eval.sources.packed_texts import PackedTexts


def line_array(path: Path) -> ForeignArray:
    """The lines of a text file as an array that is called like the file. Raises DataError: not UTF-8."""
    try:
        with path.open(encoding=encoding_of(path)) as file:
            return text_array(path.stem, PackedTexts(line.rstrip("\n") for line in file))
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error}).") from error


def json_list(path: Path) -> ForeignArray | None:
    """The list of strings and numbers in a JSON file; None if there is anything else in it, such as objects.

    Raises:
        DataError: not JSON.
    """
    try:
        values = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON ({error}).") from error
    plain = isinstance(values, list) and all(isinstance(value, str | int | float | None) for value in values)
    return text_array(path.stem, [None if value is None else str(value) for value in values]) if plain else None
