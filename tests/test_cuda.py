"""Results on a GPU compared with those on the CPU; skipped without a GPU.

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
# On one CPU, rounding differences change the loss after three epochs by 0.14 with the preset's lr, by 0.03 with this one.
SHORT_RUN = ("--epochs", 3, "--lr", 0.1)
GRAY_LEVELS = Preprocessing(mean=(0.0, 0.0, 0.0), std=(1 / 255,) * 3)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """96 JPEGs in three classes: colored squares on noise, 40 to 60 px per side."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for index in range(96):
        height, width = rng.integers(40, 60, 2)
        pixels = rng.integers(0, 120, (height, width, 3), dtype=np.uint8)
        y, x = rng.integers(5, 15, 2)
        pixels[y : y + 20, x : x + 20, index % 3] = 255
        path = folder / "abc"[index % 3] / f"{index:02d}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path, quality=95)
    return folder


@pytest.fixture(scope="module")
def losses(record, small, tmp_path_factory):
    """losses(device, *options) -> the loss of each epoch of a short run on digits."""

    def train(device, *options):
        out = tmp_path_factory.mktemp("runs") / "run"
        record("pretrain", *small, *SHORT_RUN, "--device", device, "--out", out, *options)
        saved = torch.load(out / "checkpoint_last.pth.tar", weights_only=True, map_location="cpu")
        return [entry["loss"] for entry in saved["simsiam_eval"]["history"]]

    return train


@pytest.fixture(scope="module")
def cpu_losses(losses):
    return losses("cpu")


# --- pretrain ---


@pytest.mark.parametrize("preset", ["digits", "cifar10", "imagenet"])
@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("compile", ["off", "on"])
def test_batches_match_the_cpu(photos, preset, resident, compile):
    """Copied, cropped and augmented on a separate stream, views equal those of the CPU up to rounding."""
    source = open_source("digits#train" if resident else str(photos))
    recipe = view_recipe(PretrainSettings(preset=preset, data="-", out="-", image_size=24))
    options = dict(batch_size=32, image_size=24, workers=2, resident=resident, compiled=compile == "on")
    loaders = (
        Loader(source, recipe, GRAY_LEVELS, Processes(device), **options) for device in (torch.device("cpu"), GPU)
    )
    expected, got = (list(loader.batches(1, 4)) for loader in loaders)
    for cpu_batch, gpu_batch in zip(expected, got, strict=True):
        for cpu_view, gpu_view in zip(cpu_batch, gpu_batch, strict=True):
            assert gpu_view.device.type == GPU.type
            difference = (cpu_view - gpu_view.cpu()).abs()
            assert difference.max() <= 25
            # Pixels of enlarged digits often lie halfway between two gray levels.
            assert (difference > 0.5).float().mean() < 2e-2


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
def test_losses_match_the_cpu(losses, cpu_losses, options):
    np.testing.assert_allclose(losses(GPU.type, *options), cpu_losses, atol=0.05)


STOP_AT_STEP_30 = """
from pretrain.log import TrainingLog
real, steps = TrainingLog.after_step, []
def after_step(*arguments):
    steps.append(1)
    if len(steps) == 30:
        os.kill(os.getpid(), signal.SIGTERM)
    return real(*arguments)
TrainingLog.after_step = after_step
"""


@pytest.mark.parametrize("options", [(), ("--precision", "bf16", "--compile", "cuda-graphs")])
def test_an_interrupted_run_resumes(losses, forked, small, record, tmp_path, options):
    """Stopped in the middle of an epoch; weights, momentum and random state are restored on the GPU."""
    command = ["pretrain", *small, *SHORT_RUN, "--device", GPU.type, "--out", tmp_path / "run", *options]
    assert os.waitstatus_to_exitcode(forked(command, STOP_AT_STEP_30)) == 143
    result = record(*command)
    saved = torch.load(tmp_path / "run" / "checkpoint_last.pth.tar", weights_only=True, map_location="cpu")
    assert result["metrics"]["epochs"] == 3
    resumed = [entry["loss"] for entry in saved["simsiam_eval"]["history"]]
    np.testing.assert_allclose(resumed, losses(GPU.type, *options), atol=0.05)  # GPU sums have no fixed order


def test_random_state_is_restored():
    torch.randn(3, device=GPU)
    state = random_state()
    drawn = torch.randn(3, device=GPU)
    set_random_state(state)
    assert torch.equal(torch.randn(3, device=GPU), drawn)


# --- extraction and evaluation ---


@pytest.fixture(scope="module")
def features(record, checkpoint, tmp_path_factory):
    """features(device, *options) -> (N,D) features of the digits test images."""

    def extract(device, *options):
        out = tmp_path_factory.mktemp("features") / "test.h5"
        record(
            "extract", "--checkpoint", checkpoint, "--data", "digits#test", "--device", device, "--out", out, *options
        )
        return read_features(out).features

    return extract


@pytest.mark.parametrize(
    ("options", "min_cosine"),
    [
        ((), 0.9999),
        (("--compile", "on"), 0.9999),
        (("--extract-batch", "100", "--workers", "2"), 0.9999),
        (("--flip-average", "--normalize"), 0.9999),
        (("--precision", "bf16"), 0.999),
        (("--precision", "bf16", "--compile", "on"), 0.999),
    ],
)
def test_features_match_the_cpu(features, options, min_cosine):
    shared_options = [option for option in options if option in ("--flip-average", "--normalize")]
    expected, got = features("cpu", *shared_options), features(GPU.type, *options)
    cosine = np.sum(expected * got, axis=1) / np.linalg.norm(expected, axis=1) / np.linalg.norm(got, axis=1)
    assert cosine.min() >= min_cosine


def test_blocks_are_in_pinned_memory():
    """Otherwise every copy to the device would be synchronous."""
    blocks = Blocks(open_source("digits#test"), GRAY_LEVELS, range(32), [0, 16], 16, 0, True, 0)
    assert all(block.pixels.is_pinned() for block in read_blocks(blocks, 1, GPU))


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("k", [1, 20, 300])
def test_neighbors_match_the_cpu(metric, k):
    """With more rows than one GPU block holds."""
    rng = np.random.default_rng(0)
    bank, queries = (rng.normal(size=(rows, 24)).astype(np.float32) for rows in (70_000, 300))
    expected, got = (search(bank, queries, k, metric, device) for device in (torch.device("cpu"), GPU))
    np.testing.assert_allclose(got[0], expected[0], atol=1e-4)
    assert (got[1] == expected[1]).mean() > 0.98  # rounding may reorder near-ties


@pytest.fixture
def both(record):
    """both(*command) -> metrics on the CPU and on the GPU; the GPU run has its own, empty feature cache."""

    def run(*command):
        with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
            patch.setenv("SIMSIAM_EVAL_CACHE", folder)
            gpu_metrics = record(*command, "--device", GPU.type)["metrics"]
        return record(*command, "--device", "cpu")["metrics"], gpu_metrics

    return run


@pytest.mark.parametrize(
    ("command", "metrics"),
    [
        (("knn", "-k", "20,200"), ("top1", "top5")),
        (("knn", "--sweep", "--metric", "l2"), ("top1",)),
        (("linear-eval", "--epochs", 20), ("top1", "train_loss")),
        (("linear-eval", "--preset", "small", "--sweep", "--scaling", "none,l2,standard", "--epochs", 10), ("top1",)),
        (("linear-eval", "--preset", "logistic"), ("top1",)),
        (("linear-eval", "--preset", "small", "--shots", "4,16", "--trials", 2), ("top1",)),
    ],
)
def test_accuracies_match_the_cpu(both, pipeline, command, metrics):
    expected, got = both(*command, "--train", pipeline / "train.h5", "--test", pipeline / "test.h5")
    for name in metrics:
        assert got[name] == pytest.approx(expected[name], abs=0.01), name


@pytest.mark.parametrize("option", ["--end-to-end", "--views=2"])
def test_augmented_linear_evaluation_matches_the_cpu(both, checkpoint, photos, option):
    command = ["linear-eval", "--preset", "small", "--epochs", 2, "--lr", 0.1, "--checkpoint", checkpoint]
    expected, got = both(*command, "--train", photos, "--test", photos, option)
    assert got["train_loss"] == pytest.approx(expected["train_loss"], abs=0.02)


def test_retrieval_metrics_match_the_cpu(both, pipeline):
    expected, got = both("retrieval", "eval", "--gallery", pipeline / "train.h5", "--queries", pipeline / "test.h5")
    for name in ("recall_at_1", "precision_at_10", "map", "r_precision", "mrr"):
        assert got[name] == pytest.approx(expected[name], abs=1e-3), name


def test_duplicate_groups_match_the_cpu(both, pipeline):
    expected, got = both("duplicates", pipeline / "train.h5", pipeline / "test.h5", "--threshold", 0.999)
    assert got["groups"] == expected["groups"]


def test_compare_matches_the_cpu(both, record, checkpoint, pipeline, tmp_path):
    extract = ("extract", "--checkpoint", checkpoint, "--data", "digits#test", "--device", GPU.type)
    record(*extract, "--precision", "bf16", "--out", tmp_path / "bf16.h5")
    (expected,), (got,) = (
        metrics["features"] for metrics in both("compare", pipeline / "test.h5", tmp_path / "bf16.h5")
    )
    assert got["cka"] == pytest.approx(expected["cka"], abs=1e-4)
    assert got["neighbor_overlap"] == pytest.approx(expected["neighbor_overlap"], abs=0.01)
