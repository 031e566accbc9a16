"""Which channels of an image an encoder gets. Imports neither torch nor NumPy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Self

from simsiam_eval.errors import UsageError
from simsiam_eval.vocabulary import CHANNEL_AXES

_MAX_CHANNELS = 10_000
_EXPECTED = "expected a number, such as 4, or indices from 0, such as 0,1,2,7 or 0-2,7"


@dataclass(frozen=True)
class ChannelSelection:
    """The settings `channels` and `channel_axis`.

    Attributes:
        channels: "4": all channels of images that have four of them; "0,1,2,7": these channels in this order.
        channel_axis: "first" or "last", of arrays whose shape does not show it; None: the shape shows it.
    """

    channels: str
    channel_axis: str | None = None

    @classmethod
    def parse(cls, text: str, channel_axis: str | None = None) -> Self:
        """The selection with ranges spelled out, so that equal selections are equal.

        Raises:
            UsageError: `text` is neither a number nor indices.

        >>> ChannelSelection.parse("0-2, 7").channels, ChannelSelection.parse("7-7").indices
        ('0,1,2,7', (7,))
        """
        parts = [part.strip() for part in text.split(",")]
        if len(parts) == 1 and parts[0].isdecimal():
            if not 1 <= int(parts[0]) <= _MAX_CHANNELS:
                raise UsageError(f"--channels must be a number from 1 to {_MAX_CHANNELS}, got {text!r}.")
            return cls(str(int(parts[0])), channel_axis)
        indices = [index for part in parts for index in _range(part, text)]
        spelled = ",".join(map(str, indices)) if len(indices) > 1 else f"{indices[0]}-{indices[0]}"
        return cls(spelled, channel_axis)

    @cached_property
    def count(self) -> int | None:
        """The number of channels that images must have; None where channels are chosen by index."""
        return int(self.channels) if self.channels.isdecimal() else None

    @cached_property
    def indices(self) -> tuple[int, ...] | None:
        """The indices of the chosen channels; None for all of them."""
        if self.count is not None:
            return None
        parts = self.channels.split(",")
        return tuple(map(int, parts)) if len(parts) > 1 else (int(parts[0].partition("-")[0]),)

    @property
    def number(self) -> int:
        """The number of channels that the encoder gets."""
        return self.count if self.indices is None else len(self.indices)  # type: ignore[return-value]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as feature files record them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """What `to_dict` returned.

        Raises:
            KeyError, TypeError, ValueError: a value is missing or impossible.
        """
        axis = values["channel_axis"]
        if axis not in (None, *CHANNEL_AXES):
            raise ValueError(f"unknown channel axis {axis!r}")
        try:
            return cls.parse(values["channels"], axis)
        except (UsageError, AttributeError) as error:
            raise ValueError(str(error)) from error


def channels_text(channels: Any) -> Any:
    """The setting `channels` as text, from a number or indices; anything else as it is.

    >>> channels_text(4), channels_text([0, 1]), channels_text((7,)), channels_text("0-2")
    ('4', '0,1', '7-7', '0-2')
    """
    if isinstance(channels, int) and not isinstance(channels, bool):
        return str(channels)
    if (
        isinstance(channels, Sequence)
        and not isinstance(channels, str)
        and all(type(index) is int for index in channels)
    ):
        return f"{channels[0]}-{channels[0]}" if len(channels) == 1 else ",".join(map(str, channels))
    return channels


def _range(part: str, text: str) -> range:
    first, dash, last = part.partition("-")
    if not first.isdecimal() or not (last if dash else first).isdecimal():
        raise UsageError(f"--channels {text!r} cannot be read; {_EXPECTED}.")
    start, end = int(first), int(last if dash else first)
    if start > end or end >= _MAX_CHANNELS:
        raise UsageError(f"--channels {text!r} has no channels {part}; {_EXPECTED}.")
    return range(start, end + 1)
