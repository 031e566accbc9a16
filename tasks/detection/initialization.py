"""Initial weights of runs: an encoder's checkpoint, or random weights."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simsiam_eval.errors import UsageError
from simsiam_eval.wording import counted

if TYPE_CHECKING:
    from simsiam_eval.encoders.choice import EncoderChoice
    from simsiam_eval.encoders.encoder import ResNetEncoder
    from simsiam_eval.encoders.report import CheckpointReport
    from simsiam_eval.extraction.options import ExtractionOptions
    from simsiam_eval.images.intensity import Intensity

RANDOM = "random"  # in place of a checkpoint: random weights
_NAMED = re.compile(r"(?P<name>[\w.+-]+)=(?P<file>.+)")
_RECORDED = ("path", "family", "arch", "stem", "epoch", "weights_sha256", "assumptions")


@dataclass(frozen=True)
class Initialization:
    """Where the weights of an encoder come from; `choice`, `report` and `options` are None for random weights.

    `variant` is how the trunk differs from torchvision's, as from `TrunkVariant.to_dict`; `options` have the mean and the
    standard deviation that the user gives.
    """

    label: str
    arch: str
    stem: str
    variant: Mapping[str, Any]
    choice: EncoderChoice | None = None
    report: CheckpointReport | None = None
    options: ExtractionOptions | None = None

    @property
    def identity(self) -> str:
        """The same for the same weights; of random weights, for the same architecture."""
        if self.report:
            return self.report.weights_sha256
        return " ".join([RANDOM, self.arch, self.stem, *(f"{name}={value}" for name, value in self.variant.items())])

    def encoder(self, seed: int) -> ResNetEncoder:
        """The encoder. Seeds torch, also for the new layers of the detector that is built next."""
        import torch

        from simsiam_eval.encoders.architectures import TrunkVariant
        from simsiam_eval.encoders.checkpoint import load_encoder
        from simsiam_eval.encoders.encoder import ResNetEncoder, build_trunk, require_resnet

        torch.manual_seed(seed)
        if self.choice is None:
            variant = TrunkVariant.from_dict(self.variant)
            trunk = build_trunk(self.arch, self.stem, variant=variant)
            return ResNetEncoder(trunk, self.arch, self.stem, variant=variant)
        return require_resnet(load_encoder(self.choice)[0], self.choice.checkpoint, "detect")

    def normalization(self) -> dict[str, tuple[float, ...]]:
        """`mean` and `std` of the images that the encoder was trained on; {} for random weights."""
        if self.report is None or self.options is None:
            return {}
        preprocessing = self.options.preprocessing(self.report)
        return {"mean": preprocessing.mean, "std": preprocessing.std}

    def intensity(self) -> Intensity:
        """Black and white of the images of more than 8 bits that the encoder was trained on; nothing if unknown."""
        from simsiam_eval.images.intensity import Intensity

        if self.report is None or self.options is None:
            return Intensity()
        return self.options.preprocessing(self.report).intensity

    def to_dict(self) -> dict[str, Any]:
        """For the record."""
        if self.report is None:
            return {"arch": self.arch, "stem": self.stem} | ({"variant": dict(self.variant)} if self.variant else {})
        from simsiam_eval.vocabulary import IMAGENET_MEAN, IMAGENET_STD

        values = self.report.to_dict()
        further = {name: values[name] for name in ("variant", "branch") if values[name]}
        if self.report.channel_order != "rgb":
            further["channel_order"] = self.report.channel_order
        normalization = self.normalization()
        if normalization != {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}:
            further["normalization"] = {name: list(numbers) for name, numbers in normalization.items()}
        return {name: values[name] for name in _RECORDED} | further


def inspect_initializations(
    choices: Mapping[str, EncoderChoice | None], arch: str, stem: str, options: ExtractionOptions
) -> list[Initialization]:
    """Inspect the checkpoints; random weights get the trunk of the first checkpoint, or `arch` and `stem`.

    What is assumed about the encoders is printed.

    Raises:
        DataError: a checkpoint holds no complete encoder.
        UsageError: one holds an encoder that is not a ResNet of torchvision, or takes images that are not RGB.
    """
    from simsiam_eval.encoders.checkpoint import inspect_checkpoint
    from simsiam_eval.encoders.encoder import not_a_resnet
    from simsiam_eval.encoders.notes import note_assumptions

    variant: Mapping[str, Any] = {}
    reports = {
        label: inspect_checkpoint(choice).with_normalization(options.mean, options.std)
        for label, choice in choices.items()
        if choice is not None
    }
    stems = {}
    for label, report in reports.items():
        if report.stem is None:
            raise UsageError(not_a_resnet(report.path, report.arch, "detect"))
        if (channels := report.variant.get("channels", 3)) != 3:
            raise UsageError(
                f"{report.path} takes images of {counted(channels, 'channel')}; detection needs RGB's three."
            )
        stems[label] = report.stem
    if reports:
        first = next(iter(reports))
        arch, stem, variant = reports[first].arch, stems[first], reports[first].variant
        for report in reports.values():
            note_assumptions(report)
    initializations = []
    for label, choice in choices.items():
        if choice is None:
            initializations.append(Initialization(label, arch, stem, variant))
        else:
            report = reports[label]
            trunk = report.arch, stems[label], report.variant
            initializations.append(Initialization(label, *trunk, choice, report, options))
    return initializations


def labeled_checkpoints(checkpoint: str | None, init: Sequence[str]) -> dict[str, str | None]:
    """Label -> checkpoint, None for random weights; `checkpoint` first, labeled "encoder".

    An entry of `init` is random, NAME=FILE, or FILE, which is labeled with its file name.

    Raises:
        UsageError: two entries have the same name.

    >>> list(labeled_checkpoints("simsiam.pth", ["random", "supervised=r50.pth", "moco.pth"]))
    ['encoder', 'random', 'supervised', 'moco']
    """
    entries: list[tuple[str, str | None, bool]] = []  # label, checkpoint, whether the user chose the label
    if checkpoint is not None:
        entries.append(("encoder", checkpoint, True))
    for text in init:
        named = None if Path(text).exists() else _NAMED.match(text)
        if text == RANDOM:
            entries.append((RANDOM, None, True))
        elif named and named["name"] == RANDOM:
            raise UsageError(f"--init {text}: the name random is reserved for random weights; choose another name.")
        elif named:
            entries.append((named["name"], os.path.expanduser(named["file"]), True))
        else:
            entries.append((Path(text).name.split(".")[0], os.path.expanduser(text), False))
    labels = [label for label, _, _ in entries]
    checkpoints: dict[str, str | None] = {}
    for index, (label, path, chosen) in enumerate(entries):
        if labels.count(label) > 1 and chosen and label in checkpoints:
            if path is None:
                raise UsageError("--init random is given twice; use --trials to repeat it.")
            raise UsageError(f"--init {label}={path}: the name {label} is already used; choose another name.")
        unique = chosen or (labels.count(label) == 1 and label != RANDOM)
        checkpoints[label if unique else f"{label}-{index}"] = path
    return checkpoints
