"""`compare`: encoders on the same images, image by image."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from simsiam_eval.commands.record import Result, Table, provenance
from simsiam_eval.commands.settings import DeviceSettings, setting
from simsiam_eval.errors import DataError, UsageError
from simsiam_eval.extraction.settings import leakage_setting
from simsiam_eval.wording import percent

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from simsiam_eval.features.table import Features

_BLOCK = 8192  # rows that are scored at once
_EXAMPLES = 10  # images named in the record, of those that changed sides; --out has all


@dataclass(frozen=True, kw_only=True)
class CompareSettings(DeviceSettings):
    """Compare encoders by their features of the same images: kNN or linear accuracy paired by image, CKA, shared
    neighbors.
    """

    GROUPS: ClassVar[dict[str, str]] = {"data": "file train", "evaluation": "leakage overlap_k", "output": "name out"}
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "first.h5 second.h5",
        "first-test.h5 second-test.h5 --train first-train.h5 --train second-train.h5",
    )

    file: tuple[Path, ...] = setting(
        positional=True, help="Feature files (.h5) of the same test images, one per encoder or seed."
    )
    train: tuple[Path, ...] = setting(
        (), help="Feature files of the training set, in the same order; default: leave-one-out among the test images."
    )
    head: tuple[Path, ...] = setting(
        (),
        help="Heads that linear-eval --save-head trained on each file's encoder, in the same order: accuracy is theirs, "
        "not kNN's.",
    )
    name: tuple[str, ...] = setting(
        (), help="Name of each file, in the same order; files of one name are seeds of one method. Default: file names."
    )
    k: int = setting(20, short="-k", at_least=1, help="Neighbors that vote.")
    temperature: float = setting(0.07, above=0, help="T of the vote's weight exp(similarity / T).")
    leakage: float = leakage_setting()
    overlap_k: int = setting(10, at_least=1, help="Neighbors of the overlap.")
    out: Path | None = setting(
        None, output=True, help="CSV to write: id, label, and for each file 1 where it is right."
    )

    def check(self) -> None:
        if len(self.file) < 2:
            raise UsageError("compare needs two feature files or more.")
        if len(set(self.file)) < len(self.file):
            raise UsageError(f"{next(one for one in self.file if self.file.count(one) > 1)} is given twice.")
        if self.train and self.head:
            raise UsageError("Give --train, for kNN, or --head, not both.")
        if self.head:
            self.reject_given(("k", "temperature"), "is of the kNN vote, not of --head")
        if not self.train:
            self.reject_given(("leakage",), "is of the training sets: give --train")
        for name in ("train", "head", "name"):
            given = getattr(self, name)
            if given and len(given) != len(self.file):
                raise UsageError(
                    f"Give one --{name} for each of the {len(self.file)} files, or none; got {len(given)}."
                )


def compare(settings: CompareSettings) -> Result:
    """Run `compare`.

    Raises:
        DataError: a feature file cannot be used, or they are not of the same images.
    """
    from simsiam_eval.features.compatibility import described_features
    from simsiam_eval.runtime.device import resolve_device
    from tasks.compare.sets import same_images, training_sets

    started = time.perf_counter()
    settings.try_outputs()
    device = resolve_device(settings.device)
    tests = same_images(settings.file)
    banks = training_sets(settings.train)
    if settings.out is not None and not (tests[0].labels >= 0).any():
        raise DataError(f"{tests[0].path} has no labels: there is nothing to write to --out.")
    names = list(settings.name) or [str(path) for path in settings.file]
    right, leakage = None, None
    if (tests[0].labels >= 0).any():
        if settings.head:
            right = _right_by_heads(settings.head, tests)
        else:
            right, nearest = _right(settings, tests, banks)
            leakage = _leakage(settings, nearest, right) if banks else None
    methods = _methods(names, right)
    pairs = _pairs(names, right, tests[0]) if right is not None else []
    likeness = _likeness(settings, tests, names, device)
    files = {}
    if settings.out is not None and right is not None:
        _write_csv(settings.out, tests[0], settings.file, right)
        files["table"] = str(settings.out)
    return Result(
        task="compare",
        settings=settings.to_dict(),
        metrics={"images": len(tests[0].ids), "methods": methods, "pairs": pairs, "features": likeness}
        | {"leakage": leakage},
        provenance=provenance(
            started,
            str(device),
            tests=[described_features(one) for one in tests],
            trains=[described_features(one) for one in banks],
        ),
        files=files,
        table=_table(settings, methods, pairs, likeness, leakage, len(tests[0].ids)),
    )


def _right(
    settings: CompareSettings, tests: list[Features], banks: list[Features]
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """(F,L) whether each file's kNN vote is right, and its nearest neighbor's similarity, of the L images with a label."""
    import numpy as np

    from simsiam_eval.features.class_names import in_numbering_of
    from simsiam_eval.features.compatibility import refuse_mixture, same_rows
    from simsiam_eval.neighbors.exact import search
    from simsiam_eval.neighbors.votes import weighted_vote
    from simsiam_eval.runtime.device import resolve_device

    right, nearest, labeled = [], [], tests[0].labels >= 0
    for place, test in enumerate(tests):
        some = test.subset(labeled)
        bank, queries, labels = some, None, some.labels
        if banks:
            bank, queries = banks[place], some.features
            refuse_mixture(bank, test)
            if same_rows(bank, some):
                raise DataError(
                    f"{bank.path} holds the very images of {test.path}: leave --train out for leave-one-out."
                )
            # Labels of all the tests are in the numbering of the first.
            labels = in_numbering_of(bank, tests[0].subset(labeled)).labels
        similarities, rows = search(bank.features, queries, settings.k, device=resolve_device(settings.device))
        right.append(weighted_vote(similarities, bank.labels[rows], settings.temperature, top=1)[:, 0] == labels)
        nearest.append(similarities[:, 0] if similarities.shape[1] else np.full(len(labels), -1, np.float32))
    return np.array(right), np.array(nearest)


def _leakage(
    settings: CompareSettings, nearest: NDArray[np.float32], right: NDArray[np.bool_]
) -> dict[str, Any] | None:
    """What of an accuracy rests on near-duplicates in the training set, by the features of the file where they are most."""
    from simsiam_eval.neighbors.duplicates import leakage_metrics

    found = []
    for path, near, mine in zip(settings.file, nearest, right, strict=True):
        one = leakage_metrics(near, mine, settings.leakage)
        found += [] if one is None else [{"file": str(path)} | one]
    return max(found, key=lambda one: one["images"], default=None)


def _right_by_heads(heads: tuple[Path, ...], tests: list[Features]) -> NDArray[np.bool_]:
    """As _right, by each file's head; classes are the same where their names are.

    Raises:
        DataError: a head cannot be read, or was trained on features of another kind than its file's.
    """
    import numpy as np
    import torch

    from simsiam_eval.features.class_names import class_name, distinct_names
    from simsiam_eval.features.file import differences
    from simsiam_eval.features.layers import layers_in
    from simsiam_eval.features.rows import FeatureRows
    from simsiam_eval.linear.head_file import read_head

    names, right, rows = distinct_names(tests[0].class_names or ()), [], np.flatnonzero(tests[0].labels >= 0)
    # Labels of all the tests are in the numbering of the first.
    truth = np.array([class_name(label, names or None) for label in tests[0].labels[rows].tolist()])
    for path, test in zip(heads, tests, strict=True):
        saved = read_head(path)
        known = ("encoder", "preprocessing", *(["precision"] if saved.precision is not None else []))
        if differ := differences(test.attributes, {key: saved.attributes[key] for key in known}):
            raise DataError(
                f"{path} was trained on other features than {test.path}'s: they differ in their {differ[0]}."
            )
        columns = layers_in(test.attributes)
        if saved.head.layer not in columns:
            raise DataError(f"{path} reads layer {saved.head.layer}, which {test.path} does not hold.")
        assert test.path is not None
        features = FeatureRows(test.path, columns[saved.head.layer], test.rows[rows])
        if features.shape[1] != saved.head.weight.shape[1]:
            raise DataError(f"{path} reads {saved.head.weight.shape[1]} features, {test.path} has {features.shape[1]}.")
        blocks = [slice(at, at + _BLOCK) for at in range(0, len(rows), _BLOCK)]
        guesses = torch.cat([saved.head.scores(torch.from_numpy(features[block])).argmax(dim=1) for block in blocks])
        if missing := sorted(set(truth.tolist()) - set(saved.class_names)):
            raise DataError(
                f"{path} knows no class {missing[0]} of {test.path} ({len(missing)} such classes): it cannot be right there."
            )
        right.append(np.array(saved.class_names)[guesses.numpy()] == truth)
    return np.array(right)


def _methods(names: list[str], right: NDArray[np.bool_] | None) -> list[dict[str, Any]]:
    """Each name's accuracy; of several seeds their mean and std."""
    import numpy as np

    from simsiam_eval.metrics.intervals import accuracy_metrics

    found = []
    for name in dict.fromkeys(names):
        one: dict[str, Any] = {"name": name, "seeds": names.count(name)}
        if right is not None:
            mine = right[[place for place, other in enumerate(names) if other == name]]
            each = mine.mean(axis=1)
            if len(mine) == 1:
                one |= accuracy_metrics("top1", int(mine[0].sum()), mine.shape[1])
            else:
                one |= {"top1": float(each.mean()), "top1_std": float(np.std(each, ddof=1)), "top1_each": each.tolist()}
        found.append(one)
    return found


def _pairs(names: list[str], right: NDArray[np.bool_], test: Features) -> list[dict[str, Any]]:
    """Every two methods on the same images: the difference of the second to the first."""
    import numpy as np

    from simsiam_eval.metrics.intervals import mcnemar, paired_interval

    ids = test.ids[test.labels >= 0]
    found = []
    for one, two in combinations(dict.fromkeys(names), 2):
        first, second = (right[[at for at, other in enumerate(names) if other == name]] for name in (one, two))
        difference = second.mean(axis=0) - first.mean(axis=0)
        pair: dict[str, Any] = {
            "first": one,
            "second": two,
            "difference": float(difference.mean()),
            "difference_interval": paired_interval(difference),
        }
        if len(first) == len(second) == 1:
            gained, lost = np.flatnonzero(difference > 0), np.flatnonzero(difference < 0)
            pair |= {
                "only_first_right": len(lost),
                "only_second_right": len(gained),
                "mcnemar": mcnemar(len(lost), len(gained)),
                "gained": ids[gained[:_EXAMPLES]].tolist(),
                "lost": ids[lost[:_EXAMPLES]].tolist(),
            }
        found.append(pair)
    return found


def _likeness(settings: CompareSettings, tests: list[Features], names: list[str], device: Any) -> list[dict[str, Any]]:
    """CKA and neighbor overlap of every two files."""
    from simsiam_eval.metrics.similarity import cka, neighbor_overlap
    from simsiam_eval.neighbors.exact import search

    near = [search(one.features, None, settings.overlap_k, device=device)[1] for one in tests]
    return [
        {
            "first": str(settings.file[one]),
            "second": str(settings.file[two]),
            "names": [names[one], names[two]],
            "cka": cka(tests[one].features, tests[two].features, device),
            "neighbor_overlap": neighbor_overlap(near[one], near[two]),
            "overlap_k": near[one].shape[1],
        }
        for one, two in combinations(range(len(tests)), 2)
    ]


def _write_csv(path: Path, test: Features, files: tuple[Path, ...], right: NDArray[np.bool_]) -> None:
    import numpy as np

    from simsiam_eval.files.atomic import write_csv

    rows = enumerate(np.flatnonzero(test.labels >= 0))
    lines = ((test.ids[row], test.labels[row], *right[:, place].astype(int)) for place, row in rows)
    write_csv(path, ("id", "label", *map(str, files)), lines)


def _table(
    settings: CompareSettings,
    methods: list[dict[str, Any]],
    pairs: list[dict[str, Any]],
    likeness: list[dict[str, Any]],
    leakage: dict[str, Any] | None,
    images: int,
) -> Table:
    rows = []
    for one in methods:
        shown = "-"
        if "top1_std" in one:
            shown = f"{percent(one['top1'])} +- {percent(one['top1_std'])} ({one['seeds']} seeds)"
        elif "top1" in one:
            shown = percent(one["top1"], one["top1_interval"])
        rows.append([one["name"], shown])
    notes = []
    for pair in pairs:
        note = (
            f"{pair['second']} less {pair['first']}: {percent(pair['difference'], pair['difference_interval'])} points"
        )
        if "mcnemar" in pair:
            test = pair["mcnemar"]
            note += (
                f"; {pair['only_second_right']} images gained, {pair['only_first_right']} lost; McNemar exact p = "
                f"{test['exact']:.3g}, mid-p = {test['mid_p']:.3g}"
            )
        notes.append(note + ".")
    for two in likeness:
        # Names tell methods apart, files their seeds.
        one, other = two["names"] if len(methods) == len(settings.file) else (two["first"], two["second"])
        cka = "not defined, since one of the two is constant" if math.isnan(two["cka"]) else f"{two['cka']:.4f}"
        notes.append(
            f"{one} and {other}: linear CKA {cka}, {percent(two['neighbor_overlap'])} % "
            f"of {two['overlap_k']} neighbors shared."
        )
    if leakage is not None:
        from simsiam_eval.neighbors.duplicates import leakage_warning

        notes.append(f"In {leakage['file']}, {leakage_warning(leakage)}")
    how = f"kNN k {settings.k}, T {settings.temperature:g}, "
    how += "against the training sets" if settings.train else "leave-one-out"
    if settings.head:
        how = "linear heads"
    return Table(f"{images} images, {how}", ("encoder", "top-1 %"), rows, notes)
