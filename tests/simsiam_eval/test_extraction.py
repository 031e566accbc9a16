import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from simsiam_eval.distributed import Processes
from simsiam_eval.encoder import Encoder, build_trunk
from simsiam_eval.errors import DataError
from simsiam_eval.extraction import Extraction, write_extraction
from simsiam_eval.feature_file import read_features
from simsiam_eval.preprocess import Preprocessing
from simsiam_eval.settings import FeatureSettings
from simsiam_eval.sources import ArraySource

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def images(tmp_path):
    """A folder of 40 images of noise; the eighth cannot be read."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(40):
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(folder / f"{number:03d}.png")
    (folder / "007.png").write_bytes(b"not an image")
    return folder


@pytest.fixture
def source():
    pixels = np.random.default_rng(1).integers(0, 256, (10, 12, 12, 3), dtype=np.uint8)
    return ArraySource("noise", pixels, np.arange(10) % 3, ["a", "b", "c"], [f"image {row}" for row in range(10)])


def extract(source, out, encoder=None, **values):
    torch.manual_seed(0)
    encoder = encoder or Encoder(build_trunk("resnet18", "cifar"), "resnet18", "cifar")
    settings = FeatureSettings(device="cpu", **({"extract_batch": 4} | values))
    preprocessing = Preprocessing(resize=8, crop=8)
    attributes = {
        "encoder": {"arch": "resnet18"},
        "preprocessing": preprocessing.to_dict(),
        "source": {"spec": source.spec, "fingerprint": source.fingerprint(), "class_names": list(source.class_names)},
        "views": None,
        "precision": settings.precision,
    }
    device = torch.device("cpu")
    work = Extraction(encoder, source, preprocessing, settings, device)
    return write_extraction(work, attributes, out, Processes(device))


def test_features_are_the_encoders_of_each_image_in_order(source, tmp_path):
    assert extract(source, tmp_path / "a.h5") == (10, 0)
    found = read_features(tmp_path / "a.h5")
    torch.manual_seed(0)
    encoder = Encoder(build_trunk("resnet18", "cifar"), "resnet18", "cifar").eval()
    preprocessing = Preprocessing(resize=8, crop=8)
    for row in range(10):
        one = preprocessing.normalise(preprocessing.pixels(source.image(row))[None])
        with torch.inference_mode():
            np.testing.assert_allclose(found.features[row], encoder(one)[0].numpy(), rtol=1e-4, atol=1e-5)
    assert found.ids.tolist() == source.ids
    assert found.labels.tolist() == source.labels.tolist()


def test_the_number_of_workers_changes_nothing(record, checkpoint, images, tmp_path):
    content = []
    for workers in (0, 2):
        out = tmp_path / f"{workers}.h5"
        record("extract", "--checkpoint", checkpoint, "--data", images, "--out", out, "--workers", workers)
        with h5py.File(out) as file:
            content.append([file[name][:] for name in ("features", "labels", "ids", "valid")])
    assert all(np.array_equal(one, two) for one, two in zip(*content, strict=True))


def test_strict_names_the_first_unreadable_image(call, checkpoint, images, tmp_path):
    arguments = ["--checkpoint", checkpoint, "--data", images, "--out", tmp_path / "a.h5"]
    refused = call("extract", *arguments, "--strict")
    assert refused.exit_code == 1
    assert "007.png (row 7)" in refused.stderr
    done = call("extract", *arguments, "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["metrics"]["unreadable"] == 1
    assert "007.png" in done.stderr


def test_a_complete_file_is_left_and_another_ones_refused(source, tmp_path):
    out = tmp_path / "a.h5"
    extract(source, out)
    before = out.read_bytes()
    assert extract(source, out) == (0, 0)
    assert out.read_bytes() == before
    with pytest.raises(DataError, match="another"):
        extract(source, out, dtype="float16")
    with pytest.raises(DataError, match="another"):
        extract(source, out, precision="bf16")
    assert out.read_bytes() == before


def test_features_that_are_not_finite_are_errors_not_rows(source, tmp_path):
    class Poisoned(Encoder):
        def all_layers(self, images, pool_in=None):
            (features,) = super().all_layers(images, pool_in)
            features[1] = float("nan")  # the second row of every block
            return (features,)

    assert extract(source, tmp_path / "a.h5", Poisoned(build_trunk("resnet18", "cifar"), "resnet18", "cifar")) == (
        10,
        3,
    )
    with h5py.File(tmp_path / "a.h5") as file:
        assert [row for row, *_ in file["errors"][:]] == [1, 5, 9]
        assert np.flatnonzero(~file["valid"][:].astype(bool)).tolist() == [1, 5, 9]
        assert np.isfinite(file["features"][:]).all()


def test_killed_extraction_goes_on_to_the_same_file(call, record, checkpoint, images, tmp_path):
    arguments = ["--checkpoint", str(checkpoint), "--data", str(images), "--extract-batch", "4"]
    record("extract", *arguments, "--out", tmp_path / "whole.h5", "--workers", 0)
    # The process kills itself with SIGKILL after its third block.
    code = (
        "import os, signal, sys, cli\n"
        "from simsiam_eval.feature_writer import FeatureWriter\n"
        "write, blocks = FeatureWriter.write, []\n"
        "def killed(self, *rows):\n"
        "    write(self, *rows); self.sync(); blocks.append(1)\n"
        "    if len(blocks) == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "FeatureWriter.write = killed\n"
        "cli.main(['extract'] + sys.argv[1:])\n"
    )
    out = tmp_path / "killed.h5"
    died = subprocess.run([sys.executable, "-c", code, *arguments, "--out", str(out)], cwd=ROOT, capture_output=True)
    assert died.returncode == -9, died.stderr
    assert not out.exists()
    assert "unfinished" in call("knn", "--train", out, "--test", out).stderr
    again = record("extract", *arguments, "--out", out)
    assert again["metrics"]["computed"] < 41
    assert again["metrics"]["unreadable"] == 1
    with h5py.File(tmp_path / "whole.h5") as one, h5py.File(out) as two:
        for name in ("features", "labels", "ids", "valid"):
            assert np.array_equal(one[name][:], two[name][:]), name
        assert two["errors"][0]["row"] == 7
        assert not two["valid"][7]
