"""Names of splits, and whether sub-folders are splits or classes: one rule for all image sources.

A split is recognized by its name in any case (`train`, `Training`, `valid`, `seg_test`), and by structure: folders that
share the names of their sub-folders are splits of the same classes. Where both readings are possible, the user chooses.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence, Set as AbstractSet
from dataclasses import dataclass

from simsiam_eval.errors import DataError, UsageError
from simsiam_eval.sources.spec import without_options
from simsiam_eval.wording import counted

SPELLINGS = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "tst", "eval", "evaluation"),
}
NO_SPLIT = "none"  # `#split=none`: ignore the names of splits and read everything
_SPLIT_OF = {spelling: split for split, spellings in SPELLINGS.items() for spelling in spellings}
_NOUNS = "(?i:datasets?|data|sets?|images?|imgs?|pictures?|photos?|splits?|samples?)"
_START = r"(?:^|(?<=[-_. /=])|(?<=^[xyXY])|(?<=[a-z])(?=[A-Z]))"  # also CatsTrain, and Xtrain
_END = r"(?:$|(?=[-_. /=\d])|(?<=[a-z])(?=[A-Z]))"  # also trainA
_SPELLED = "|".join(sorted(_SPLIT_OF, key=len, reverse=True))
_WORD = re.compile(rf"{_START}((?i:{_SPELLED}))(?={_NOUNS}?{_END})")  # also traindata
_NAME = re.compile(rf"({_SPELLED})(?:[-_. ]*{_NOUNS})*", re.IGNORECASE)
_FOLD = re.compile(r"(?:^|(?<=[-_. /=]))(?:k?fold|cv|split)[-_. ]?\d+(?=[-_. /]|$)", re.IGNORECASE)
# Names that are splits beside one of the others, as in the data sets that are published with them.
_BESIDE = re.compile(
    r"(?:un|non)?[-_ ]?label(?:l?ed|s)|unsup(?:ervised)?|extra|h[eo]ld[-_ ]?out|train[-_ ]?val|pred(?:ict(?:ion)?)?s?|query|"
    r"gallery|support|calib(?:ration)?|probe|mini[-_ ]?val|unseen|ood",
    re.IGNORECASE,
)
_MAX_SHOWN = 6

SubFolders = Callable[[str], AbstractSet[str]]


@dataclass(frozen=True)
class Layout:
    """How the sub-folders of a folder can be read.

    Attributes:
        splits: those that are splits; empty where all are classes.
        unclear: whether they can also be classes.
        nested: the splits that lie inside the sub-folders (cat/train, cat/test).
    """

    splits: tuple[str, ...] = ()
    unclear: bool = False
    nested: tuple[str, ...] = ()


def split_of(name: str) -> str | None:
    """The split that a whole name spells: train, val, test, or None.

    >>> split_of("Training"), split_of("dev"), split_of("Test Set"), split_of("train_station")
    ('train', 'val', 'test', None)
    """
    match = _NAME.fullmatch(name)
    return _SPLIT_OF[match[1].lower()] if match else None


def split_word(name: str) -> str | None:
    """The last word of a name or path that spells a split or numbers a fold, in lower case, or None.

    >>> split_word("imagenet-val-0001"), split_word("data/TrainImages/0"), split_word("x_fold1"), split_word("contest")
    ('val', 'train', 'fold1', None)
    """
    return parted(name)[0]


def parted(name: str) -> tuple[str | None, str]:
    """`split_word` of a name, and the name without it.

    >>> parted("x_train"), parted("trainY"), parted("images")
    (('train', 'x_'), ('train', 'Y'), (None, 'images'))
    """
    matches = list(_WORD.finditer(name)) or list(_FOLD.finditer(name))
    if not matches:
        return None, name
    start, end = matches[-1].span()
    return matches[-1][0].lower(), name[:start] + name[end:]


def folder_layout(names: Sequence[str], sub_folders: SubFolders) -> Layout:
    """How the folders of these names can be read.

    Args:
        names: the folders that lie side by side.
        sub_folders: name of a folder -> names of the folders in it; called for no more folders than needed.
    """
    named = _split_names(names)
    others = [name for name in names if name not in named]
    if not others:
        return Layout(tuple(names))
    if not named and len(names) > 1 and all(map(_FOLD.fullmatch, names)):
        return Layout(tuple(names), unclear=True)
    if not named:
        return _layout_by_structure(names, sub_folders)
    beside = [name for name in others if _BESIDE.fullmatch(name)]
    classes = frozenset().union(*(sub_folders(name) for name in named))
    splits = {split_of(split_word(name) or "") for name in named}
    if len(splits) > 1:
        alike = [name for name in others if name in beside or len(classes & sub_folders(name)) > 1]
        return Layout((*named, *alike), unclear=not classes and len(beside) < len(others))
    # One name alone may also be a class: a train among vehicles.
    if len(classes) < 2:
        return Layout((*named, *beside), unclear=True) if beside else Layout()
    alike = [name for name in others if name in beside or len(classes & sub_folders(name)) > 1]
    if alike or not any(map(sub_folders, others)):
        return Layout((*named, *alike), unclear=True)
    return Layout()


def _split_names(names: Sequence[str]) -> list[str]:
    """Names that spell a split, and names that differ in nothing but the split (seg_train, seg_test, trainA, testA)."""
    families: dict[str, dict[str, str]] = {}
    for name in names:
        if words := list(_WORD.finditer(name)):
            start, end = words[-1].span()
            rest = re.sub(r"\d+", "0", f"{name[:start]}*{name[end:]}".lower())
            families.setdefault(rest, {})[name] = _SPLIT_OF[words[-1][0].lower()]
    return [
        name
        for splits in families.values()
        for name in splits
        if split_of(name)
        or len(set(splits.values())) > 1
        or (len(names) == 1 and split_of(name.strip("-_. 0123456789")))
    ]


def _layout_by_structure(names: Sequence[str], sub_folders: SubFolders) -> Layout:
    inside: list[AbstractSet[str]] = []
    for name in names:
        inside.append(sub_folders(name))
        if not inside[-1]:
            return Layout()
    every = frozenset().union(*inside)
    if all(map(split_of, every)) and len(set(map(split_of, every))) > 1:
        return Layout(nested=tuple(sorted(every)))
    shared = every.intersection(*inside)
    if len(names) > 1 and len(shared) > 1 and 2 * len(shared) >= len(every):
        return Layout(tuple(names), unclear=True)
    return Layout()


def reject_splits_inside(folder: str, sub_folders: Iterable[str], spec: str) -> None:
    """Raises DataError: a class folder has splits inside."""
    inside = sorted(filter(split_of, sub_folders))
    if len(set(map(split_of, inside))) > 1:
        body = without_options(spec)
        raise DataError(
            f"{body} has splits ({_listed(inside)}) inside its sub-folder {folder}; give {body}/{folder} to read one of "
            "them, or add #split=none to read every sub-folder as a class."
        )


def choose_folder(
    names: Sequence[str], sub_folders: SubFolders, requested: str | None, default: str | None, spec: str
) -> str | None:
    """The folder that holds the chosen split; None: the folders are classes.

    Args:
        names, sub_folders: as those of `folder_layout`.
        requested, default: as those of `choose_split`.

    Raises:
        DataError: as `choose_split`; the folders can be splits or classes; the splits are inside the classes.
    """
    if requested == NO_SPLIT:
        return None
    layout = folder_layout(names, sub_folders)
    body = without_options(spec)
    if layout.nested and len(names) == 1:
        raise DataError(f"{body}: the splits ({_listed(layout.nested)}) are inside {names[0]}; add it to the path.")
    if layout.nested:
        raise DataError(
            f"{body} has splits inside its {counted(len(names), 'class folder')} ({names[0]}/{layout.nested[0]}, ...); "
            "expected split folders that hold class folders. Add #split=none to ignore the splits."
        )
    if requested is not None and not layout.splits:
        return choose_split([name for name in names if split_of(name)], requested, None, spec)
    if layout.unclear and requested is None:
        raise DataError(
            f"{body} can be read in two ways: as splits ({_listed(layout.splits)}) or as "
            f"{len(names)} classes. Choose a split, for example {_example(body, layout.splits)}, or add #split=none "
            "to read every sub-folder as a class."
        )
    return choose_split(layout.splits, requested, default, spec)


def choose_split(names: Iterable[str], requested: str | None, default: str | None, spec: str) -> str | None:
    """The name of the chosen split among those of a source.

    Args:
        names: the splits that the source has; none if it has no splits.
        requested: the split that the spec names, under any spelling; "none": take everything.
        default: the split to take otherwise, train or test; None: the only one.

    Returns:
        one of `names`, or None to take everything.

    Raises:
        DataError: the split does not exist, or there are several and none is chosen.

    >>> choose_split(["Training", "Testing"], "test", None, "folder:photos#test")
    'Testing'
    """
    names, body = sorted(names), without_options(spec)
    if requested == NO_SPLIT:
        return None
    if not names:
        if requested is not None:
            raise DataError(f"{body} has no splits; remove #{requested}.")
        return None
    wanted = requested if requested is not None else default
    if wanted is None:
        if len(names) == 1:
            return names[0]
        raise DataError(
            f"{body} has several splits ({_listed(names)}); choose one, for example {_example(body, names)}."
        )
    matches = _matches(wanted, names)
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise DataError(f"{body} has several splits for {wanted!r}; choose one of {_listed(matches)}.")
    raise DataError(
        f"{body} has no split {wanted!r}; expected one of {_listed(names)}, for example {_example(body, names)}."
    )


def split_among(splits: Sequence[str], name: str | None, spec: str) -> str | None:
    """The split of a dataset that has only `splits`; None where no split is named. Raises UsageError for another."""
    split = name if name in splits else name and split_of(name)
    if name is not None and split not in splits:
        raise UsageError(f"{spec}: the split must be {', '.join(splits[:-1])} or {splits[-1]}, got {name!r}.")
    return split


def train_or_test(name: str | None, spec: str) -> str | None:
    """The split of a dataset that has these two only, as from `split_among`."""
    return split_among(("train", "test"), name, spec)


def _matches(wanted: str, names: Sequence[str]) -> list[str]:
    """The name that is `wanted`, else its first other spelling, else every name with such a word."""
    split = split_of(wanted)
    for spelling in (wanted, *SPELLINGS.get(split or "", ())):
        for name in (spelling, *(name for name in names if name.lower() == spelling.lower())):
            if name in names:
                return [name]
    return [name for name in names if split and split_of(split_word(name) or "") == split]


def _example(body: str, names: Sequence[str]) -> str:
    return f"{body}#{'train' if len(_matches('train', names)) == 1 else names[0]}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_SHOWN} more" if len(names) > _MAX_SHOWN else ""
    return ", ".join(names[:_MAX_SHOWN]) + more
