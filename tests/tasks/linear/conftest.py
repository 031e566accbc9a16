"""Small feature files, and `linear-eval` on them."""

import json

import h5py
import numpy as np
import pytest

from simsiam_eval.features.writer import write_features
from tasks.linear.linear_eval import linear_eval
from tasks.linear.settings import LinearEvalSettings


def write_feature_file(path, rows, classes, seed, spread=0.6, labels=None, layers=(), views=0):
    """A feature file with clusters of 6 features; its path. Labels are 0, 10, 20, ..."""
    rng = np.random.default_rng(seed)
    if labels is None:
        labels = rng.integers(0, classes, rows)
        labels[:classes] = np.arange(classes)
    labels = np.asarray(labels)
    centers = np.random.default_rng(9).normal(size=(classes, 6))
    features = (centers[labels] + rng.normal(0, spread, (rows, 6))).astype(np.float32)
    source = {"spec": path.stem, "fingerprint": path.stem, "class_names": None}
    ids = [str(row) for row in range(rows)]
    label_values = np.where(labels < 0, -1, labels * 10)  # with gaps
    write_features(path, features, label_values, ids, encoder={"arch": "made"} | ({"layer": "pool"} if layers else {}),
                   source=source)  # fmt: skip
    with h5py.File(path, "a") as file:
        for depth, name in enumerate(layers):  # with more and more noise
            noisy = features + rng.normal(0, 3.0 * (depth + 1), features.shape)
            file[f"layers/{name}"] = noisy[:, : 5 - depth].astype(np.float32)
        if views:
            file.attrs["views"] = json.dumps({"count": views, "seed": 0})
            file["views"] = (features[:, None] + rng.normal(0, 0.3, (rows, views, 6))).astype(np.float32)
    return str(path)


@pytest.fixture(scope="session")
def write():
    """write(path, rows, classes, seed, ...): write a feature file."""
    return write_feature_file


@pytest.fixture
def sets(tmp_path):
    """A training and a test set of seven classes."""
    return {
        "train": write_feature_file(tmp_path / "train.h5", 200, 7, 0),
        "test": write_feature_file(tmp_path / "test.h5", 80, 7, 1),
    }


@pytest.fixture(scope="session")
def run():
    """run(sets, lr=1.0, ...): the result of a short `linear-eval`."""

    def run_linear_eval(sets, **values):
        return linear_eval(LinearEvalSettings(**{"preset": "small", "batch_size": 64, "epochs": 6, **sets, **values}))

    return run_linear_eval
