"""Which array of a foreign file holds features, labels and ids: the one that is named, or the only one that can."""

from __future__ import annotations

import re
from collections.abc import Sequence

from simsiam_eval.errors import DataError
from simsiam_eval.features.foreign.arrays import ForeignArray
from simsiam_eval.wording import first_few

# Names that are recognized, in lower case, without a number or * at the end and without the group before them.
FEATURE_NAMES = (
    "features", "feature", "feats", "feat", "embeddings", "embedding", "embeds", "embs", "emb", "vectors", "vector", "x",
    "activations", "representations", "img_emb", "image_embeddings", "image_features",
)  # fmt: skip
LABEL_NAMES = (
    "labels", "label", "targets", "target", "y", "class", "class_name", "class_names", "ground_truth", "category",
)  # fmt: skip
ID_NAMES = (
    "ids", "id", "filenames", "filename", "file_names", "file_name", "files", "file", "filepaths", "filepath", "paths",
    "path", "image_paths", "image_path", "image_ids", "image_id", "names", "name", "keys", "key",
)  # fmt: skip
NONE = "none"  # the key that says that there is no such array


def choose_features(arrays: Sequence[ForeignArray], key: str | None, where: str) -> ForeignArray:
    """The features: the array called `key`, else the only one with a recognized name, else the only matrix of floats.

    Args:
        where: the file, for messages.

    Raises:
        DataError: there is none, or several.
    """
    if key is not None:
        return _named(arrays, key, "--features-key", where)
    if [array.name for array in arrays] == [""]:
        return arrays[0]
    matrices = [array for array in arrays if array.is_matrix]
    floats = [array for array in matrices if array.dtype.kind == "f"]
    possible = [array for array in matrices if _plain_name(array) in FEATURE_NAMES] or floats or matrices
    if not possible:
        raise DataError(f"{where} contains no features (N, D); it has {_listed(arrays)}.")
    if len(possible) > 1:
        raise DataError(
            f"{where} contains several arrays that may be the features ({_listed(possible)}); choose one with "
            "--features-key."
        )
    return possible[0]


def choose_column(
    arrays: Sequence[ForeignArray], names: Sequence[str], key: str | None, option: str, where: str
) -> ForeignArray | None:
    """The labels or ids: the array called `key`, else the only one with one of the recognized names; None without one.

    Args:
        names: recognized names, `LABEL_NAMES` or `ID_NAMES`.
        option: the option that chooses, for messages.
        where: the file, for messages.

    Raises:
        DataError: there are several, or the chosen one is not one value per row.
    """
    if key == NONE:
        return None
    if key is not None:
        chosen = _named(arrays, key, option, where)
    else:
        possible = [array for array in arrays if _plain_name(array) in names]
        if not possible:
            return None
        if len(possible) > 1:
            raise DataError(
                f"{where} contains several arrays of this kind ({_listed(possible)}); choose one with {option}, or none "
                f"with {option} {NONE}."
            )
        chosen = possible[0]
    if any(length != 1 for length in chosen.shape[1:]):
        raise DataError(
            f"{where}: {chosen.described()} has several values per row; expected shape (N,) (of one-hot labels, take the "
            f"argmax), or choose another array with {option}."
        )
    return readable(chosen, where)


def readable(array: ForeignArray, where: str) -> ForeignArray:
    """The array. Raises DataError if it cannot be read."""
    if array.problem:
        raise DataError(f"{where}: {array.name or 'the array'} {array.problem}.")
    return array


def _named(arrays: Sequence[ForeignArray], key: str, option: str, where: str) -> ForeignArray:
    for array in arrays:
        if key in (array.name, array.name.rstrip("*"), array.name.rstrip("*").rstrip("_")):
            return array
    raise DataError(f"{where} has no array {key!r} ({option}); it has {_listed(arrays)}.")


def _plain_name(array: ForeignArray) -> str:
    """
    >>> import numpy as np
    >>> _plain_name(ForeignArray("train/Embedding_*", (5, 2), np.dtype("float32"), lambda: iter(())))
    'embedding'
    """
    return re.sub(r"[_.-]?\*$", "", array.name.lower().rpartition("/")[2])


def _listed(arrays: Sequence[ForeignArray]) -> str:
    return first_few([array.described() for array in arrays], 8) or "no arrays"
