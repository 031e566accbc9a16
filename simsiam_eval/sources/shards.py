"""Datasets of several files: the files of a pattern, and the splits that their names tell."""

from __future__ import annotations

import glob
import itertools
import os
import re
from pathlib import Path

from simsiam_eval.errors import DataError, UsageError
from simsiam_eval.sources.splits import split_word

_MOST = 1_000_000
_OF = re.compile(r"(.+)-(\d{5,})-of-(\d{5,})$")  # as Hugging Face names them: SPLIT-00000-of-00002


def is_pattern(text: str) -> bool:
    """Whether it names several files: a range or list in braces, or * ? [ ]."""
    return any(mark in text for mark in "{*?[")


def files_of(pattern: Path, spec: str) -> list[Path]:
    """The files that a path with brace ranges (`{0000..0012}`, `{a,b}`) or wildcards names, in its order.

    Raises:
        UsageError: more than a million files.
        DataError: one of a range is missing, or nothing fits a wildcard.
    """
    if pattern.exists() or not is_pattern(str(pattern)):
        return [pattern]
    files: list[Path] = []
    names = _braces(str(pattern), spec)
    for name in names:
        if re.search(r"[*?[]", name):
            found = sorted(glob.glob(name))
            if not found:
                raise DataError(f"There is no file {name} (image source {spec}).")
            files += map(Path, found)
        else:
            files.append(Path(name))
    missing = [file for file in files if not file.exists()]
    if missing:
        raise DataError(f"There is no {missing[0]} ({len(missing)} of {len(files)} files of {spec} are missing).")
    return files


def _braces(text: str, spec: str) -> list[str]:
    choices, total = [], 1
    for part in re.split(r"(\{[^{}]*\})", text):
        span = re.fullmatch(r"\{(\d+)\.\.(\d+)\}", part)
        if span:
            first, last = int(span[1]), int(span[2])
            width = max(map(len, span.groups())) if part[1] == "0" or span[2][0] == "0" else 0
            total *= abs(last - first) + 1
            if total > _MOST:
                raise UsageError(f"{spec} names more than {_MOST} files.")
            step = 1 if first <= last else -1
            choices.append([f"{number:0{width}d}" for number in range(first, last + step, step)])
        elif re.fullmatch(r"\{[^{}]*\}", part):
            choices.append(part[1:-1].split(","))
        else:
            choices.append([part])
    return ["".join(parts) for parts in itertools.product(*choices)]


def names_of(files: list[Path]) -> list[str]:
    """Each file's name, as short as it can be: below the folder that all lie in."""
    top = os.path.commonpath([os.path.abspath(file.parent) for file in files])
    return [Path(os.path.abspath(file)).relative_to(top).as_posix() for file in files]


def by_split(folder: Path, files: list[Path]) -> dict[str, list[Path]]:
    """Files by the split in their names below `folder` (train-0001.tar, imagenet-val-00.tar, test/0.parquet); empty where
    one of them names none.

    Raises:
        DataError: one of SPLIT-00000-of-00002 is missing.
    """
    groups: dict[str, list[Path]] = {}
    for file in files:
        name = file.relative_to(folder).with_suffix("").as_posix()
        numbered = _OF.fullmatch(file.stem)
        word = split_word(name)
        if numbered and not re.search(r"[-.]", numbered[1]):
            split = numbered[1]
        elif word:
            split = word
        else:
            return {}
        groups.setdefault(split, []).append(file)
    for group in groups.values():
        _refuse_missing(group)
    return groups


def _refuse_missing(files: list[Path]) -> None:
    for folder, same in itertools.groupby(files, key=lambda file: file.parent):
        places = [found for file in same if (found := _OF.fullmatch(file.stem))]
        for name, total in dict.fromkeys((found[1], found[3]) for found in places):
            there = {int(found[2]) for found in places if (found[1], found[3]) == (name, total)}
            missing = sorted(set(range(int(total))) - there)
            if missing:
                raise DataError(
                    f"{folder} lacks {name}-{missing[0]:0{len(total)}d}-of-{total}, "
                    f"one of {len(missing)} missing files: get the rest of the dataset."
                )
