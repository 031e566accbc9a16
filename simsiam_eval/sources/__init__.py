"""Image sources: `kind:PATH#options` -> rows of (id, image, label).

    folder:PATH                                  class sub-folders, or a flat folder without labels
    cifar10:PATH#test   cifar100:PATH            published archives (python, binary), their folders, image folders
    manifest:FILE.csv#path=file,label=species    a table of paths and labels (.csv, .tsv, .parquet)
    digits#train                                 scikit-learn's handwritten digits

A plain path is recognised. `#test` is short for `#split=test`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from simsiam_eval.errors import DataError, UsageError
from simsiam_eval.sources.base import ArraySource, ImageSource, PathSource
from simsiam_eval.sources.cifar import open_cifar
from simsiam_eval.sources.digits import open_digits
from simsiam_eval.sources.folder import open_folder
from simsiam_eval.sources.manifest import FORMATS, open_manifest

__all__ = ["ArraySource", "ImageSource", "PathSource", "open_source"]

_Opener = Callable[[Path, str, dict[str, str]], ImageSource]
# kind: (the options it takes, opener of path, spec and options); another kind is one more row.
KINDS: dict[str, tuple[tuple[str, ...], _Opener]] = {
    "folder": ((), lambda path, spec, _: open_folder(path, spec)),
    "cifar10": (("split",), lambda path, spec, options: open_cifar("cifar10", path, spec, options.get("split"))),
    "cifar100": (("split",), lambda path, spec, options: open_cifar("cifar100", path, spec, options.get("split"))),
    "manifest": (
        ("path", "label"),
        lambda path, spec, options: open_manifest(path, spec, options.get("path", "path"), options.get("label")),
    ),
    "digits": (("split",), lambda _, spec, options: open_digits(spec, options.get("split"))),
}


def open_source(spec: str, split: str | None = None) -> ImageSource:
    """Open an image source.

    Args:
        spec: see the module's text.
        split: train or test, used where the source has splits and the spec names none.

    Raises:
        UsageError: an unknown kind or option.
        DataError: the images are missing or damaged.
    """
    body, _, tail = spec.partition("#") if not Path(spec).exists() else (spec, "", "")
    kind, colon, rest = body.partition(":")
    if kind not in KINDS or (not colon and kind != "digits"):
        if colon and not Path(body).exists() and kind.isalnum() and len(kind) > 1:
            raise UsageError(f"There is no image source {kind!r}; there are: {', '.join(KINDS)}.")
        kind, rest = _recognise(Path(body).expanduser()), body
    allowed, opener = KINDS[kind]
    options = _options(tail, kind, allowed)
    if split and "split" in allowed:
        options.setdefault("split", split)
    if options.get("split", "train") not in ("train", "test"):
        raise UsageError(f"The split of {spec} must be train or test.")
    path = Path(rest).expanduser()
    if kind != "digits" and not path.exists():
        raise DataError(f"There is no {path} (image source {spec}).")
    if kind == "digits" and rest not in ("", "digits"):
        raise UsageError(f"{spec}: digits takes no path; give digits, digits#train or digits#test.")
    if kind == "folder" and not path.is_dir():
        raise DataError(f"{path} is not a folder.")
    try:
        return opener(path, spec, options)
    except OSError as error:
        raise DataError(f"Cannot read {error.filename or path}: {error.strerror}.") from error


def _recognise(path: Path) -> str:
    if not path.exists():
        raise DataError(
            f"There is no {path}; image sources are: {', '.join(KINDS)}, or the path of a folder or manifest."
        )
    if path.suffix.lower() in FORMATS:
        return "manifest"
    marks = {"cifar10": ("data_batch_1", "data_batch_1.bin", "cifar-10-batches-py", "cifar-10-batches-bin"),
             "cifar100": ("train.bin", "fine_label_names.txt", "cifar-100-python", "cifar-100-binary")}  # fmt: skip
    for kind, names in marks.items():
        if any((path / name).exists() for name in names):
            return kind
    if path.is_file():
        if path.name.startswith(("cifar-10-", "cifar-100-")):
            return "cifar10" if path.name.startswith("cifar-10-") else "cifar100"
        raise DataError(f"{path} is no image source: give a folder or a {', '.join(FORMATS)} file.")
    return "folder"


def _options(tail: str, kind: str, allowed: tuple[str, ...]) -> dict[str, str]:
    options = {}
    for part in filter(None, tail.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            key, value = "split", part
        if key not in allowed:
            there = ", ".join(allowed) or "none"
            raise UsageError(f"The image source {kind} has no option {part!r}; it has: {there}.")
        options[key] = value
    return options
