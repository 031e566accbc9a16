"""Datasets in several files: expand a pattern, and find splits in file names."""

from __future__ import annotations

import glob
import itertools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from simsiam_eval.errors import DataError, UsageError
from simsiam_eval.runtime.notes import say_once
from simsiam_eval.sources.splits import split_of, split_word
from simsiam_eval.wording import counted, first_few

_MAX_FILES = 1_000_000
_SHOWN_FILES = 5
_NO_SPLITS = ("data", "part", "shard")  # in the place of SPLIT: data-00000-of-00002.arrow
_NUMBERED = re.compile(r"(.+)-(\d{5,})-of-(\d{5,})$")  # as Hugging Face names files: SPLIT-00000-of-00002


def is_pattern(text: str) -> bool:
    """Whether a path names several files: a range or list in braces, or * ? [ ]."""
    return any(mark in text for mark in "{*?[")


def files_of(pattern: Path, spec: str) -> list[Path]:
    """The files that a path with brace ranges (`{0000..0012}`, `{a,b}`) or wildcards names, in its order.

    Raises:
        UsageError: more than a million files.
        DataError: a file of a range is missing, or no file matches a wildcard.
    """
    if pattern.exists() or not is_pattern(str(pattern)):
        return [pattern]
    files: list[Path] = []
    for name in _expand_braces(str(pattern), spec):
        if re.search(r"[*?[]", name):
            matches = sorted(glob.glob(name))
            if not matches:
                raise DataError(f"No file matches {name} (image source {spec}).")
            files += map(Path, matches)
        else:
            files.append(Path(name))
    missing = [file for file in files if not file.exists()]
    if missing:
        raise DataError(f"{missing[0]} does not exist ({len(missing)} of {len(files)} files of {spec} are missing).")
    return files


def _expand_braces(text: str, spec: str) -> list[str]:
    choices, total = [], 1
    for part in re.split(r"(\{[^{}]*\})", text):
        span = re.fullmatch(r"\{(\d+)\.\.(\d+)\}", part)
        if span:
            first, last = int(span[1]), int(span[2])
            width = max(map(len, span.groups())) if part[1] == "0" or span[2][0] == "0" else 0
            total *= abs(last - first) + 1
            if total > _MAX_FILES:
                raise UsageError(f"{spec} names more than {_MAX_FILES:,} files.")
            step = 1 if first <= last else -1
            choices.append([f"{number:0{width}d}" for number in range(first, last + step, step)])
        elif re.fullmatch(r"\{[^{}]*\}", part):
            choices.append(part[1:-1].split(","))
        else:
            choices.append([part])
    return ["".join(parts) for parts in itertools.product(*choices)]


def names_of(files: list[Path]) -> list[str]:
    """The path of each file below the folder that all share."""
    top = os.path.commonpath([os.path.abspath(file.parent) for file in files])
    return [Path(os.path.abspath(file)).relative_to(top).as_posix() for file in files]


def by_split(folder: Path, files: list[Path]) -> dict[str, list[Path]]:
    """Files by the split in their names below `folder` (train-0001.tar, imagenet-val-00.tar, test/0.parquet).

    Beside files that name a split, the others are splits by their folder, or by their name without its number. Where no
    file names one, the folders are, as files of classes do not lie in folders. Empty if there are none either.

    Raises:
        DataError: a file of SPLIT-00000-of-00002 is missing.
    """
    _reject_missing(files)
    paths = {file: file.relative_to(folder) for file in files}
    named = {file: split for file, path in paths.items() if (split := _named_split(path))}
    folders = {path.parts[0] for path in paths.values() if len(path.parts) > 1}
    if not named and len(folders) < 2:
        return {}
    splits: dict[str, list[Path]] = {}
    for file, path in paths.items():
        unnumbered = re.sub(r"[-_.\d]+$", "", path.stem) or path.stem
        other = path.parts[0] if len(path.parts) > 1 else unnumbered
        splits.setdefault(named.get(file, other), []).append(file)
    return splits


def say_unnamed(splits: Mapping[str, Sequence[Path]], chosen: str, spec: str) -> None:
    """Say which files are not read because their names say no split, where those of others do."""
    unnamed = [
        name
        for name, files in splits.items()
        if split_of(name) is None and not any(_NUMBERED.fullmatch(file.stem) for file in files)
    ]
    if unnamed and split_of(chosen) is not None:
        listed = first_few([file.name for name in unnamed for file in splits[name]], _SHOWN_FILES)
        say_once(f"{spec}: not read, as the name says no split: {listed} (choose with #{unnamed[0]}).")


def _named_split(path: Path) -> str | None:
    """The split that the path of a file names, or None."""
    numbered = _NUMBERED.fullmatch(path.stem)
    if numbered and not re.search(r"[-.]", numbered[1]) and numbered[1] not in _NO_SPLITS:
        return numbered[1]
    return split_word(path.with_suffix("").as_posix())


def _reject_missing(files: list[Path]) -> None:
    for folder, group in itertools.groupby(files, key=lambda file: file.parent):
        numbered = [match for file in group if (match := _NUMBERED.fullmatch(file.stem))]
        for name, total in dict.fromkeys((match[1], match[3]) for match in numbered):
            present = {int(match[2]) for match in numbered if (match[1], match[3]) == (name, total)}
            missing = sorted(set(range(int(total))) - present)
            if missing:
                raise DataError(
                    f"{folder} lacks {name}-{missing[0]:0{len(total)}d}-of-{total} "
                    f"({counted(len(missing), 'missing file')}); get the rest of the dataset."
                )
