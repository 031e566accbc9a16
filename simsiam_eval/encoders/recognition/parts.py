"""The parts of a checkpoint that are not loaded: projector, predictor and the rest."""

from __future__ import annotations

from collections.abc import Mapping

from simsiam_eval.encoders.recognition.networks import Contents, Network
from simsiam_eval.encoders.recognition.search import Shape


def other_parts(contents: Contents, chosen: Network) -> tuple[dict[str, str], list[int] | None, list[int] | None]:
    """What a checkpoint has besides the chosen network's trunk.

    Returns:
        Key in the chosen network's container -> why it is not loaded, with one entry for each other container of a head or a
        network; the widths of the projector's linear layers from input to output, such as [2048, 512, 2048], or None; and
        those of the predictor's.
    """
    loaded = {id(entry) for entry in chosen.trunk.entries.values()}
    copies = {id(entry) for copy in chosen.copies for entry in copy.trunk.entries.values()}
    networks = {
        id(entry): network
        for network in contents.networks
        if network is not chosen
        for entry in network.trunk.entries.values()
    }
    skipped: dict[str, str] = {}
    heads: dict[str, dict[str, Shape]] = {"projector": {}, "predictor": {}}
    for entry in contents.entries:
        if id(entry) in loaded:
            continue
        here = entry.container == chosen.trunk.container
        if id(entry) in networks:
            part, reason = "network", f"another network: --branch {networks[id(entry)].name}"
        elif id(entry) in copies:
            part, reason = "copy", "a copy of the encoder"
        else:
            part, reason = chosen.family.part(entry.plain, chosen.prefix)
        if not here and part == "other":
            continue  # random states and the like
        name = entry.key if here else "/".join(entry.container) or entry.key
        skipped.setdefault(name, reason)
        if part in heads:
            heads[part].setdefault(entry.plain, entry.shape)
    return skipped, layer_widths(heads["projector"]), layer_widths(heads["predictor"])


def layer_widths(head: Mapping[str, Shape]) -> list[int] | None:
    """[input, ..., output] of a head's linear layers, sorted by index; None if there are none."""

    def order(key: str) -> list[tuple[int, str]]:
        return [(int(part), "") if part.isdigit() else (-1, part) for part in key.split(".")]

    linear = [head[key] for key in sorted(head, key=order) if key.endswith("weight") and len(head[key]) == 2]
    return [linear[0][1], *(shape[0] for shape in linear)] if linear else None
