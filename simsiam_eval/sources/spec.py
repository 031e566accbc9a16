"""Parse image source specs, `kind:PATH#options`. Does not import torch, because settings use it.

folder:photos           kind `folder`, path `photos`
photos#train            a plain path, and the option `split=train`
tar:a.tar#label=id,val  the options `label=id` and `split=val`
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from simsiam_eval.errors import UsageError
from simsiam_eval.vocabulary import FEATURE_ENDINGS, INDEX_ENDING


@dataclass(frozen=True)
class Spec:
    """A spec taken apart.

    Attributes:
        text: the whole spec as given.
        kind: what stands before the colon; "" for a plain path.
        path: the path, with `~` expanded.
        tail: what follows the `#`; "" without one.
    """

    text: str
    kind: str
    path: Path
    tail: str

    def options(self, allowed: Sequence[str]) -> dict[str, str]:
        """The options by name; one without `=` is the split.

        Args:
            allowed: names of the options. The value of an only option may contain commas.

        Raises:
            UsageError: an option is unknown, is given twice or has no value.

        >>> parse_spec("tar:a.tar#label=id,val", ["tar"], "image source").options(["label", "split"])
        {'label': 'id', 'split': 'val'}
        """
        options: dict[str, str] = {}
        for part in filter(None, self.tail.split(",") if len(allowed) > 1 else [self.tail]):
            name, value = part.split("=", 1) if "=" in part else ("split", part)
            if name not in allowed:
                choices = ", ".join(allowed) or "no options"
                raise UsageError(f"{self.text}: unknown option {part!r}; {self.kind} takes {choices}.")
            if name in options:
                raise UsageError(f"{self.text}: the option {name!r} is given twice.")
            if not value.strip():
                raise UsageError(f"{self.text}: #{name}= has no value.")
            options[name] = value
        return options


def parse_spec(text: str, kinds: Collection[str], noun: str) -> Spec:
    """Take `kind:PATH#options` or `PATH#options` apart.

    A path may contain `#` and `:`. The options begin after the last `#` that follows an existing path, else after the first.

    Args:
        kinds: the kinds that may stand before the colon.
        noun: what the spec describes, for messages.

    Raises:
        UsageError: no path, or an unknown kind.

    >>> parse_spec("folder:~user/a#train", ["folder"], "image source").tail
    'train'
    """
    body, tail = next(
        (
            (body, tail)
            for body, tail in _cuts(text)
            if _exists(body.partition(":")[2] if body.partition(":")[0] in kinds else body)
        ),
        _cut_at_first(text),
    )
    kind, colon, path = body.partition(":")
    if kind not in kinds or not colon:
        if colon and not _exists(body) and _looks_like_kind(kind):
            raise UsageError(f"{kind}: is not a supported {noun}; expected a path or one of {', '.join(kinds)}.")
        kind, path = "", body
    if not path:
        raise UsageError(f"{text!r} has no path; expected for example {next(iter(kinds))}:PATH.")
    return Spec(text, kind, Path(os.path.expanduser(path)), tail)


def without_options(text: str) -> str:
    """A spec of any kind, or a plain path, without the `#` and what follows it.

    >>> without_options("tar:shards/a.tar#train")
    'tar:shards/a.tar'
    """
    for body, _ in _cuts(text):
        if _exists(body) or _exists(body.partition(":")[2]):
            return body
    return _cut_at_first(text)[0]


def path_of(text: str) -> Path:
    """The path in a spec of any kind, or in a plain path.

    >>> str(path_of("tar:shards/a.tar#train"))
    'shards/a.tar'
    """
    body = without_options(text)
    kind, colon, path = body.partition(":")
    has_kind = colon and not _exists(body) and (_looks_like_kind(kind) or _exists(path))
    return Path(os.path.expanduser(path if has_kind else body))


def is_feature_file(text: str) -> bool:
    """Whether a set is given as a feature file rather than as an image source.

    >>> is_feature_file("runs/train.h5"), is_feature_file("hdf5:images.h5"), is_feature_file("digits")
    (True, False, False)
    """
    path = Path(text)
    return path.suffix.lower() in FEATURE_ENDINGS and (":" not in text or path.exists())


def is_index_file(text: str) -> bool:
    """Whether a gallery is given as an index file of `retrieval build`."""
    return Path(text).suffix.lower() == INDEX_ENDING


def _cuts(text: str) -> Iterator[tuple[str, str]]:
    """Every reading of a text as (before, after) one `#`, the longest path first."""
    yield text, ""
    for position in reversed(range(len(text))):
        if text[position] == "#":
            yield text[:position], text[position + 1 :]


def _cut_at_first(text: str) -> tuple[str, str]:
    before, _, after = text.partition("#")
    return before, after


def _exists(path: str) -> bool:
    return bool(path) and os.path.exists(os.path.expanduser(path))


def _looks_like_kind(text: str) -> bool:
    """A drive letter of Windows does not."""
    return text.isalnum() and len(text) > 1
