"""A folder of images of which one cannot be read, and its features, whole and in three parts."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """40 images of noise in two class folders; the eighth cannot be read."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("photos")
    for number in range(40):
        path = folder / ("ants" if number < 25 else "bées, the longer name") / f"{number:03d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8)).save(path)
    (folder / "ants" / "007.png").write_bytes(b"not an image")
    return folder


@pytest.fixture(scope="session")
def parts(record, checkpoint, photos, tmp_path_factory):
    """A folder with whole.h5 and 0.h5, 12.h5, 28.h5, which begin at those rows; forward passes of 4 images."""
    folder = tmp_path_factory.mktemp("parts")
    common = ["extract", "--checkpoint", checkpoint, "--data", photos, "--extract-batch", 4, "--workers", 0]
    common += ["--layer", "pool", "--layer", "layer2"]
    record(*common, "--out", folder / "whole.h5")
    for rows in ("0:12", "12:28", "28:40"):
        record(*common, "--out", folder / f"{rows.split(':')[0]}.h5", "--rows", rows)
    return folder
