"""Small features of three classes, their names and a folder to write them to."""

import numpy as np
import pytest


@pytest.fixture(scope="session")
def rows():
    """(12, 4) float32, (12,) labels, and names such as cat/000.jpg."""
    features = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
    labels = np.arange(12) % 3
    return features, labels, [f"{('cat', 'dog', 'owl')[label]}/{row:03d}.jpg" for row, label in enumerate(labels)]
