"""Where features are from: extracted by this program, or imported, with an encoder that only the user can name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from simsiam_eval.errors import DataError

_SEVERAL = "import both with the same `--encoder NAME` if one encoder computed them"


def imported_encoder(name: str | None, fingerprint: str) -> dict[str, Any]:
    """The attribute `encoder` of imported features. Equal attributes are of one encoder: without a name only those of equal
    files are."""
    return {"imported": True, "name": name} | ({} if name is not None else {"fingerprint": fingerprint})


def is_imported(attributes: Mapping[str, Any]) -> bool:
    """Whether root attributes are those of imported features."""
    return bool(attributes["encoder"].get("imported"))


def encoder_name(attributes: Mapping[str, Any]) -> str:
    """What the user calls the encoder of imported features.

    >>> encoder_name({"encoder": imported_encoder(None, "import 52fe")})
    'unknown encoder'
    """
    name = attributes["encoder"].get("name")
    return "unknown encoder" if name is None else str(name)


def imported_mixture(
    first: Mapping[str, Any], first_name: str, second: Mapping[str, Any], second_name: str
) -> str | None:
    """Why two sets of features cannot be used together, if one or both are imported; None for no such reason.

    Args:
        first, second: root attributes.
        first_name, second_name: what messages call the sets.
    """
    if is_imported(first) != is_imported(second):
        imported, other = (first_name, second_name) if is_imported(first) else (second_name, first_name)
        return (
            f"{imported} was imported from another program, so it cannot be used together with {other}, which was not: "
            "whether the same encoder and preprocessing computed both is unknown."
        )
    if not is_imported(first) or first["encoder"] == second["encoder"]:
        return None
    names = [
        encoder_name(attributes) for attributes in (first, second) if attributes["encoder"].get("name") is not None
    ]
    if len(names) == 2:
        return (
            f"{first_name} and {second_name} cannot be used together: their encoders are {names[0]!r} and {names[1]!r}."
        )
    return (
        f"{first_name} and {second_name} cannot be used together: they were imported and the encoder of "
        f"{'one' if names else 'each'} is unknown; {_SEVERAL}."
    )


def reject_images(attributes: Mapping[str, Any], name: str) -> None:
    """Reject imported features where images should be processed in the same way.

    Raises:
        DataError: the features are imported.
    """
    if is_imported(attributes):
        raise DataError(
            f"{name} was imported, and its encoder and preprocessing are not recorded, so images cannot be processed in the "
            "same way; pass features instead of images."
        )
