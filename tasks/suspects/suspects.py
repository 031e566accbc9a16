"""`suspects`: search once, judge the labels, and write table, CSV, contact sheet and record."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from simsiam_eval.commands.record import Result, Table, provenance
from simsiam_eval.errors import DataError
from simsiam_eval.wording import counted, first_few
from tasks.suspects.ranking import COLUMNS, KINDS, Found, sentence
from tasks.suspects.settings import CLEANLAB, DUPLICATES, HEAD, LABELS, NEIGHBORS, OUTLIERS, SuspectsSettings

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from simsiam_eval.features.table import Features
    from simsiam_eval.neighbors.suspects import LabelSuspects, NeighborSuspects

_TABLE_ROWS = 5  # of each kind


def suspects(settings: SuspectsSettings) -> Result:
    """Run `suspects`. Images that could not be read are left out and counted.

    Raises:
        UsageError: cleanlab is needed and not installed.
        DataError: the feature file or the head cannot be used, or there is only one image.
    """
    from simsiam_eval.features.compatibility import described_features
    from simsiam_eval.features.reader import open_features
    from simsiam_eval.neighbors.suspects import only_images
    from simsiam_eval.runtime.device import resolve_device

    started, device = time.perf_counter(), resolve_device(settings.device)
    features = open_features(settings.file)
    if len(features) < 2:
        raise DataError(f"{features.name} contains only one readable image; at least two are needed.")
    found, index = _find(settings, features, device)
    alone, unlabeled = int(only_images(features.labels).sum()), int((features.labels < 0).sum())
    listed = {kind: list(itertools.islice(found.suspects(kind), settings.top)) for kind in KINDS}
    files = {}
    if settings.csv is not None:
        from simsiam_eval.files.atomic import write_csv

        write_csv(settings.csv, COLUMNS, (one.cells() for kind in KINDS for one in found.suspects(kind)))
        files["table"] = str(settings.csv)
    if settings.sheet is not None:
        from tasks.suspects.sheet import write_suspects

        write_suspects(settings.sheet, found, settings.images)
        files["sheet"] = str(settings.sheet)
    left_out = {"unreadable": features.unreadable, "unlabeled": unlabeled, "alone_in_class": alone}
    return Result(
        task="suspects",
        settings=settings.to_dict(),
        metrics={
            "images": len(features),
            **left_out,
            **found.counts(),
            "method": None if found.labels is None else settings.judge,
            "index": index,
            "suspects": {kind: [one.to_dict() for one in listed[kind]] for kind in KINDS},
        },
        provenance=provenance(started, str(device), set=described_features(features)),
        files=files,
        table=_table(settings, found, alone, unlabeled),
    )


def _find(settings: SuspectsSettings, features: Features, device: torch.device) -> tuple[Found, dict[str, Any] | None]:
    """What was asked for, and the approximate index in effect."""
    from simsiam_eval.neighbors.approximate import cached_index
    from simsiam_eval.neighbors.classify import report_few_neighbors
    from simsiam_eval.neighbors.suspects import neighbor_suspects
    from simsiam_eval.runtime.progress import say

    labels, labeled = features.labels, features.labels >= 0
    judged = LABELS in settings.find and len(np.unique(labels[labeled])) > 1
    if LABELS in settings.find and not judged:
        why = "no labels" if not labeled.any() else "labels of only one class"
        if settings.find == (LABELS,):
            raise DataError(f"{features.name} has {why}, so no label can be judged.")
        say(f"{features.name} has {why}: likely wrong labels are not looked for.")
    voted = judged and settings.judge == NEIGHBORS
    if voted:
        report_few_neighbors([settings.k], int(labeled.sum()) - 1)
    if OUTLIERS in settings.find:
        report_few_neighbors([settings.outlier_k], len(features) - 1, "--outlier-k", "distances are to the last one")
    index, described = None, None
    if settings.index is not None and labeled.all() | (not voted):
        index = cached_index(features.features, settings.index, "cosine", settings.seed)
        parameters = index.set_parameters(settings.index_parameters, max(settings.k, settings.outlier_k) + 1)
        described = {"index": settings.index, "parameters": parameters}
    elif settings.index is not None:
        raise DataError(f"{features.name} has images without a label, with which --index cannot be used; see --method.")
    near: NeighborSuspects = neighbor_suspects(
        features.features,
        labels,
        k=settings.k,
        temperature=settings.temperature,
        outlier_k=settings.outlier_k,
        threshold=settings.threshold if DUPLICATES in settings.find else _NO_PAIR,
        judge_labels=voted,
        class_outliers=OUTLIERS in settings.find,
        device=device,
        index=index,
    )
    found_labels, wrong = near.labels, 0 if near.labels is None else near.labels.count
    if judged and not voted:
        found_labels, wrong = _by_probabilities(settings, features)
    return (
        Found(
            features=features,
            judge=settings.judge,
            k=min(settings.k, int(labeled.sum()) - 1),
            labels=found_labels,
            suspicious=wrong,
            outliers=near.outliers if OUTLIERS in settings.find else None,
            near=near,
            groups=near.groups if DUPLICATES in settings.find else None,
        ),
        described,
    )


_NO_PAIR = 3.0  # above any cosine similarity


def _by_probabilities(settings: SuspectsSettings, features: Features) -> tuple[LabelSuspects, int]:
    """Judge the labeled images by class probabilities: of a head, or of classifiers trained on the other folds."""
    from simsiam_eval.linear.out_of_fold import confident_learning, in_columns, out_of_fold, probability_suspects
    from simsiam_eval.neighbors.suspects import LabelSuspects

    rows = np.flatnonzero(features.labels >= 0)
    kept = features.subset(rows)
    classes, columns = in_columns(kept.labels)
    if settings.head is not None:
        blocks = _head_blocks(settings, kept, classes)
    else:
        blocks = out_of_fold(kept.features, columns, settings.folds, settings.c, settings.seed)
    if settings.judge == CLEANLAB:
        judged, wrong = confident_learning(blocks, columns)
    else:
        judged = probability_suspects(blocks, columns)
        wrong = judged.count
    count = len(features)
    margin, suggested = np.full(count, np.nan, np.float32), np.full(count, -1, np.int64)
    margin[rows] = judged.margin
    suggested[rows] = np.where(judged.suggested < 0, -1, classes[judged.suggested])
    return LabelSuspects(margin, suggested, np.zeros(count, np.float32)), wrong


def _head_blocks(settings: SuspectsSettings, features: Features, classes: NDArray[np.int64]) -> Any:
    """The probabilities of --head for the classes of the labels, matched by name.

    Raises:
        DataError: the head was trained on other features, or not on all classes.
    """
    from simsiam_eval.features.class_names import class_name, distinct_names
    from simsiam_eval.features.file import differences
    from simsiam_eval.features.layers import layers_in
    from simsiam_eval.features.rows import FeatureRows
    from simsiam_eval.linear.head_file import read_head
    from simsiam_eval.linear.out_of_fold import head_probabilities

    assert settings.head is not None and features.path is not None
    saved = read_head(settings.head)
    described = ("encoder", "preprocessing", *(["precision"] if saved.precision is not None else []))
    if differ := differences(features.attributes, {key: saved.attributes[key] for key in described}):
        raise DataError(
            f"{settings.head} was trained on other features than those of {features.path}: {differ[0]} differs."
        )
    columns = layers_in(features.attributes)
    if saved.head.layer not in columns:
        raise DataError(f"{settings.head} needs layer {saved.head.layer}, which {features.path} does not contain.")
    rows = FeatureRows(features.path, columns[saved.head.layer], features.rows)
    if rows.shape[1] != saved.head.weight.shape[1]:
        raise DataError(
            f"{settings.head} expects {saved.head.weight.shape[1]} features per row; {features.path} has {rows.shape[1]}."
        )
    names = None if features.class_names is None else distinct_names(features.class_names)
    number = {class_name(int(label), names): column for column, label in enumerate(classes)}
    if missing := sorted(set(number) - set(saved.class_names)):
        raise DataError(
            f"{settings.head} was not trained on all classes of {features.path}: {first_few(missing, 1)} is missing."
        )
    of_output = np.array([number.get(name, -1) for name in saved.class_names])
    blocks: Any = head_probabilities(saved.head, rows, of_output, len(classes))
    return blocks


def _table(settings: SuspectsSettings, found: Found, alone: int, unlabeled: int) -> Table:
    rows = []
    for kind in KINDS:
        shown = list(itertools.islice(found.suspects(kind), _TABLE_ROWS))
        if kind == "label":
            shown = [one for one in shown if one.score < 0]
        rows += [[one.kind, str(one.rank), one.id, one.label or "-", one.reason] for one in shown]
    counts = found.counts()
    parts = []
    if counts["judged"] is not None:
        parts.append(f"{counts['wrong_labels']:,} of {counts['judged']:,} labels look wrong (--method {found.judge})")
    if counts["duplicate_groups"] is not None:
        groups, images = counted(counts["duplicate_groups"], "group"), counted(counts["conflicts"] or 0, "image")
        parts.append(f"{groups} of near-duplicates, {images} with a near-duplicate of another label")
    notes = sentence(found, alone, unlabeled)
    if found.judge == HEAD and found.labels is not None:
        notes.append("A head that was trained on these images has learned their labels, wrong ones too.")
    notes.append(f"All ranked images are in {settings.csv}." if settings.csv else "--csv writes all ranked images.")
    if settings.sheet is not None:
        notes.append(f"The worst of each kind are shown in {settings.sheet}.")
    return Table(
        f"{found.features.name!s}, {len(found.features):,} images" + "".join(f"; {part}" for part in parts),
        ("kind", "rank", "id", "label", "reason"),
        rows,
        notes,
    )
