"""The table of image sources, and `open_source`, which opens one from `kind:PATH#options`.

    folder:PATH                                  class sub-folders, or a flat folder without labels
    image:FILE                                   one image
    cifar10:PATH#test   cifar100:PATH            published archives (python, binary), their folders, image folders
    manifest:FILE.csv#path=file,label=species    a table of paths and labels (.csv, .tsv, .parquet)
    list:FILE.txt                                a text file of paths, optionally with labels
    tar:train-{0000..0012}.tar#label=species     WebDataset shards; tar files of class folders; a folder of .tar files
    zip:FILE.zip                                 zip archives of class folders
    hdf5:FILE.h5#images=x,label=y                pixels or encoded images in an HDF5 file
    parquet:PATH#split=train                     image bytes in Parquet files, such as Hugging Face datasets
    digits#train                                 scikit-learn's handwritten digits

A plain path is recognized. `#test` is short for `#split=test`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from simsiam_eval.errors import DataError, UsageError
from simsiam_eval.images.formats import ARRAYS, has_image_ending, is_image_file
from simsiam_eval.runtime.notes import say_once
from simsiam_eval.runtime.progress import say
from simsiam_eval.sources.base import ImageSource, PathSource
from simsiam_eval.sources.cifar import open_cifar
from simsiam_eval.sources.digits import open_digits
from simsiam_eval.sources.folder import open_folder
from simsiam_eval.sources.hdf5 import open_hdf5
from simsiam_eval.sources.manifest import FORMATS, open_manifest
from simsiam_eval.sources.parquet import open_parquet
from simsiam_eval.sources.parquet_columns import image_columns, read_footer
from simsiam_eval.sources.path_list import open_list
from simsiam_eval.sources.shards import is_pattern
from simsiam_eval.sources.spec import Spec, parse_spec, without_options
from simsiam_eval.sources.tar import open_tar
from simsiam_eval.sources.unread import is_ignored, is_ignored_folder
from simsiam_eval.sources.zip import open_zip
from simsiam_eval.vocabulary import NO_LABEL


@dataclass(frozen=True)
class Kind:
    """One kind of image source.

    Attributes:
        options: names of the options after `#`.
        open: opens it from the path, the spec, the options, and the split (train, test) to take where they name none.
        takes_pattern: whether the path may be a pattern for several files.
        reads_labels: whether labels are values in its files, so that `open` also takes `no_label`.
    """

    options: tuple[str, ...]
    open: Callable[..., ImageSource]
    takes_pattern: bool = False
    reads_labels: bool = False


# To add a kind, add a row.
KINDS: dict[str, Kind] = {
    "folder": Kind(("split",), open_folder),
    "image": Kind((), lambda path, spec, _, __: PathSource([path.name], spec=spec, folder=path.parent)),
    "cifar10": Kind(("split",), partial(open_cifar, "cifar10")),
    "cifar100": Kind(("split",), partial(open_cifar, "cifar100")),
    "manifest": Kind(("path", "label"), open_manifest, reads_labels=True),
    "list": Kind((), open_list, reads_labels=True),
    "tar": Kind(("label", "image", "folder", "split"), open_tar, takes_pattern=True, reads_labels=True),
    "zip": Kind(("label", "folder", "split"), open_zip, takes_pattern=True),
    "hdf5": Kind(("images", "label", "id", "split"), open_hdf5, reads_labels=True),
    "parquet": Kind(("image", "label", "id", "split"), open_parquet, takes_pattern=True, reads_labels=True),
    "digits": Kind(("split",), lambda _, spec, options, split: open_digits(spec, options, split)),
}


def open_source(
    spec: str | os.PathLike[str], split: str | None = None, no_label: Sequence[str] = NO_LABEL
) -> ImageSource:
    """Open an image source, and say how many of its images have no label where some values mean that.

    Args:
        spec: `kind:PATH#options`, or a plain path; the kinds are listed at the top of this module.
        split: train or test, used where the source has splits and the spec names none.
        no_label: label texts that mean that there is no label, besides the empty text.

    Raises:
        UsageError: an unknown kind or option.
        DataError: the images are missing or damaged.
    """
    spec = os.fspath(spec)
    if without_options(spec) == "digits":
        return _open_digits(spec, split)
    parsed = parse_spec(spec, KINDS, "image source")
    if parsed.kind == "digits":
        raise UsageError(f"{spec}: digits takes no path; expected digits, digits#train or digits#test.")
    if not parsed.kind:
        parsed = replace(parsed, kind=_recognize(parsed.path))
    path, kind = parsed.path, KINDS[parsed.kind]
    options = parsed.options(kind.options)
    if not path.exists() and not (kind.takes_pattern and is_pattern(str(path))):
        raise DataError(f"{path} does not exist (image source {spec}).")
    if parsed.kind == "folder" and not path.is_dir():
        raise DataError(f"{path} is not a folder (image source {spec}).")
    if parsed.kind in ("image", "list", "manifest", "hdf5") and path.is_dir():
        raise DataError(f"{path} is a folder; {parsed.kind}: expects a file.")
    try:
        source = kind.open(path, spec, options, split, **({"no_label": no_label} if kind.reads_labels else {}))
    except OSError as error:
        raise DataError(f"Cannot read {error.filename or path}: {error.strerror}.") from error
    for note in source.notes:
        say_once(f"{spec}: {note}.")
    return source


def _open_digits(spec: str, split: str | None) -> ImageSource:
    name = without_options(spec)
    tail = spec[len(name) + 1 :]
    if Path(name).exists():
        say("digits is scikit-learn's dataset; to read the path ./digits, write ./digits.")
    options = Spec(spec, "digits", Path(), tail).options(KINDS["digits"].options)
    return KINDS["digits"].open(Path(), spec, options, split)


def _recognize(path: Path) -> str:
    """The kind of a plain path."""
    name = path.name.lower()
    if not path.exists():
        if is_pattern(str(path)) and name.endswith((".tar", ".zip", ".parquet")):
            return name.rpartition(".")[2]
        raise DataError(f"{path} does not exist; expected {_expected()}.")
    markers = {
        "cifar10": ("data_batch_1", "data_batch_1.bin", "cifar-10-batches-py", "cifar-10-batches-bin"),
        "cifar100": ("train.bin", "fine_label_names.txt", "cifar-100-python", "cifar-100-binary"),
    }
    for kind, names in markers.items():
        if any((path / name).exists() for name in names):
            return kind
    return _kind_of_folder(path) if path.is_dir() else _kind_of_file(path)


def _expected() -> str:
    return (
        f"a folder, an image, a {'/'.join(FORMATS)} manifest, a .txt list, a .tar, .h5 or .parquet file, or one of "
        f"{', '.join(f'{kind}:' for kind in KINDS if kind != 'digits')}, digits"
    )


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
    kinds = {".txt": "list", ".h5": "hdf5", ".hdf5": "hdf5", ".zip": "zip"}
    if ending in kinds:
        return kinds[ending]
    if has_image_ending(name) or name.endswith(ARRAYS) or is_image_file(path):
        return "image"
    raise DataError(f"{path} is not a supported image source; expected {_expected()}.")


def _kind_of_folder(path: Path) -> str:
    """tar, zip or parquet if the folder, or its data/, holds such files and neither images nor class folders."""
    endings = set()
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.is_dir():
                if entry.name != "data" and not is_ignored_folder(entry.name):
                    return "folder"
            elif has_image_ending(entry.name) and not is_ignored(entry.name):
                return "folder"
            endings.add(os.path.splitext(entry.name)[1].lower())
    if (path / "data").is_dir():
        endings |= {file.suffix.lower() for file in (path / "data").glob("*.parquet")}
    kinds = {".tar": "tar", ".zip": "zip", ".parquet": "parquet", ".arrow": "parquet"}
    return next((kind for ending, kind in kinds.items() if ending in endings), "folder")
