"""What files that we wrote record about their encoder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from simsiam_eval.encoders.architectures import TrunkVariant
from simsiam_eval.encoders.checkpoint_files.checkpoint_file import CheckpointFile
from simsiam_eval.encoders.checkpoint_writer import METADATA_KEY
from simsiam_eval.errors import DataError


def recorded_metadata(file: CheckpointFile) -> dict[str, Any] | None:
    """The metadata of `write_checkpoint`, or what `convert` recorded in its place; None in files of other programs.

    Raises:
        DataError: it is damaged.
    """
    metadata = file.content.get(METADATA_KEY)
    names: tuple[str, ...]
    if isinstance(metadata, Mapping):
        conversion, names = metadata.get("conversion"), ("variant",)
    # The files of a folder say the same, and may have been edited since.
    elif file.metadata.get("written_by", "").startswith("simsiam-eval ") and not file.configs:
        metadata, conversion, names = {"conversion": dict(file.metadata)}, file.metadata, ("variant", "preprocessing")
    else:
        return None
    texts = conversion if isinstance(conversion, Mapping) else {}
    try:
        return {name: json.loads(texts[name]) for name in names if name in texts} | dict(metadata)
    except (ValueError, TypeError) as error:
        raise DataError(f"{file.path} has metadata that cannot be read ({error}); write it again.") from error


def recorded_variant(metadata: Mapping[str, Any] | None, where: str) -> TrunkVariant | None:
    """The variant in the metadata; None without metadata.

    Args:
        where: the start of an error message, such as the file's path.

    Raises:
        DataError: it is one of a newer version.
    """
    if metadata is None:
        return None
    recorded = metadata.get("variant")
    try:
        return TrunkVariant.from_dict(recorded or {})
    except TypeError as error:
        raise DataError(
            f"{where} records an unknown variant of its trunk ({recorded}); update simsiam-eval."
        ) from error
