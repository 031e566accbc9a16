"""What linear probes are trained and tested on, from the settings of a task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from simsiam_eval.errors import DataError
from simsiam_eval.extraction.sets import train_and_test_features
from simsiam_eval.features.file import Features, read_attributes
from simsiam_eval.features.layers import chosen_layers, layers_in
from simsiam_eval.linear.feeds import CropFeed, Feed, ViewFeed
from simsiam_eval.linear.training import LabeledFeatures
from simsiam_eval.metrics.confusion import distinct_names

if TYPE_CHECKING:
    from simsiam_eval.extraction.settings import EvaluationSettings


@dataclass(frozen=True)
class ProbeData:
    """Training and test features on one device, and the name of each class (C)."""

    train: LabeledFeatures
    test: LabeledFeatures
    class_names: Sequence[str]

    @property
    def classes(self) -> int:
        return len(self.class_names)

    @property
    def device(self) -> torch.device:
        return self.train.device


def read_probe_data(
    settings: EvaluationSettings, device: torch.device, every_layer: bool
) -> tuple[ProbeData, Features, Features]:
    """Features and labels of both sets on `device`, and what was read.

    Raises:
        UsageError, DataError: the features cannot be used, or there is one class only.
    """
    columns: dict[str, dict[str, str]] = {}

    def wanted(path: Path, role: str) -> Sequence[str]:
        columns[role] = chosen_layers(settings.layer, path, every_layer)
        views = ["views"] if role == "train" and settings.views else []
        if views:
            _refuse_other_views(path, settings.views, columns[role])
        return [name for name in columns[role].values() if name != "features"] + views

    train, test = train_and_test_features(settings, wanted)
    columns.setdefault("test", columns["train"])
    classes, train_labels = np.unique(train.labels, return_inverse=True)
    if len(classes) < 2:
        raise DataError(f"{settings.train} has one class only: there is nothing to classify.")
    names = distinct_names(train.class_names) if train.class_names is not None else None
    common = [layer for layer in columns["train"] if layer in columns["test"]]
    data = ProbeData(
        train=_labeled(train, train_labels, {layer: columns["train"][layer] for layer in common}, device),
        test=_labeled(
            test, np.searchsorted(classes, test.labels), {layer: columns["test"][layer] for layer in common}, device
        ),
        class_names=[names[label] if names is not None else str(label) for label in classes.tolist()],
    )
    return data, train, test


def feed_of(settings: EvaluationSettings, data: ProbeData, train: Features) -> Feed:
    """What the settings say the heads are trained on: `--views` or the center crop."""
    if not settings.views:
        return CropFeed(data.train.layers)
    layer = next(layer for layer, name in layers_in(train.attributes).items() if name == "features")
    return ViewFeed(layer, torch.from_numpy(train.columns["views"])[:, : settings.views], data.device)


def _labeled(
    features: Features, labels: NDArray[np.int64], columns: dict[str, str], device: torch.device
) -> LabeledFeatures:
    datasets = {
        layer: features.features if name == "features" else features.columns[name] for layer, name in columns.items()
    }
    layers = {layer: torch.from_numpy(values).to(device, torch.float32) for layer, values in datasets.items()}
    return LabeledFeatures(layers, torch.from_numpy(labels).to(device))


def _refuse_other_views(path: Path, wanted: int, layers: dict[str, str]) -> None:
    attributes = read_attributes(path)
    there = attributes["columns"].get("views", (0,))[0]
    if there < wanted:
        raise DataError(
            f"{path} holds {there} views per image, not --views {wanted}: extract it with --views {wanted}."
        )
    if "features" not in layers.values():
        own = next(iter(layers_in(attributes)))
        raise DataError(f"The views in {path} are of its layer {own}, not of --layer {' '.join(layers)}.")
