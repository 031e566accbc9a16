"""JSON for strict parsers: NaN and infinities become null."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def strict_json(value: Any, indent: int | None = None) -> str:
    """`value` as JSON text.

    >>> strict_json({"loss": float("nan"), "k": (20, 200)})
    '{"loss": null, "k": [20, 200]}'
    """
    return json.dumps(null_where_not_finite(value), indent=indent, ensure_ascii=False, allow_nan=False)


def null_where_not_finite(value: Any) -> Any:
    """`value` with None for every number that is not finite, keys as strings and sequences as lists."""
    if isinstance(value, Mapping):
        return {str(key): null_where_not_finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [null_where_not_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
