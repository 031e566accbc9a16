"""What `report --checkpoint` computes before it writes the page; run again, only what is missing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsiam_eval.commands.record import Result
from simsiam_eval.commands.record_file import read_record
from simsiam_eval.commands.table import COMMANDS
from simsiam_eval.errors import DataError
from simsiam_eval.extraction.settings import FeatureSettings
from simsiam_eval.features.reader import open_features
from simsiam_eval.files.atomic import atomic_write, make_folder
from simsiam_eval.runtime.progress import say
from simsiam_eval.sources.spec import is_feature_file
from tasks.report.settings import ReportSettings

_SHOTS = (1, 5, 20)
_TRIALS = 3


@dataclass(frozen=True)
class Computed:
    """The feature files, and the head and records. `train` is None without --train."""

    train: Path | None
    test: Path
    results: list[Path]


def compute(settings: ReportSettings, commands: Mapping[str, Callable[..., Result]]) -> Computed:
    """Extract the features, and run linear evaluation, few-shot, retrieval and quality without labels on them.

    Without labels of at least two classes, only quality. All files are kept in the folder beside the page that has its
    name, where a second run finds them.

    Raises:
        UsageError, DataError: as the commands.
    """
    folder = settings.out.with_name(f"{settings.out.stem}-files")
    make_folder(folder)
    features = {}
    for split in ("train", "test"):
        spec = getattr(settings, split)
        if spec is None:
            continue
        features[split] = Path(spec) if is_feature_file(spec) else folder / f"{split}.h5"
        if not is_feature_file(spec):
            say(f"features of {spec}")
            given = {field.name: getattr(settings, field.name) for field in fields(FeatureSettings)}
            commands["extract"](**given, checkpoint=settings.checkpoint, data=spec, out=features[split])
    train, test = features.get("train"), features["test"]
    runner = _Runner(folder, commands, features)
    heads = []
    sizes, tested = _class_sizes(train or test), _class_sizes(test)
    if len(sizes) < 2 or not len(tested):
        say(_without_labels(settings, len(tested)))
    elif train is None:
        runner.run("retrieval eval", "retrieval", gallery=str(test), device=settings.device)
    else:
        sets, device = {"train": str(train), "test": str(test)}, settings.device
        linear: dict[str, Any] = dict(sets, preset=settings.linear, seed=settings.seed, device=device)
        heads.append(folder / "head.safetensors")
        runner.run("linear-eval", "linear", **linear, save_head=heads[0])
        if shots := tuple(count for count in _SHOTS if count <= sizes.min()):  # that every class has
            runner.run("linear-eval", "few-shot", **linear, shots=shots, trials=_TRIALS)
        runner.run("retrieval eval", "retrieval", gallery=str(train), queries=str(test), device=device)
    if len(open_features(test).ids) > 1:
        runner.run("rank", "rank", file=(test,), device=settings.device)
    return Computed(train, test, [*runner.records, *heads])


def _class_sizes(path: Path) -> NDArray[np.int64]:
    """Number of labeled images of each class that occurs."""
    labels = open_features(path).labels
    return np.unique(labels[labels >= 0], return_counts=True)[1]


def _without_labels(settings: ReportSettings, tested: int) -> str:
    """Message for test images of `tested` classes, or training images of fewer than two."""
    name = "--train" if settings.train is not None and tested else "--test"
    found = "do not have labels of at least two classes"
    return f"The images of {name} {getattr(settings, name[2:])} {found}: the page has no accuracies."


class _Runner:
    """Runs commands and keeps their records, and leaves out those whose record is up to date."""

    def __init__(
        self, folder: Path, commands: Mapping[str, Callable[..., Result]], features: Mapping[str, Path]
    ) -> None:
        self._folder, self._commands, self._features = folder, commands, features
        self.records: list[Path] = []

    def run(self, command: str, name: str, **values: Any) -> None:
        """Run a command unless its record, newer than the features, has these settings."""
        path = self._folder / f"{name}.json"
        self.records.append(path)
        settings = COMMANDS[command].settings_class()(**values)
        if self._is_current(path, settings.to_dict()):
            return
        say(name)
        result = self._commands[COMMANDS[command].python_name](**values)
        with atomic_write(path) as file:
            file.write(result.to_json().encode())

    def _is_current(self, path: Path, settings: dict[str, Any]) -> bool:
        try:
            record = read_record(path)
        except DataError:  # there is none yet, or it is damaged
            return False
        newest = max(file.stat().st_mtime_ns for file in self._features.values())
        complete = all(Path(file).exists() for file in record.files.values())
        same = record.settings == json.loads(json.dumps(settings))
        return same and complete and path.stat().st_mtime_ns > newest
