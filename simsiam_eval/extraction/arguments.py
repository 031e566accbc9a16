"""Checks of the arguments that Python callers pass to `load_encoder`, `extract` and `open_features`."""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Mapping
from typing import Any

from simsiam_eval.commands.table import COMMANDS
from simsiam_eval.encoders.encoder import Encoder
from simsiam_eval.encoders.settings import CHOICE_NAMES
from simsiam_eval.errors import UsageError
from simsiam_eval.extraction.pixel_settings import PixelSettings
from simsiam_eval.extraction.settings import FeatureSettings
from simsiam_eval.features.table import Features

# Settings of how images are prepared.
PREPROCESSING = ("transform", "resize", "crop", "decode", *(field.name for field in dataclasses.fields(PixelSettings)))
# Settings that `like` decides.
_OF_LIKE = ("layer", "pool", *PREPROCESSING, "flip_average", "normalize", "precision")
# Settings of the command that are arguments of the function.
_NOT_KEYWORDS = {"checkpoint", "data", "out", "device"}


def check_path(value: Any, name: str, expected: str) -> None:
    """Raise TypeError unless the argument `name` is a path."""
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{name} must be {expected}, got {type(value).__name__}")


def check_like(like: Any) -> None:
    """Raise TypeError unless `like` is None or Features."""
    if like is not None and not isinstance(like, Features):
        raise TypeError(f"like must be Features, such as open_features(path), got {type(like).__name__}")


def check_options(options: Mapping[str, Any], encoder: Encoder | None, like: Features | None, to_file: bool) -> None:
    """Check the keywords of `extract` that are settings of the command `extract`.

    Args:
        encoder: the loaded encoder; None: it is loaded from a checkpoint with these settings.
        to_file: whether a feature file is written, for which there are more settings.

    Raises:
        UsageError: an unknown setting, or one that would have no effect.
    """
    of_file = _names(COMMANDS["extract"].settings_class())
    allowed = of_file if to_file else _names(FeatureSettings)
    for name in options:
        if name in allowed:
            continue
        if name in of_file:
            raise UsageError(f"{name} requires out=, the feature file to write.")
        guesses = difflib.get_close_matches(name, allowed, 1)
        hint = f"did you mean {guesses[0]}? " if guesses else ""
        raise UsageError(f"extract has no keyword {name!r}; {hint}expected one of {', '.join(allowed)}.")
    if not to_file and options.get("dtype", "float32") != "float32":
        raise UsageError(f"dtype={options['dtype']!r} requires out=, since features in memory are float32.")
    if like is not None:
        for name in _OF_LIKE:
            if name in options:
                raise UsageError(f"{name} cannot be used with like, which decides it.")
    if encoder is not None:
        for name in CHOICE_NAMES:
            if name in options:
                raise UsageError(
                    f"{name} cannot be used with a loaded encoder; load_encoder(..., {name}=...) decides it."
                )
        given = FeatureSettings(**{name: options[name] for name in ("layer", "pool") if name in options})
        for name, keyword, value, loaded in (
            ("layer", "layer", given.layer, encoder.layers),
            ("pool", "pooling", (given.pool,), (encoder.pooling,)),
        ):
            if name in options and value not in (loaded, ("auto",)):
                raise UsageError(
                    f"{name}={','.join(value)} differs from the encoder's {','.join(loaded)}; "
                    f"load_encoder(..., {keyword}=...) decides it."
                )


def _names(settings_class: type) -> list[str]:
    return [field.name for field in dataclasses.fields(settings_class) if field.name not in _NOT_KEYWORDS]
