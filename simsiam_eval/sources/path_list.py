"""`list:` a text file of paths, one per line."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from types import MappingProxyType

from simsiam_eval.errors import DataError
from simsiam_eval.files.text import BYTE_ORDER_MARK, encoding_of, label_text
from simsiam_eval.files.unicode_names import other_form_hint
from simsiam_eval.images.formats import ARRAYS, image_endings
from simsiam_eval.sources.base import PathSource
from simsiam_eval.sources.labels import Labels
from simsiam_eval.sources.packed_texts import PackedTexts
from simsiam_eval.sources.splits import split_of
from simsiam_eval.vocabulary import NO_LABEL
from simsiam_eval.wording import first_few

_CHUNK_ROWS = 65536
_CHECKED_PATHS, _SAMPLED_PATHS = 100, 10000


def open_list(
    file: Path,
    spec: str,
    options: Mapping[str, str] = MappingProxyType({}),
    split: str | None = None,
    no_label: Sequence[str] = NO_LABEL,
) -> PathSource:
    """Rows in the order of the file; relative paths start at the file's folder; id = the path as written.

    A line is a path, optionally followed by a tab and a label (or by a space and a number). Empty lines and lines that
    start with # are ignored (write ./#1.jpg for such a name).

    Args:
        options, split: not used: a list has neither.
        no_label: as of `Labels`, which numbers the labels.

    Raises:
        DataError: not a text file, no paths, an empty path, or none of the first images exists.
    """
    paths, labels = PackedTexts(), Labels(no_label)
    rows = _rows(file)
    while chunk := list(islice(rows, _CHUNK_ROWS)):
        paths.extend(path for path, _ in chunk)
        labels.extend(label for _, label in chunk)
    if not len(paths):
        raise DataError(f"{file} has no paths; expected one per line.")
    reject_missing_images(paths, file)
    source = PathSource(paths, *labels.numbered(str(file)), spec=spec, folder=file.parent)
    source.notes += labels.notes()
    return source


def reject_missing_images(paths: PackedTexts, file: Path) -> None:
    """Detect relative paths that start at another folder than that of the list or manifest `file`.

    Raises:
        DataError: none of the first hundred images exists.
    """
    first = paths.under(file.parent)[:_CHECKED_PATHS]
    if not any(map(os.path.lexists, first)):
        if (match := _path_space().match(first[0])) and os.path.lexists(match[1]):
            raise DataError(
                f"{file} has no image {first[0]}; if {match[2]!r} is a label, separate it from the path with a tab."
            )
        if hint := other_form_hint(first[0]):
            raise DataError(f"{first[0]} (in {file}) does not exist{hint}.")
        raise DataError(
            f"None of the first {len(first)} images of {file} exists (the first is {first[0]}); expected paths relative "
            "to its folder, or absolute paths."
        )


def split_folder_notes(source: PathSource) -> list[str]:
    """A note where the folders of the paths of a list or manifest look like splits, which are read together."""
    rows = source.spaced_rows(_SAMPLED_PATHS)
    folders = {source.ids[row].removeprefix("./").rpartition("/")[0] for row in rows}
    for names in map(set, zip(*(folder.split("/") for folder in folders), strict=False)):
        splits = sorted(name for name in names if split_of(name) is not None)
        if len({split_of(name) for name in splits}) > 1:
            listed = " and ".join(splits) if len(splits) == 2 else first_few(splits, 5)
            return [
                f"the paths lie in the folders {listed}, which are read together; if these are splits, give a list of each, "
                "or a table with the column split"
            ]
    return []


@cache
def _path_space_number() -> re.Pattern[str]:
    """`cat/a.jpg 3`, as in Caffe's lists: a space separates a number only if an image name precedes it."""
    endings = "|".join(map(re.escape, (*image_endings(), *ARRAYS)))
    return re.compile(rf"(.*(?:{endings}))\s+([-+]?\d+(?:\.\d*)?|nan)", re.IGNORECASE)


@cache
def _path_space() -> re.Pattern[str]:
    endings = "|".join(map(re.escape, (*image_endings(), *ARRAYS)))
    return re.compile(rf"(.*(?:{endings}))[\s,;|]+(.+)", re.IGNORECASE)


def _rows(file: Path) -> Iterator[tuple[str, str]]:
    """(path, label or "") of each line that is not empty or a comment."""
    # surrogateescape: the output of `find` may contain names that are not UTF-8
    with file.open(encoding=encoding_of(file), errors="surrogateescape") as lines:
        for number, line in enumerate(lines, start=1):
            line = line.removeprefix(BYTE_ORDER_MARK).strip(" \r\n")  # also between files that were joined
            if not line or line.startswith("#"):
                continue
            path, tab, label = line.partition("\t")
            if not tab and line[-1] in "0123456789.nN" and (match := _path_space_number().fullmatch(line)):
                path, label = match.groups()
            if not path.strip():
                raise DataError(f"{file}, line {number}: the path is empty.")
            if "\0" in line:
                raise DataError(f"{file}, line {number}: not text; expected a text file with one path per line.")
            if not label.isascii():
                label_text(label.encode("utf-8", "surrogateescape"), f"The label in line {number} of {file}")
            yield path, label
