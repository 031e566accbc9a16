"""The table of image sources, and `open_source`, which opens one from `kind:PATH#options`.

    folder:PATH                                  class sub-folders, or a flat folder without labels
    image:FILE                                   one image
    cifar10:PATH#test   cifar100:PATH            published archives (python, binary), their folders, image folders
    manifest:FILE.csv#path=file,label=species    a table of paths and labels (.csv, .tsv, .parquet, .jsonl)
    list:FILE.txt                                a text file of paths, optionally with labels
    tar:train-{0000..0012}.tar#label=species     WebDataset shards; tar files of class folders; a folder of .tar files
    zip:FILE.zip                                 zip archives of class folders
    hdf5:FILE.h5#images=x,label=y                pixels or encoded images in an HDF5 file
    parquet:PATH#split=train                     image bytes in Parquet or Arrow files, such as Hugging Face datasets
    imagefolder:PATH                             images with a metadata.csv or .jsonl, as on Hugging Face's Hub
    arrays:FILE.npz#images=x,label=y             NumPy arrays in .npz or .npy files
    idx:PATH#train                               MNIST, Fashion-MNIST, KMNIST, EMNIST
    stl10:PATH#train   svhn:PATH#train           STL-10 (binary), SVHN (cropped digits)
    digits#train                                 scikit-learn's handwritten digits
    photo-digits#train                           the same on backgrounds cut from photographs

A plain path is recognized. `#test` is short for `#split=test`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from simsiam_eval.errors import DataError, UsageError
from simsiam_eval.files.unicode_names import other_form_hint
from simsiam_eval.runtime.notes import say_once
from simsiam_eval.runtime.progress import say
from simsiam_eval.sources.arrays import open_arrays
from simsiam_eval.sources.base import ImageSource, PathSource
from simsiam_eval.sources.cifar import open_cifar
from simsiam_eval.sources.digits import open_digits
from simsiam_eval.sources.folder import open_folder
from simsiam_eval.sources.hdf5 import open_hdf5
from simsiam_eval.sources.idx import open_idx
from simsiam_eval.sources.imagefolder import open_imagefolder
from simsiam_eval.sources.manifest import open_manifest
from simsiam_eval.sources.parquet import open_parquet
from simsiam_eval.sources.path_list import open_list, split_folder_notes
from simsiam_eval.sources.photo_digits import open_photo_digits
from simsiam_eval.sources.recognition import kind_of
from simsiam_eval.sources.shards import is_pattern
from simsiam_eval.sources.spec import Spec, parse_spec, without_options
from simsiam_eval.sources.stl10 import open_stl10
from simsiam_eval.sources.svhn import open_svhn
from simsiam_eval.sources.tar import open_tar
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
    "manifest": Kind(("path", "label", "split"), open_manifest, reads_labels=True),
    "list": Kind((), open_list, reads_labels=True),
    "tar": Kind(("label", "image", "folder", "split"), open_tar, takes_pattern=True, reads_labels=True),
    "zip": Kind(("label", "folder", "split"), open_zip, takes_pattern=True),
    "hdf5": Kind(("images", "label", "id", "split"), open_hdf5, reads_labels=True),
    "parquet": Kind(("image", "label", "id", "split"), open_parquet, takes_pattern=True, reads_labels=True),
    "imagefolder": Kind(("label", "split"), open_imagefolder, reads_labels=True),
    "arrays": Kind(("images", "label", "split"), open_arrays, reads_labels=True),
    "idx": Kind(("name", "split"), open_idx, reads_labels=True),
    "stl10": Kind(("split", "fold"), open_stl10, reads_labels=True),
    "svhn": Kind(("split",), open_svhn, reads_labels=True),
    "digits": Kind(("split",), lambda _, spec, options, split: open_digits(spec, options, split)),
    "photo-digits": Kind(("split",), lambda _, spec, options, split: open_photo_digits(spec, options, split)),
}
_BUILT_IN = ("digits", "photo-digits")  # kinds without a path


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
    if without_options(spec) in _BUILT_IN:
        return _open_built_in(spec, split)
    parsed = parse_spec(spec, KINDS, "image source")
    if (name := parsed.kind) in _BUILT_IN:
        raise UsageError(f"{spec}: {name} takes no path; expected {name}, {name}#train or {name}#test.")
    if not parsed.kind:
        parsed = replace(parsed, kind=kind_of(parsed.path, KINDS))
    path, kind = parsed.path, KINDS[parsed.kind]
    options = parsed.options(kind.options)
    if not path.exists() and not (kind.takes_pattern and is_pattern(str(path))):
        raise DataError(f"{path} does not exist (image source {spec}){other_form_hint(path)}.")
    if parsed.kind == "folder" and not path.is_dir():
        raise DataError(f"{path} is not a folder (image source {spec}).")
    if parsed.kind in ("image", "list", "manifest", "hdf5") and path.is_dir():
        raise DataError(f"{path} is a folder; {parsed.kind}: expects a file.")
    try:
        source = kind.open(path, spec, options, split, **({"no_label": no_label} if kind.reads_labels else {}))
    except OSError as error:
        raise DataError(f"Cannot read {error.filename or path}: {error.strerror}.") from error
    if parsed.kind in ("list", "manifest") and isinstance(source, PathSource) and "split" not in options:
        source.notes += split_folder_notes(source)
    for note in source.notes:
        say_once(f"{spec}: {note}.")
    return source


def _open_built_in(spec: str, split: str | None) -> ImageSource:
    name = without_options(spec)
    tail = spec[len(name) + 1 :]
    if Path(name).exists():
        say(f"{name} is scikit-learn's dataset; to read the path ./{name}, write ./{name}.")
    kind = KINDS[name]
    return kind.open(Path(), spec, Spec(spec, name, Path(), tail).options(kind.options), split)
