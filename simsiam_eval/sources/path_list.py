"""`list:` a text file of paths, one a line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from simsiam_eval.errors import DataError
from simsiam_eval.sources.base import PathSource
from simsiam_eval.sources.folder import EXTENSIONS
from simsiam_eval.sources.labels import Labels
from simsiam_eval.sources.manifest import refuse_if_none_exists
from simsiam_eval.sources.packed_texts import PackedTexts

# `cat/a.jpg 3`, as Caffe's lists are: a space before a number is a border only behind an image's name.
_SPACED = re.compile(rf"(.*(?:{'|'.join(map(re.escape, EXTENSIONS))}))\s+(-1|\d+)", re.IGNORECASE)
_AT_ONCE = 65536


def open_list(file: Path, spec: str) -> PathSource:
    """Rows in the file's order; relative paths start at the file's folder; id = the path as written.

    A line is a path, perhaps followed by a tab and a label (or by a space and a number). Empty lines and lines that
    begin with # are left out (write ./#1.jpg for such a name). Labels are numbered as a manifest's.

    Raises:
        DataError: no text, no paths, an empty path, or none of the first images is there.
    """
    paths, labels = PackedTexts(), Labels()
    rows = _rows(file)
    while chunk := list(islice(rows, _AT_ONCE)):
        paths.extend(path for path, _ in chunk)
        labels.extend(label for _, label in chunk)
    if not len(paths):
        raise DataError(f"{file} holds no paths: write one a line.")
    refuse_if_none_exists(paths, file)
    return PathSource(paths, *labels.numbered(), spec=spec, folder=file.parent)


def _rows(file: Path) -> Iterator[tuple[str, str]]:
    """(path, label or "") of each line that counts."""
    # surrogateescape: what `find` wrote may hold names that are not UTF-8
    with file.open(encoding="utf-8-sig", errors="surrogateescape") as lines:
        for number, line in enumerate(lines, start=1):
            line = line.strip(" \r\n")
            if not line or line.startswith("#"):
                continue
            path, tab, label = line.partition("\t")
            if not tab and line[-1].isdigit() and (spaced := _SPACED.fullmatch(line)):
                path, label = spaced.groups()
            if not path.strip():
                raise DataError(f"{file}, line {number}: the path is empty.")
            if "\0" in line:
                raise DataError(f"{file}, line {number}: this is no text; a list is a text file with one path a line.")
            yield path, label.strip()
