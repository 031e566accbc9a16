"""The ranked suspects of each kind, with the reason in words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsiam_eval.features.class_names import class_name
from simsiam_eval.features.table import Features
from simsiam_eval.neighbors.suspects import LabelSuspects, NeighborSuspects, Outliers
from simsiam_eval.wording import counted

LABEL, OUTLIER, CLASS_OUTLIER, DUPLICATE, CONFLICT = "label", "outlier", "class_outlier", "duplicate", "conflict"
KINDS = {
    LABEL: "likely wrong labels",
    OUTLIER: "outliers",
    CLASS_OUTLIER: "outliers of their class",
    CONFLICT: "near-duplicates with different labels",
    DUPLICATE: "near-duplicates",
}
COLUMNS = ("kind", "rank", "id", "row", "label", "suggested", "score", "group", "reason")


@dataclass(frozen=True)
class Suspect:
    """A ranked image.

    Attributes:
        kind: a key of KINDS.
        row: row of the feature file; `index`: among the readable rows.
        label, suggested: names of classes; "" for none.
        score: of the kind, see docs/suspects.md.
        group: number of its group of near-duplicates; None for other kinds.
        reason: a sentence.
    """

    kind: str
    rank: int
    id: str
    row: int
    index: int
    label: str
    suggested: str
    score: float
    group: int | None
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """As in a record."""
        values = asdict(self)
        return {name: values[name] for name in COLUMNS}

    def cells(self) -> list[Any]:
        """Line of the CSV file."""
        values = self.to_dict() | {"score": f"{self.score:.6f}", "group": "" if self.group is None else self.group}
        return [values[name] for name in COLUMNS]


@dataclass(frozen=True)
class Found:
    """All that was found; a part is None if it was not looked for, or cannot be told.

    Attributes:
        judge: method that judged the labels. k: number of its neighbors.
        suspicious: number of labels that the method counts as wrong.
        near: what the search has found. groups: its near-duplicates.
    """

    features: Features
    judge: str
    k: int
    labels: LabelSuspects | None
    suspicious: int
    outliers: Outliers | None
    near: NeighborSuspects
    groups: tuple[NDArray[np.int64], ...] | None

    def suspects(self, kind: str) -> Iterator[Suspect]:
        """The ranked images of a kind, the worst first."""
        if kind == LABEL and self.labels is not None:
            return self._wrong_labels(self.labels)
        if kind == OUTLIER and self.outliers is not None:
            return self._far(self.outliers)
        if kind == CLASS_OUTLIER and self.outliers is not None:
            return self._far_from_class(self.outliers)
        if kind == CONFLICT and self.groups is not None:
            return self._conflicts()
        if kind == DUPLICATE and self.groups is not None:
            return self._duplicates(self.groups)
        return iter(())

    def counts(self) -> dict[str, int | None]:
        """How many there are of each kind: labels that count as wrong, labels that were judged, near-duplicates."""
        groups = self.groups
        return {
            "wrong_labels": None if self.labels is None else self.suspicious,
            "judged": None if self.labels is None else len(self.labels.order()),
            "duplicate_groups": None if groups is None else len(groups),
            "duplicate_images": None if groups is None else sum(map(len, groups)),
            "conflicts": None if groups is None else int((self.near.conflict >= 0).sum()),
        }

    def name(self, label: int) -> str:
        """Name of a class; "" for no label."""
        return class_name(int(label), self.features.class_names)

    def _suspect(self, kind: str, rank: int, index: int, score: float, reason: str, **more: Any) -> Suspect:
        table, values = self.features, {"suggested": "", "group": None} | more
        return Suspect(
            kind=kind,
            rank=rank,
            id=str(table.ids[index]),
            row=int(table.rows[index]),
            index=int(index),
            label=self.name(table.labels[index]),
            score=float(score),
            reason=reason,
            **values,
        )

    def _wrong_labels(self, found: LabelSuspects) -> Iterator[Suspect]:
        who, verb = _JUDGES.get(self.judge, (f"the {self.k} nearest neighbors", "favor"))
        if self.judge == "neighbors" and self.k == 1:
            who, verb = "the nearest neighbor", "favors"
        for rank, index in enumerate(found.order().tolist(), 1):
            margin, given = float(found.margin[index]), self.name(self.features.labels[index])
            suggested = self.name(found.suggested[index])
            if self.judge == "cleanlab":
                verdict = f"counts the label {given} as wrong" if margin < 0 else f"keeps the label {given}"
                reason = f"{who} {verdict}; the most probable other class is {suggested}"
            elif margin < 0:
                reason = f"{who} {verb} {suggested} over the label {given} by {-margin:.2f}"
            else:
                other = f" over {suggested}" if suggested else ""
                reason = f"{who} {verb} the label {given}{other} by {margin:.2f}"
            yield self._suspect(LABEL, rank, index, margin, reason, suggested=suggested)

    def _far(self, found: Outliers) -> Iterator[Suspect]:
        median, last = float(np.nanmedian(found.distance)), min(found.k, len(found.distance) - 1)
        for rank, index in enumerate(found.order().tolist(), 1):
            distance = float(found.distance[index])
            reason = f"cosine distance {distance:.3f} to neighbor {last}; median of all images {median:.3f}"
            yield self._suspect(OUTLIER, rank, index, distance, reason)

    def _far_from_class(self, found: Outliers) -> Iterator[Suspect]:
        _, of_row, counts = np.unique(self.features.labels, return_inverse=True, return_counts=True)
        last = np.minimum(found.k, counts - 1)[of_row]  # the rank of the neighbor that the distance is to
        for rank, index in enumerate(found.class_order().tolist(), 1):
            ratio, distance = float(found.class_ratio[index]), float(found.class_distance[index])
            name = self.name(self.features.labels[index])
            neighbor = f"neighbor {last[index]} in class {name}"
            reason = f"cosine distance {distance:.3f} to {neighbor}, {ratio:.2f} times its median"
            yield self._suspect(CLASS_OUTLIER, rank, index, ratio, reason)

    def _conflicts(self) -> Iterator[Suspect]:
        for rank, index in enumerate(self.near.conflict_order().tolist(), 1):
            similarity, other = float(self.near.conflict_similarity[index]), int(self.near.conflict[index])
            name, image_id = self.name(self.features.labels[other]), self.features.ids[other]
            reason = f"cosine similarity {similarity:.4f} to {image_id}, which has the label {name}"
            yield self._suspect(CONFLICT, rank, index, similarity, reason, suggested=name)

    def _duplicates(self, groups: tuple[NDArray[np.int64], ...]) -> Iterator[Suspect]:
        rank = 0
        for group, rows in enumerate(groups):
            for index in rows.tolist():
                rank += 1
                similarity, nearest = float(self.near.similarity[index]), int(self.near.nearest[index])
                image_id = self.features.ids[nearest]
                reason = f"cosine similarity {similarity:.4f} to {image_id}, in a group of {len(rows)}"
                yield self._suspect(DUPLICATE, rank, index, similarity, reason, group=group)


_JUDGES = {
    "head": ("the head", "favors"),
    "logistic": ("the logistic regression", "favors"),
    "cleanlab": ("confident learning", "favors"),
}


def sentence(found: Found, alone: int, unlabeled: int) -> list[str]:
    """What the ranking of labels left out, a sentence each."""
    left_out = []
    if found.labels is not None and unlabeled:
        left_out.append(f"Not judged: {counted(unlabeled, 'image')} without a label.")
    if found.labels is not None and alone:
        left_out.append(f"Not judged: {counted(alone, 'image')} with no other image of the class.")
    return left_out
