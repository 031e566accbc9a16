"""Image sources: `kind:PATH#options` -> rows of (id, image, label).

    folder:PATH                                  class sub-folders, or a flat folder without labels
    image:FILE                                   one image
    cifar10:PATH#test   cifar100:PATH            published archives (python, binary), their folders, image folders
    manifest:FILE.csv#path=file,label=species    a table of paths and labels (.csv, .tsv, .parquet)
    list:FILE.txt                                a text file of paths, perhaps with labels
    tar:train-{0000..0012}.tar#label=species     WebDataset shards; tar files of class folders; a folder of .tar files
    hdf5:FILE.h5#images=x,label=y                pixels or encoded images in an HDF5 file
    parquet:PATH#split=train                     image bytes in Parquet files, such as Hugging Face datasets
    digits#train                                 scikit-learn's handwritten digits

A plain path is recognized. `#test` is short for `#split=test`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from simsiam_eval.errors import DataError, UsageError
from simsiam_eval.runtime.progress import say
from simsiam_eval.sources.base import ArraySource, ImageSource, PathSource
from simsiam_eval.sources.cifar import open_cifar
from simsiam_eval.sources.digits import open_digits
from simsiam_eval.sources.folder import is_image, open_folder
from simsiam_eval.sources.hdf5 import open_hdf5
from simsiam_eval.sources.manifest import FORMATS, open_manifest
from simsiam_eval.sources.parquet import open_parquet
from simsiam_eval.sources.parquet_columns import image_columns, read_footer
from simsiam_eval.sources.path_list import open_list
from simsiam_eval.sources.shards import is_pattern
from simsiam_eval.sources.tar import open_tar

__all__ = ["ArraySource", "ImageSource", "PathSource", "open_source"]

_Options = dict[str, str]


@dataclass(frozen=True)
class Kind:
    """The options of a kind of source, and how it is opened: from its path, its spec, its options and the role (train,
    test) that it is opened for, where there is one."""

    options: tuple[str, ...]
    open: Callable[[Path, str, _Options, str | None], ImageSource]
    pattern: bool = False  # its path may stand for several files


def _cifar(kind: str) -> Kind:
    return Kind(
        ("split",),
        lambda path, spec, options, role: open_cifar(
            kind, path, spec, _train_or_test(options.get("split", role), spec)
        ),
    )


# Another kind is one more row.
KINDS: dict[str, Kind] = {
    "folder": Kind((), lambda path, spec, _, __: open_folder(path, spec)),
    "image": Kind((), lambda path, spec, _, __: PathSource([path.name], spec=spec, folder=path.parent)),
    "cifar10": _cifar("cifar10"),
    "cifar100": _cifar("cifar100"),
    "manifest": Kind(
        ("path", "label"),
        lambda path, spec, options, _: open_manifest(path, spec, options.get("path", "path"), options.get("label")),
    ),
    "list": Kind((), lambda path, spec, _, __: open_list(path, spec)),
    "tar": Kind(("label", "image", "folder", "split"), open_tar, pattern=True),
    "hdf5": Kind(("images", "label", "id", "split"), open_hdf5),
    "parquet": Kind(("image", "label", "id", "split"), open_parquet, pattern=True),
    "digits": Kind(
        ("split",),
        lambda _, spec, options, role: open_digits(spec, _train_or_test(options.get("split", role), spec)),
    ),
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
    body, tail = _path_and_options(spec)
    kind, colon, rest = body.partition(":")
    if not body or (colon and not rest and kind in KINDS and kind != "digits"):
        raise UsageError(f"{spec!r} names no images: give for example folder:PATH.")
    if kind not in KINDS or (not colon and kind != "digits"):
        if colon and not Path(body).exists() and kind.isalnum() and len(kind) > 1:
            raise UsageError(f"There is no image source {kind!r}; there are: {', '.join(KINDS)}.")
        kind, rest = _recognize(Path(os.path.expanduser(body))), body
    options = _options(tail, kind, KINDS[kind].options)
    path = Path(os.path.expanduser(rest))
    if kind != "digits" and not path.exists() and not (KINDS[kind].pattern and is_pattern(rest)):
        raise DataError(f"There is no {path} (image source {spec}).")
    if kind == "digits" and body == "digits" and Path(body).exists():
        say("digits are scikit-learn's; for what lies at ./digits give ./digits.")
    if kind == "digits" and rest not in ("", "digits"):
        raise UsageError(f"{spec}: digits takes no path; give digits, digits#train or digits#test.")
    if kind == "folder" and not path.is_dir():
        raise DataError(f"{path} is not a folder.")
    if kind in ("image", "list", "manifest", "hdf5") and path.is_dir():
        raise DataError(f"{path} is a folder, and the image source {kind} is a file.")
    try:
        return KINDS[kind].open(path, spec, options, split)
    except OSError as error:
        raise DataError(f"Cannot read {error.filename or path}: {error.strerror}.") from error


def _path_and_options(spec: str) -> tuple[str, str]:
    """Before and after the # that begins the options: none where all of it is a path, the last before which one is there,
    else the first."""
    for place in (len(spec), *(place for place in reversed(range(len(spec))) if spec[place] == "#")):
        body = spec[:place]
        kind, _, rest = body.partition(":")
        if os.path.exists(os.path.expanduser(rest if kind in KINDS else body)):
            return body, spec[place + 1 :]
    body, _, tail = spec.partition("#")
    return body, tail


def _train_or_test(split: str | None, spec: str) -> str | None:
    if split not in (None, "train", "test"):
        raise UsageError(f"The split of {spec} must be train or test.")
    return split


def _recognize(path: Path) -> str:
    name = path.name.lower()
    if not path.exists():
        if is_pattern(str(path)) and name.endswith((".tar", ".parquet")):
            return "tar" if name.endswith(".tar") else "parquet"
        raise DataError(
            f"There is no {path}; image sources are: {', '.join(KINDS)}, or the path of a folder, an image, a manifest, "
            "a list, a .tar, .h5 or .parquet file."
        )
    marks = {"cifar10": ("data_batch_1", "data_batch_1.bin", "cifar-10-batches-py", "cifar-10-batches-bin"),
             "cifar100": ("train.bin", "fine_label_names.txt", "cifar-100-python", "cifar-100-binary")}  # fmt: skip
    for kind, names in marks.items():
        if any((path / name).exists() for name in names):
            return kind
    return _kind_of_folder(path) if path.is_dir() else _kind_of_file(path)


def _kind_of_file(path: Path) -> str:
    name, ending = path.name.lower(), path.suffix.lower()
    if ending == ".parquet":
        return "parquet" if image_columns(read_footer(path).schema) else "manifest"
    if ending in FORMATS:
        return "manifest"
    if name.startswith(("cifar-10-", "cifar-100-")):
        return "cifar10" if name.startswith("cifar-10-") else "cifar100"
    if ending in (".tar", ".tgz", ".tbz2", ".txz") or ".tar." in name:
        return "tar"
    kinds = {".txt": "list", ".h5": "hdf5", ".hdf5": "hdf5"}
    if ending in kinds:
        return kinds[ending]
    if is_image(name):
        return "image"
    raise DataError(
        f"{path} is no image source: give a folder, an image or a {', '.join(FORMATS)}, .txt, .tar or .h5 file."
    )


def _kind_of_folder(path: Path) -> str:
    """tar or parquet where such files lie in it, or Parquet files in its data/, and neither images nor class folders."""
    endings = set()
    with os.scandir(path) as entries:
        for entry in entries:
            if is_image(entry.name) or (entry.is_dir() and entry.name != "data" and not entry.name.startswith(".")):
                return "folder"
            endings.add(os.path.splitext(entry.name)[1].lower())
    if (path / "data").is_dir():
        endings |= {file.suffix.lower() for file in (path / "data").glob("*.parquet")}
    return "tar" if ".tar" in endings else "parquet" if endings & {".parquet", ".arrow"} else "folder"


def _options(tail: str, kind: str, allowed: tuple[str, ...]) -> _Options:
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
