"""Features of the photos, whole and in three parts."""

import pytest


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
