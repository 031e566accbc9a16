"""`compare`: compare encoders on the same images."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from simsiam_eval.commands.record import Result, Table, provenance
from simsiam_eval.commands.settings import DeviceSettings, setting
from simsiam_eval.errors import DataError, UsageError
from simsiam_eval.extraction.settings import leakage_setting

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from simsiam_eval.features.table import Features


@dataclass(frozen=True, kw_only=True)
class CompareSettings(DeviceSettings):
    """Compare encoders on the same images: paired accuracy (kNN or linear), CKA and common neighbors."""

    GROUPS: ClassVar[dict[str, str]] = {
        "data": "file train name",
        "method": "head k temperature",
        "evaluation": "leakage overlap_k",
        "output": "out",
    }
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "first.h5 second.h5",
        "first-test.h5 second-test.h5 --train first-train.h5 --train second-train.h5",
    )

    file: tuple[Path, ...] = setting(
        positional=True, help="Feature files (.h5) of the same test images, one per encoder or seed."
    )
    train: tuple[Path, ...] = setting(
        (),
        help="Feature file of the training set, repeated for each file in the same order (default: leave-one-out among the "
        "test images).",
    )
    head: tuple[Path, ...] = setting(
        (),
        help="Head saved by linear-eval --save-head, repeated for each file in the same order; used instead of kNN.",
    )
    name: tuple[str, ...] = setting(
        (),
        help="Name of a file's method, repeated for each file in the same order; files of one name are its seeds (default: "
        "file names).",
    )
    k: int = setting(20, short="-k", at_least=1, help="Number of neighbors.")
    temperature: float = setting(0.07, above=0, help="Temperature T of the weights exp(similarity / T).")
    leakage: float = leakage_setting()
    overlap_k: int = setting(10, at_least=1, help="Number of neighbors compared between encoders.")
    out: Path | None = setting(
        None, output=True, help="CSV with columns id, label and, for each file, 1 for a correct prediction."
    )

    def check(self) -> None:
        if len(self.file) < 2:
            raise UsageError("compare requires at least two feature files.")
        if len(set(self.file)) < len(self.file):
            raise UsageError(f"{next(path for path in self.file if self.file.count(path) > 1)} is given twice.")
        if self.train and self.head:
            raise UsageError("--train (kNN) and --head (linear) cannot be combined.")
        if self.head:
            self.reject_given(("k", "temperature"), "cannot be used with --head")
        if not self.train:
            self.reject_given(("leakage",), "requires --train")
        for name in ("train", "head", "name"):
            given = getattr(self, name)
            if given and len(given) != len(self.file):
                raise UsageError(
                    f"--{name} must be given once for each of the {len(self.file)} files, got {len(given)}."
                )


def compare(settings: CompareSettings) -> Result:
    """Run `compare`.

    Raises:
        DataError: a feature file cannot be used, or the files do not share their images.
    """
    from simsiam_eval.features.compatibility import described_features
    from simsiam_eval.runtime.device import resolve_device
    from tasks.compare.comparisons import differences_of, methods_of, similarities_of, worst_leakage
    from tasks.compare.correctness import correct_by_heads, correct_by_knn
    from tasks.compare.sets import same_images, training_sets

    started = time.perf_counter()
    device = resolve_device(settings.device)
    tests = same_images(settings.file)
    banks = training_sets(settings.train)
    labeled = tests[0].labels >= 0
    if settings.out is not None and not labeled.any():
        raise DataError(f"{tests[0].path} has no labels, so there are no predictions to write to --out.")
    names = list(settings.name) or [str(path) for path in settings.file]
    correct, leak = None, None
    if labeled.any() and settings.head:
        correct = correct_by_heads(settings.head, tests)
    elif labeled.any():
        correct, nearest = correct_by_knn(tests, banks, settings.k, settings.temperature, device)
        leak = worst_leakage(settings.file, nearest, correct, settings.leakage) if banks else None
    methods = methods_of(names, correct)
    differences = [] if correct is None else differences_of(names, correct, tests[0].ids[labeled])
    similarities = similarities_of(tests, names, settings.overlap_k, device)
    files = {}
    if settings.out is not None and correct is not None:
        _write_csv(settings.out, tests[0], settings.file, correct)
        files["table"] = str(settings.out)
    notes = [difference.sentence() for difference in differences]
    notes += [pair.sentence(by_file=len(methods) < len(settings.file)) for pair in similarities]
    notes += [f"{leak[0]}: {leak[1].warning()}"] if leak else []
    predictions = f"kNN k {settings.k}, T {settings.temperature:g}, "
    predictions += "against the training sets" if settings.train else "leave-one-out"
    return Result(
        task="compare",
        settings=settings.to_dict(),
        metrics={
            "images": len(tests[0].ids),
            "methods": [method.to_dict() for method in methods],
            "pairs": [difference.to_dict() for difference in differences],
            "features": [pair.to_dict() for pair in similarities],
            "leakage": {"file": str(leak[0])} | leak[1].to_dict() if leak else None,
        },
        provenance=provenance(
            started,
            str(device),
            tests=[described_features(features) for features in tests],
            trains=[described_features(features) for features in banks],
        ),
        files=files,
        table=Table(
            f"{len(tests[0].ids):,} images, {'linear heads' if settings.head else predictions}",
            ("encoder", "top-1 %"),
            [method.cells() for method in methods],
            notes,
        ),
    )


def _write_csv(path: Path, test: Features, files: tuple[Path, ...], correct: NDArray[np.bool_]) -> None:
    """A line per labeled image: id, label, and 1 under each file that classifies it correctly, else 0."""
    import numpy as np

    from simsiam_eval.files.atomic import write_csv

    rows = enumerate(np.flatnonzero(test.labels >= 0))
    lines = ((test.ids[row], test.labels[row], *correct[:, column].astype(int)) for column, row in rows)
    write_csv(path, ("id", "label", *map(str, files)), lines)
