"""The lists of images in a VOC folder's ImageSets/Main."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from simsiam_eval.errors import DataError
from simsiam_eval.files.text import read_text
from simsiam_eval.wording import counted, first_few
from tasks.detection.data.voc_files import files_by_stem, images_among

_DEFAULT_SPLITS = {"train": ("trainval", "train"), "test": ("test", "val")}
_WITH_FLAG = re.compile(r"(.*\S)\s+(?:-1|0|1)")


def image_names(folder: Path, split: str, role: str, spec: str) -> tuple[list[str], tuple[str, ...]]:
    """Names of the images of a list, or of all annotation files where there are no lists; and notes about them.

    Raises:
        DataError: the list is missing or malformed, or must be chosen.
    """
    lists = folder / "ImageSets" / "Main"
    if not split:
        split = next((name for name in _DEFAULT_SPLITS[role] if (lists / f"{name}.txt").is_file()), "")
    if not (folder / "Annotations").is_dir():
        raise DataError(f"{spec}: {folder} is not a VOC folder; it has no Annotations/.")
    available = first_few(sorted(path.stem for path in lists.glob("*.txt")))
    if not split and not available:
        return _annotated(folder)
    if not split:
        raise DataError(f"{spec}: name the list, such as #trainval; available: {available}.")
    file = lists / f"{split}.txt"
    try:
        lines = [line.strip() for line in read_text(file).splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror or str(error)).lower() if isinstance(error, OSError) else "it is not text in UTF-8"
        raise DataError(
            f"{spec}: the list {file} cannot be read ({reason}); available: {available or 'none'}."
        ) from error
    names, with_flags = [], 0
    for line in filter(None, lines):
        # The lists of one class have a second column. A name may have spaces, and end like that.
        match = _WITH_FLAG.fullmatch(line)
        is_flag = match is not None and not _annotation(folder, line).exists()
        names.append(match[1] if match and is_flag else line)
        with_flags += is_flag
    _check_names(names, folder, file)
    note = (
        f"{counted(with_flags, 'line')} of {file} end with 1, 0 or -1, which says whether the class is in the image; all "
        "images of the list are used."
    )
    return names, (note,) if with_flags else ()


def _annotation(folder: Path, name: str) -> Path:
    return folder / "Annotations" / f"{name}.xml"


def _check_names(names: list[str], folder: Path, file: Path) -> None:
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise DataError(f"{file} lists images more than once ({first_few(repeated)}).")
    missing = [name for name in names if not _annotation(folder, name).exists()]
    if missing:
        raise DataError(
            f"{file} lists {counted(len(missing), 'image')} without an annotation file (the first is "
            f"{_annotation(folder, missing[0])}); expected one name per line, without the ending of the image, and at most "
            "1, 0 or -1 behind it."
        )


def _annotated(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    """All annotation files; images without one are noted."""
    names = sorted(path.stem for path in (folder / "Annotations").glob("*.xml"))
    files = files_by_stem(folder / "JPEGImages")
    others = sorted(name for name in files.keys() - set(names) if images_among(files[name]))
    note = f"{counted(len(others), 'image')} without an annotation file, left out ({first_few(others)})."
    return names, (note,) if others else ()
