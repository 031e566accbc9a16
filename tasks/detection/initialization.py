"""Initial weights of runs: an encoder's checkpoint, or random weights."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simsiam_eval.errors import UsageError

if TYPE_CHECKING:
    from simsiam_eval.encoders.checkpoint import CheckpointReport
    from simsiam_eval.encoders.encoder import ResNetEncoder

RANDOM = "random"
_NAMED = re.compile(r"(?P<name>[\w.+-]+)=(?P<file>.+)")
_RECORDED = ("path", "family", "arch", "stem", "epoch", "weights_sha256")


@dataclass(frozen=True)
class Initialization:
    """Where the weights of an encoder come from; `report` is None for random weights."""

    label: str
    arch: str
    stem: str
    report: CheckpointReport | None

    @property
    def identity(self) -> str:
        """The same for the same weights; of random weights, for the same architecture."""
        return self.report.weights_sha256 if self.report else f"{RANDOM} {self.arch} {self.stem}"

    def encoder(self, seed: int) -> ResNetEncoder:
        """The encoder. Seeds torch, also for the new layers of the detector that is built next."""
        import torch

        from simsiam_eval.encoders.checkpoint import load_encoder
        from simsiam_eval.encoders.encoder import ResNetEncoder, build_trunk, require_resnet

        torch.manual_seed(seed)
        if self.report is None:
            return ResNetEncoder(build_trunk(self.arch, self.stem), self.arch, self.stem)
        return require_resnet(load_encoder(Path(self.report.path))[0], self.report.path, "detect")

    def to_dict(self) -> dict[str, Any]:
        """For the record."""
        if self.report is None:
            return {"arch": self.arch, "stem": self.stem}
        values = self.report.to_dict()
        return {name: values[name] for name in _RECORDED}


def inspect_initializations(checkpoints: Mapping[str, Path | None], arch: str, stem: str) -> list[Initialization]:
    """Inspect the checkpoints; random weights get the architecture of the first checkpoint, or `arch` and `stem`.

    Raises:
        DataError: a checkpoint holds no complete encoder.
        UsageError: one holds an encoder that is not a ResNet of torchvision.
    """
    from simsiam_eval.encoders.checkpoint import inspect_checkpoint
    from simsiam_eval.encoders.encoder import not_a_resnet

    reports = {label: inspect_checkpoint(path) for label, path in checkpoints.items() if path is not None}
    stems = {}
    for label, report in reports.items():
        if report.stem is None:
            raise UsageError(not_a_resnet(report.path, report.arch, "detect"))
        stems[label] = report.stem
    if reports:
        first = next(iter(reports))
        arch, stem = reports[first].arch, stems[first]
    initializations = []
    for label in checkpoints:
        if label in reports:
            initializations.append(Initialization(label, reports[label].arch, stems[label], reports[label]))
        else:
            initializations.append(Initialization(label, arch, stem, None))
    return initializations


def labeled_checkpoints(checkpoint: Path | None, init: Sequence[str]) -> dict[str, Path | None]:
    """Label -> checkpoint, None for random weights; `checkpoint` first, labeled "encoder".

    An entry of `init` is random, NAME=FILE, or FILE, which is labeled with its file name.

    Raises:
        UsageError: two entries have the same name.

    >>> list(labeled_checkpoints(Path("simsiam.pth"), ["random", "supervised=r50.pth", "moco.pth"]))
    ['encoder', 'random', 'supervised', 'moco']
    """
    entries: list[tuple[str, Path | None, bool]] = []  # label, checkpoint, whether the user chose the label
    if checkpoint is not None:
        entries.append(("encoder", checkpoint, True))
    for text in init:
        named = None if Path(text).exists() else _NAMED.match(text)
        if text == RANDOM:
            entries.append((RANDOM, None, True))
        elif named and named["name"] == RANDOM:
            raise UsageError(f"--init {text}: the name random is reserved for random weights; choose another name.")
        elif named:
            entries.append((named["name"], Path(named["file"]).expanduser(), True))
        else:
            entries.append((Path(text).name.split(".")[0], Path(text).expanduser(), False))
    labels = [label for label, _, _ in entries]
    checkpoints: dict[str, Path | None] = {}
    for index, (label, path, chosen) in enumerate(entries):
        if labels.count(label) > 1 and chosen and label in checkpoints:
            if path is None:
                raise UsageError("--init random is given twice; use --trials to repeat it.")
            raise UsageError(f"--init {label}={path}: the name {label} is already used; choose another name.")
        unique = chosen or (labels.count(label) == 1 and label != RANDOM)
        checkpoints[label if unique else f"{label}-{index}"] = path
    return checkpoints
