"""What `report --checkpoint` computes before it writes the page; run again, only what is missing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from simsiam_eval.commands.record import Result
from simsiam_eval.commands.record_file import read_record
from simsiam_eval.commands.table import COMMANDS
from simsiam_eval.errors import DataError
from simsiam_eval.extraction.settings import FeatureSettings
from simsiam_eval.files.atomic import atomic_write, make_folder
from simsiam_eval.runtime.progress import say
from simsiam_eval.sources.spec import is_feature_file
from tasks.report.settings import ReportSettings

_SHOTS = (1, 5, 20)
_TRIALS = 3


@dataclass(frozen=True)
class Computed:
    """The feature files, and the head and records."""

    train: Path
    test: Path
    results: list[Path]


def compute(settings: ReportSettings, commands: Mapping[str, Callable[..., Result]]) -> Computed:
    """Extract the features, and run linear evaluation, few-shot, retrieval and quality without labels on them.

    All files are kept in the folder beside the page that has its name, where a second run finds them.

    Raises:
        UsageError, DataError: as the commands.
    """
    folder = settings.out.with_name(f"{settings.out.stem}-files")
    make_folder(folder)
    features = {}
    for split in ("train", "test"):
        spec = getattr(settings, split)
        features[split] = Path(spec) if is_feature_file(spec) else folder / f"{split}.h5"
        if not is_feature_file(spec):
            say(f"features of {spec}")
            given = {field.name: getattr(settings, field.name) for field in fields(FeatureSettings)}
            commands["extract"](**given, checkpoint=settings.checkpoint, data=spec, out=features[split])
    train, test = str(features["train"]), str(features["test"])
    runner = _Runner(folder, commands, features)
    linear: dict[str, Any] = dict(train=train, test=test, preset=settings.linear, seed=settings.seed)
    runner.run("linear-eval", "linear", **linear, device=settings.device, save_head=folder / "head.safetensors")
    shots = runner.possible_shots(_SHOTS)
    if shots:
        runner.run("linear-eval", "few-shot", **linear, device=settings.device, shots=shots, trials=_TRIALS)
    runner.run("retrieval eval", "retrieval", gallery=train, queries=test, device=settings.device)
    runner.run("rank", "rank", file=(Path(test),), device=settings.device)
    head = folder / "head.safetensors"
    return Computed(features["train"], features["test"], [*runner.records, head])


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

    def possible_shots(self, shots: tuple[int, ...]) -> tuple[int, ...]:
        """Those of the numbers of training images per class that every class has."""
        import numpy as np

        from simsiam_eval.features.reader import open_features

        labels = open_features(self._features["train"]).labels
        smallest = int(np.unique(labels[labels >= 0], return_counts=True)[1].min(initial=1 << 30))
        return tuple(count for count in shots if count <= smallest)

    def _is_current(self, path: Path, settings: dict[str, Any]) -> bool:
        try:
            record = read_record(path)
        except DataError:  # there is none yet, or it is damaged
            return False
        newest = max(file.stat().st_mtime_ns for file in self._features.values())
        complete = all(Path(file).exists() for file in record.files.values())
        same = record.settings == json.loads(json.dumps(settings))
        return same and complete and path.stat().st_mtime_ns > newest
