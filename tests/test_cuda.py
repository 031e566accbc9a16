"""What runs on a GPU, beside the CPU. Skipped where there is none; where there is one, the first thing to run:

python -m pytest tests/test_cuda.py
"""

import os
import tempfile

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.build import view_recipe
from pretrain.checkpoint import random_state, set_random_state
from pretrain.loader import Loader
from pretrain.settings import PretrainSettings
from simsiam_eval.extraction.blocks import Blocks, read_blocks
from simsiam_eval.features.reader import read_features
from simsiam_eval.images.preprocess import Preprocessing
from simsiam_eval.neighbors.exact import search
from simsiam_eval.runtime.processes import Processes
from simsiam_eval.sources.opening import open_source

GPU = torch.device("cuda")
# By the preset's lr what rounding there is grows in three epochs to losses .14 apart on one CPU; by this one to .03.
CALM = ("--epochs", 3, "--lr", 0.1)
GRAY_LEVELS = Preprocessing(mean=(0.0, 0.0, 0.0), std=(1 / 255,) * 3)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """96 JPEGs in three classes: blobs of a color on noise, 40 to 60 px a side."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for number in range(96):
        height, width = rng.integers(40, 60, 2)
        pixels = rng.integers(0, 120, (height, width, 3), dtype=np.uint8)
        y, x = rng.integers(5, 15, 2)
        pixels[y : y + 20, x : x + 20, number % 3] = 255
        path = folder / "abc"[number % 3] / f"{number:02d}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path, quality=95)
    return folder


@pytest.fixture(scope="module")
def losses(record, small, tmp_path_factory):
    """losses(device, *options): of each epoch of a short run on digits."""

    def of(device, *options):
        out = tmp_path_factory.mktemp("runs") / "run"
        record("pretrain", *small, *CALM, "--device", device, "--out", out, *options)
        saved = torch.load(out / "checkpoint_last.pth.tar", weights_only=True, map_location="cpu")
        return [entry["loss"] for entry in saved["simsiam_eval"]["history"]]

    return of


@pytest.fixture(scope="module")
def on_a_cpu(losses):
    return losses("cpu")


# --- pretrain ---


@pytest.mark.parametrize("preset", ["digits", "cifar10", "imagenet"])
@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("compile", ["off", "on"])
def test_batches(photos, preset, resident, compile):
    """Copied, cropped and augmented on a stream of its own: the views of the CPU, but for rounding."""
    source = open_source("digits#train" if resident else str(photos))
    recipe = view_recipe(PretrainSettings(preset=preset, data="-", out="-", image_size=24))
    options = dict(batch_size=32, image_size=24, workers=2, resident=resident, compiled=compile == "on")
    loaders = (
        Loader(source, recipe, GRAY_LEVELS, Processes(device), **options) for device in (torch.device("cpu"), GPU)
    )
    expected, found = (list(loader.batches(1, 4)) for loader in loaders)
    for theirs, ours in zip(expected, found, strict=True):
        for view, other in zip(theirs, ours, strict=True):
            assert other.device.type == GPU.type
            apart = (view - other.cpu()).abs()
            assert apart.max() <= 25
            assert (apart > 0.5).float().mean() < 2e-2  # digits enlarged often lie half way between two gray levels


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--no-resident", "--workers", "2"),
        ("--no-channels-last", "--no-fused"),
        ("--compile", "on"),
        ("--compile", "cuda-graphs"),
        ("--precision", "bf16"),
        ("--precision", "bf16", "--compile", "cuda-graphs"),
        ("--precision", "bf16", "--compile", "on", "--no-resident", "--workers", "2"),
    ],
)
def test_losses(losses, on_a_cpu, options):
    np.testing.assert_allclose(losses(GPU.type, *options), on_a_cpu, atol=0.05)


STOPS = """
from pretrain.log import TrainingLog
real, steps = TrainingLog.after_step, []
def after_step(*given):
    steps.append(1)
    if len(steps) == 30:
        os.kill(os.getpid(), signal.SIGTERM)
    return real(*given)
TrainingLog.after_step = after_step
"""


@pytest.mark.parametrize("options", [(), ("--precision", "bf16", "--compile", "cuda-graphs")])
def test_a_stopped_run_goes_on(losses, forked, small, record, tmp_path, options):
    """In the middle of an epoch; weights, momentum and random state come back to the GPU."""
    run = ["pretrain", *small, *CALM, "--device", GPU.type, "--out", tmp_path / "run", *options]
    assert os.waitstatus_to_exitcode(forked(run, STOPS)) == 143
    found = record(*run)
    saved = torch.load(tmp_path / "run" / "checkpoint_last.pth.tar", weights_only=True, map_location="cpu")
    assert found["metrics"]["epochs"] == 3
    resumed = [entry["loss"] for entry in saved["simsiam_eval"]["history"]]
    np.testing.assert_allclose(resumed, losses(GPU.type, *options), atol=0.05)  # a GPU adds up in any order


def test_random_state():
    torch.randn(3, device=GPU)
    state = random_state()
    drawn = torch.randn(3, device=GPU)
    set_random_state(state)
    assert torch.equal(torch.randn(3, device=GPU), drawn)


# --- extract and what judges ---


@pytest.fixture(scope="module")
def features(record, checkpoint, tmp_path_factory):
    """features(device, *options): of the digits' test images, (N,D)."""

    def of(device, *options):
        out = tmp_path_factory.mktemp("features") / "test.h5"
        record(
            "extract", "--checkpoint", checkpoint, "--data", "digits#test", "--device", device, "--out", out, *options
        )
        return read_features(out).features

    return of


@pytest.mark.parametrize(
    ("options", "least"),
    [
        ((), 0.9999),
        (("--compile", "on"), 0.9999),
        (("--extract-batch", "100", "--workers", "2"), 0.9999),
        (("--flip-average", "--normalize"), 0.9999),
        (("--precision", "bf16"), 0.999),
        (("--precision", "bf16", "--compile", "on"), 0.999),
    ],
)
def test_features(features, options, least):
    plain = [one for one in options if one in ("--flip-average", "--normalize")]
    expected, found = features("cpu", *plain), features(GPU.type, *options)
    cosine = np.sum(expected * found, axis=1) / np.linalg.norm(expected, axis=1) / np.linalg.norm(found, axis=1)
    assert cosine.min() >= least


def test_blocks_are_pinned():
    """Else every copy waits for the device."""
    blocks = Blocks(open_source("digits#test"), GRAY_LEVELS, range(32), [0, 16], 16, 0, True, 0)
    assert all(block.pixels.is_pinned() for block in read_blocks(blocks, 1, GPU))


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("k", [1, 20, 300])
def test_neighbors(metric, k):
    """More rows than a block of the GPU's holds."""
    rng = np.random.default_rng(0)
    bank, queries = (rng.normal(size=(rows, 24)).astype(np.float32) for rows in (70_000, 300))
    expected, found = (search(bank, queries, k, metric, device) for device in (torch.device("cpu"), GPU))
    np.testing.assert_allclose(found[0], expected[0], atol=1e-4)
    assert (found[1] == expected[1]).mean() > 0.98  # ties but for rounding


@pytest.fixture
def both(record):
    """both(*command) -> its metrics on the CPU and on the GPU, which does not find the other's features in the cache."""

    def of(*command):
        with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
            patch.setenv("SIMSIAM_EVAL_CACHE", folder)
            there = record(*command, "--device", GPU.type)["metrics"]
        return record(*command, "--device", "cpu")["metrics"], there

    return of


@pytest.mark.parametrize(
    ("command", "numbers"),
    [
        (("knn", "-k", "20,200"), ("top1", "top5")),
        (("knn", "--sweep", "--metric", "l2"), ("top1",)),
        (("linear-eval", "--epochs", 20), ("top1", "train_loss")),
        (("linear-eval", "--preset", "small", "--sweep", "--scaling", "none,l2,standard", "--epochs", 10), ("top1",)),
        (("linear-eval", "--preset", "logistic"), ("top1",)),
        (("linear-eval", "--preset", "small", "--shots", "4,16", "--trials", 2), ("top1",)),
    ],
)
def test_accuracies(both, road, command, numbers):
    expected, found = both(*command, "--train", road / "train.h5", "--test", road / "test.h5")
    for name in numbers:
        assert found[name] == pytest.approx(expected[name], abs=0.01), name


@pytest.mark.parametrize("how", ["--end-to-end", "--views=2"])
def test_augmented_linear_evaluation(both, checkpoint, photos, how):
    command = ["linear-eval", "--preset", "small", "--epochs", 2, "--lr", 0.1, "--train", photos, "--test", photos, how]
    expected, found = both(*command, "--checkpoint", checkpoint)
    assert found["train_loss"] == pytest.approx(expected["train_loss"], abs=0.02)


def test_retrieval(both, road):
    expected, found = both("retrieval", "eval", "--gallery", road / "train.h5", "--queries", road / "test.h5")
    for name in ("recall_at_1", "precision_at_10", "map", "r_precision", "mrr"):
        assert found[name] == pytest.approx(expected[name], abs=1e-3), name


def test_groups(both, road):
    expected, found = both("duplicates", road / "train.h5", road / "test.h5", "--threshold", 0.999)
    assert found["groups"] == expected["groups"]


def test_likeness(both, record, checkpoint, road, tmp_path):
    extract = ("extract", "--checkpoint", checkpoint, "--data", "digits#test", "--device", GPU.type)
    record(*extract, "--precision", "bf16", "--out", tmp_path / "bf16.h5")
    (expected,), (found,) = (one["features"] for one in both("compare", road / "test.h5", tmp_path / "bf16.h5"))
    assert found["cka"] == pytest.approx(expected["cka"], abs=1e-4)
    assert found["neighbor_overlap"] == pytest.approx(expected["neighbor_overlap"], abs=0.01)
