"""Which stored values become black and white, where images have more than 8 bits. Imports neither torch nor NumPy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from simsiam_eval.errors import UsageError

Range = tuple[float, float]  # black and white

AUTO, BY_TYPE, PERCENTILE = "auto", "dtype", "percentile"
RULES = (AUTO, BY_TYPE, PERCENTILE)
FLOAT = "float"  # the type of floats of any width
_ALL = "all"
_EIGHT_BITS, _SIXTEEN_BITS = (0.0, 255.0), (0.0, 65535.0)
_BITS = {"int8": 7, "int16": 15, "uint16": 16, "int32": 31, "uint32": 32, "int64": 63, "uint64": 64}
# The values that a type has, from 0 for signed integers too; from 0 to 1 for floats.
FULL_RANGES: dict[str, Range] = {name: (0.0, float(2**bits - 1)) for name, bits in _BITS.items()} | {FLOAT: (0.0, 1.0)}


@dataclass(frozen=True)
class Intensity:
    """The values of black and white, by the type of the stored values.

    8-bit values are always from 0 to 255; 16-bit unsigned integers are from 0 to 65535 by default.

    Attributes:
        ranges: (type, (black, white)), sorted; the type "all" stands for every type.
    """

    ranges: tuple[tuple[str, Range], ...] = ()

    @classmethod
    def of(cls, ranges: Mapping[str, Range]) -> Self:
        """The intensity with these ranges."""
        return cls(tuple(sorted((name, (float(low), float(high))) for name, (low, high) in ranges.items())))

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """What the setting `intensity` says without images: LOW:HIGH or dtype; None for auto and percentile.

        Raises:
            UsageError: it is none of these.

        >>> Intensity.parse("-1000:400").range_of("int16"), Intensity.parse("dtype").range_of("int16")
        ((-1000.0, 400.0), (0.0, 32767.0))
        """
        if text in RULES:
            return cls.of(FULL_RANGES) if text == BY_TYPE else None
        low, colon, high = text.partition(":")
        try:
            span = float(low), float(high if colon else "nan")
        except ValueError:
            span = math.nan, math.nan
        if not all(map(math.isfinite, span)) or span[0] >= span[1]:
            raise UsageError(
                f"--intensity must be {', '.join(RULES)} or LOW:HIGH with LOW below HIGH, such as 0:4095, got {text!r}."
            )
        return cls.of({_ALL: span})

    def range_of(self, value_type: str) -> Range | None:
        """Black and white of values of this type; None if they are unknown."""
        if value_type == "uint8":
            return _EIGHT_BITS
        return self.given(value_type) or (_SIXTEEN_BITS if value_type == "uint16" else None)

    def given(self, value_type: str) -> Range | None:
        """As `range_of`, without the default of 16-bit values."""
        ranges = dict(self.ranges)
        return ranges.get(value_type) or ranges.get(_ALL)

    def agrees_with(self, other: Intensity) -> bool:
        """Whether values of every type that both know are scaled alike."""
        pairs = ((self.range_of(name), other.range_of(name)) for name in FULL_RANGES)
        return all(own == others or own is None or others is None for own, others in pairs)

    def to_json(self) -> Any:
        """Plain values, as feature files record them: "dtype", [low, high], or type -> [low, high]."""
        ranges = dict(self.ranges)
        if ranges == FULL_RANGES:
            return BY_TYPE
        return list(ranges[_ALL]) if _ALL in ranges else {name: list(span) for name, span in ranges.items()}

    @classmethod
    def from_json(cls, values: Any) -> Self:
        """What `to_json` returned; nothing for None.

        Raises:
            TypeError, ValueError: something else.
        """
        if values == BY_TYPE:
            return cls.of(FULL_RANGES)
        ranges = {_ALL: values} if isinstance(values, list) else dict(values or {})
        intensity = cls.of({str(name): (low, high) for name, (low, high) in ranges.items()})
        if not all(math.isfinite(low) and low < high < math.inf for _, (low, high) in intensity.ranges):
            raise ValueError(f"impossible gray levels {values}")
        return intensity

    def option(self) -> str | None:
        """The setting `intensity` that gives these levels; None if no single one does.

        >>> Intensity.of({"uint16": (0, 4095)}).option()
        '0:4095'
        """
        spans = {span for _, span in self.ranges}
        if self.to_json() == BY_TYPE:
            return BY_TYPE
        return range_text(*spans.pop()) if len(spans) == 1 else None


def range_text(low: float, high: float) -> str:
    """LOW:HIGH as the setting spells it.

    >>> range_text(-1000.0, 0.25)
    '-1000:0.25'
    """
    return f"{number_text(low)}:{number_text(high)}"


def number_text(value: float) -> str:
    """A number without a superfluous ".0", in full.

    >>> number_text(65535.0), number_text(0.1)
    ('65535', '0.1')
    """
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e16 else repr(float(value))
