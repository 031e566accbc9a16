"""The contact sheet of `suspects`: a line per likely wrong label with its neighbors, then outliers and near-duplicates."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np

from simsiam_eval.neighbors.exact import search
from simsiam_eval.plots.contact_sheet import Cell, write_sheet
from simsiam_eval.plots.source_images import SourceImages
from tasks.suspects.ranking import CLASS_OUTLIER, CONFLICT, DUPLICATE, KINDS, LABEL, OUTLIER, Found, Suspect

_LABELS, _NEIGHBORS, _FAR, _GROUPS, _GROUP_IMAGES = 15, 6, 9, 5, 8
_FRAMES = {LABEL: "#d55e00", OUTLIER: "#0072b2", CLASS_OUTLIER: "#009e73", CONFLICT: "#cc79a7", DUPLICATE: "#999999"}


def write_suspects(path: Path, found: Found, spec: str | None) -> None:
    """Write the worst of each kind; frames in the color of the kind, gray ones around neighbors.

    Args:
        spec: image source; None: the one of the features.
    """
    images = SourceImages(spec) if spec else SourceImages.from_features(found.features)

    def cell(one: Suspect, *text: str) -> Cell:
        return Cell(images.image(one.id), (*filter(None, text), one.id), _FRAMES[one.kind])

    rows = []
    wrong = [one for one in itertools.islice(found.suspects(LABEL), _LABELS) if one.score < 0]
    neighbors = _neighbors(found, [one.index for one in wrong])
    for one, near in zip(wrong, neighbors, strict=True):
        line = [cell(one, f"label: {one.label}", f"rather: {one.suggested}")]
        for index, similarity in near:
            name, image_id = found.name(found.features.labels[index]), str(found.features.ids[index])
            line.append(Cell(images.image(image_id), (f"{similarity:.3f}", *filter(None, [name]), image_id)))
        rows.append(line)
    for kind, what in ((OUTLIER, "outlier"), (CLASS_OUTLIER, "of its class")):
        worst = list(itertools.islice(found.suspects(kind), _FAR))
        rows += [[cell(one, f"{what}: {one.score:.3f}", one.label) for one in worst]] if worst else []
    for one in itertools.islice(found.suspects(CONFLICT), _GROUPS):
        other = int(found.near.conflict[one.index])
        image_id = str(found.features.ids[other])
        pair = Cell(images.image(image_id), (one.suggested, image_id), _FRAMES[CONFLICT])
        rows.append([cell(one, f"duplicate: {one.score:.4f}", one.label), pair])
    groups = itertools.groupby(found.suspects(DUPLICATE), key=lambda one: one.group)
    for _, members in itertools.islice(groups, _GROUPS):
        shown = list(itertools.islice(members, _GROUP_IMAGES))
        rows.append([cell(one, f"duplicate: {one.score:.4f}", one.label) for one in shown])
    write_sheet(path, f"Suspects: {', '.join(KINDS.values())}", rows)


def _neighbors(found: Found, rows: list[int]) -> list[list[tuple[int, float]]]:
    """The nearest other images of some rows, with their similarities."""
    if not rows:
        return []
    features = found.features.features
    similarities, nearest = search(features, features[np.array(rows)], _NEIGHBORS + 1)
    return [
        [(int(other), float(value)) for value, other in zip(*pair, strict=True) if other != row][:_NEIGHBORS]
        for row, *pair in zip(rows, similarities, nearest, strict=True)
    ]
