"""The package timm: its import, and what it knows of a network by its name."""

from __future__ import annotations

import difflib
import re
from typing import Any

from simsiam_eval.errors import UsageError
from simsiam_eval.vocabulary import TIMM

_LIBRARY = re.compile(r"(?:(?:hf[_-]hub:)?timm/|timm:|timm-|tu-)")  # before timm's names, in timm and other toolkits


def import_timm() -> Any:
    """The package timm.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import timm
    except ImportError as error:
        raise UsageError('Networks of timm require timm: pip install "simsiam-eval[timm]".') from error
    return timm


def timm_config(arch: str) -> Any:
    """timm's `pretrained_cfg` of `timm:NAME` or NAME.

    Raises:
        UsageError: timm is missing, or has no such network.
    """
    timm, name = import_timm(), arch.removeprefix(TIMM)
    if not timm.is_model(name.split(".")[0]):
        near = difflib.get_close_matches(name, timm.list_models(), 3, 0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "timm.list_models() names all."
        raise UsageError(f"timm has no network {name!r}; {hint}")
    model, _, tag = name.partition(".")
    tags = timm.list_pretrained(model)
    if tag and name not in tags:
        raise UsageError(f"timm has no weights {name!r}; expected one of {', '.join(tags) or 'none'}.")
    return timm.get_pretrained_cfg(name)


def plain_name(name: str) -> str:
    """timm's name of an architecture without the library before it and the tag of its weights.

    >>> plain_name("timm/resnetaa50.a1_in1k"), plain_name("tu-resnet18")
    ('resnetaa50', 'resnet18')
    """
    return name_with_tag(name).partition(".")[0]


def name_with_tag(name: str) -> str:
    """The same with the tag.

    >>> name_with_tag("hf-hub:timm/resnet50.a1_in1k")
    'resnet50.a1_in1k'
    """
    return _LIBRARY.sub("", name, count=1)
