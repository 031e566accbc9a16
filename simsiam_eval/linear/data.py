"""The training and test sets of linear probes, read from feature files or extracted first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from simsiam_eval.encoders.choice import EncoderChoice
from simsiam_eval.errors import DataError
from simsiam_eval.extraction.options import ExtractionOptions
from simsiam_eval.extraction.sets import train_and_test_features
from simsiam_eval.features.class_names import class_name, distinct_names
from simsiam_eval.features.file import read_attributes
from simsiam_eval.features.layers import chosen_layers, layers_in
from simsiam_eval.features.table import Features
from simsiam_eval.linear.feeds import CropFeed, Feed, ViewFeed
from simsiam_eval.linear.training import LabeledFeatures
from simsiam_eval.wording import counted


@dataclass(frozen=True)
class ProbeData:
    """Training and test features on one device, and the C class names."""

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
    train_spec: str,
    test_spec: str,
    choice: EncoderChoice | None,
    options: ExtractionOptions,
    device: torch.device,
    every_layer: bool,
) -> tuple[ProbeData, Features, Features]:
    """Features and labels of both sets on `device`, and the sets as they were read.

    Args:
        train_spec, test_spec: feature files, or image sources, which require the choice of an encoder.
        options: how images become features; of feature files, its layers and views are read.
        every_layer: read all layers of the files instead.

    Raises:
        UsageError, DataError: as `train_and_test_features`.
    """
    columns: dict[str, dict[str, str]] = {}

    def further_columns(path: Path, role: str) -> Sequence[str]:
        columns[role] = chosen_layers(options.layers, path, every_layer)
        views = ["views"] if role == "train" and options.views else []
        if views:
            _check_views(path, options.views, columns[role])
        return [name for name in columns[role].values() if name != "features"] + views

    train, test = train_and_test_features(train_spec, test_spec, choice, options, device, further_columns)
    columns.setdefault("test", columns["train"])
    classes, train_labels = np.unique(train.labels, return_inverse=True)
    names = distinct_names(train.class_names) if train.class_names is not None else None
    train_columns, test_columns = (
        {layer: columns[role][layer] for layer in columns["train"] if layer in columns["test"]}
        for role in ("train", "test")
    )
    data = ProbeData(
        train=_labeled(train, train_labels, train_columns, device),
        test=_labeled(test, np.searchsorted(classes, test.labels), test_columns, device),
        class_names=[class_name(label, names) for label in classes.tolist()],
    )
    return data, train, test


def feed_of(views: int, data: ProbeData, train: Features) -> Feed:
    """The stored `views` of each image in turn, or center crops where `views` is 0."""
    if not views:
        return CropFeed(data.train.layers)
    layer = next(layer for layer, name in layers_in(train.attributes).items() if name == "features")
    return ViewFeed(layer, torch.from_numpy(train.columns["views"])[:, :views], data.device)


def _labeled(
    features: Features, labels: NDArray[np.int64], columns: dict[str, str], device: torch.device
) -> LabeledFeatures:
    datasets = {
        layer: features.features if name == "features" else features.columns[name] for layer, name in columns.items()
    }
    layers = {layer: torch.from_numpy(values).to(device, torch.float32) for layer, values in datasets.items()}
    return LabeledFeatures(layers, torch.from_numpy(labels).to(device))


def _check_views(path: Path, views: int, layers: dict[str, str]) -> None:
    """Reject a feature file with fewer views, or with views of another layer."""
    attributes = read_attributes(path)
    stored = attributes["columns"].get("views", (0,))[0]
    if stored < views:
        raise DataError(
            f"{path} has {counted(stored, 'view')} per image, but --views is {views}. Extract it with --views {views}."
        )
    if "features" not in layers.values():
        layer = next(iter(layers_in(attributes)))
        raise DataError(f"{path} has views of layer {layer}; expected --layer {' '.join(layers)}.")
