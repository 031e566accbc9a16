"""A run so small that it can be repeated, killed and cut in two."""

import numpy as np
import pytest
from PIL import Image

EPOCHS, BATCH, IMAGES = 3, 8, 50  # six steps an epoch, two images left out of each


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """A folder of noise in two classes."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for number in range(IMAGES):
        kind = folder / f"{'ab'[number % 2]}"
        kind.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(kind / f"{number:02d}.png")
    return folder


@pytest.fixture(scope="session")
def tiny(images):
    """Options of a run of three epochs of six steps, with health and online kNN."""
    chosen = {"epochs": EPOCHS, "batch-size": BATCH, "image-size": 8, "dim": 16, "pred-dim": 8, "projector-hidden": 16}
    chosen |= {"health-every": 2, "every": "1 epochs", "data": images, "val": images, "knn-every": 1, "knn-k": 5}
    return ["--preset", "cifar10", "--no-resident", *(str(x) for name, x in chosen.items() for x in (f"--{name}", x))]
