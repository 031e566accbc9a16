import errno
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from simsiam_eval.encoders.encoder import ResNetEncoder, build_trunk
from simsiam_eval.errors import DataError, UsageError
from simsiam_eval.extraction.extraction import Extraction
from simsiam_eval.extraction.options import ExtractionOptions
from simsiam_eval.extraction.to_file import write_extraction
from simsiam_eval.features.reader import read_features
from simsiam_eval.images.preprocess import Preprocessing
from simsiam_eval.runtime.compiler import require_compiler
from simsiam_eval.runtime.processes import Processes
from simsiam_eval.sources.base import ArraySource, PathSource

ROOT = Path(__file__).parents[3]


@pytest.fixture
def images(tmp_path):
    """A folder of 40 noise images, the eighth of which is unreadable."""
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
    encoder = encoder or ResNetEncoder(build_trunk("resnet18", "cifar"), "resnet18", "cifar")
    options = ExtractionOptions(**({"batch": 4} | values))
    preprocessing = Preprocessing(resize=8, crop=8)
    attributes = {
        "encoder": {"arch": "resnet18"},
        "preprocessing": preprocessing.to_dict(),
        "source": {"spec": source.spec, "fingerprint": source.fingerprint(), "class_names": list(source.class_names)},
        "views": None,
        "precision": options.precision,
    }
    device = torch.device("cpu")
    extraction = Extraction(encoder, source, preprocessing, options, device)
    return write_extraction(extraction, attributes, out, Processes(device))


def test_features_equal_the_encoder_output_of_each_image_in_order(source, tmp_path):
    assert extract(source, tmp_path / "a.h5") == (10, 0)
    features = read_features(tmp_path / "a.h5")
    torch.manual_seed(0)
    encoder = ResNetEncoder(build_trunk("resnet18", "cifar"), "resnet18", "cifar").eval()
    preprocessing = Preprocessing(resize=8, crop=8)
    for row in range(10):
        image = preprocessing.normalize(preprocessing.pixels(source.image(row))[None])
        with torch.inference_mode():
            np.testing.assert_allclose(features.features[row], encoder(image)[0].numpy(), rtol=1e-4, atol=1e-5)
    assert features.ids.tolist() == source.ids
    assert features.labels.tolist() == source.labels.tolist()


def test_features_do_not_depend_on_the_number_of_workers(record, checkpoint, images, tmp_path):
    contents = []
    for workers in ([], ["--workers", 0], ["--workers", 2]):  # in the first, every core computes its own blocks
        out = tmp_path / f"{len(contents)}.h5"
        record("extract", "--checkpoint", checkpoint, "--data", images, "--extract-batch", 4, "--out", out, *workers)
        with h5py.File(out) as file:
            contents.append([file[name][:] for name in ("features", "labels", "ids", "valid")])
    assert contents[0][3].sum() == 39
    assert all(np.array_equal(*pair) for other in contents[1:] for pair in zip(contents[0], other, strict=True))


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_features_do_not_depend_on_the_number_of_cores(source, tmp_path, precision):
    original_count, results = torch.get_num_threads(), []
    for cores in (1, 4):
        for workers in (None, 0):
            torch.set_num_threads(cores)
            out = tmp_path / f"{cores}-{workers}.h5"
            extract(source, out, precision=precision, views=2, flip_average=True, batch=2, workers=workers)
            results.append(read_features(out, ["views"]))
    torch.set_num_threads(original_count)
    assert all(np.array_equal(result.features, results[0].features) for result in results)
    assert all(np.array_equal(result.columns["views"], results[0].columns["views"]) for result in results)


def test_strict_rejects_the_first_unreadable_image(call, checkpoint, images, tmp_path):
    arguments = ["--checkpoint", checkpoint, "--data", images, "--out", tmp_path / "a.h5"]
    result = call("extract", *arguments, "--strict")
    assert result.exit_code == 1
    assert "007.png (row 7)" in result.stderr
    result = call("extract", *arguments, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["metrics"]["unreadable"] == 1
    assert "007.png" in result.stderr
    assert "but 1 image could not be read" in call("extract", *arguments, "--strict").stderr


def test_complete_file_is_kept_and_a_file_of_other_features_is_rejected(source, tmp_path):
    out = tmp_path / "a.h5"
    extract(source, out)
    original = out.read_bytes()
    assert extract(source, out) == (0, 0)
    assert out.read_bytes() == original
    with pytest.raises(DataError, match="another"):
        extract(source, out, dtype="float16")
    with pytest.raises(DataError, match="another"):
        extract(source, out, precision="bf16")
    assert out.read_bytes() == original


def test_features_that_are_not_finite_become_errors(source, tmp_path):
    class NaNEncoder(ResNetEncoder):
        def all_layers(self, images, pool_in=None):
            (features,) = super().all_layers(images, pool_in)
            features[1] = float("nan")  # the second row of every block
            return (features,)

    encoder = NaNEncoder(build_trunk("resnet18", "cifar"), "resnet18", "cifar")
    assert extract(source, tmp_path / "a.h5", encoder) == (10, 3)
    with h5py.File(tmp_path / "a.h5") as file:
        assert [row for row, *_ in file["errors"][:]] == [1, 5, 9]
        assert np.flatnonzero(~file["valid"][:].astype(bool)).tolist() == [1, 5, 9]
        assert np.isfinite(file["features"][:]).all()


KILL_AT_FIRST_WRITE = (
    "from simsiam_eval.features.writer import FeatureWriter\nFeatureWriter.write = lambda *_: os.kill(os.getpid(), 9)"
)
KILL_AFTER_THREE_BLOCKS = (
    "from simsiam_eval.features.writer import FeatureWriter\n"
    "write, blocks = FeatureWriter.write, []\n"
    "def write_and_kill(self, *rows):\n"
    "    write(self, *rows); self.sync(); blocks.append(1)\n"
    "    if len(blocks) == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
    "FeatureWriter.write = write_and_kill\n"
)
DATASETS = ("features", "labels", "ids", "valid", "layers/layer2", "errors")


def content(path):
    with h5py.File(path) as file:
        return {name: file[name][:] for name in DATASETS}


@pytest.mark.parametrize("workers", ["threads", 1, 2, 4])
def test_extraction_killed_at_any_time_resumes_to_the_same_bytes(forked, checkpoint, images, tmp_path, workers):
    arguments = ["extract", "--checkpoint", checkpoint, "--data", images, "--extract-batch", 2]
    arguments += [] if workers == "threads" else ["--workers", workers]
    arguments += ["--layer", "pool", "--layer", "layer2", "--out"]
    assert forked([*arguments, tmp_path / "whole.h5"]) == 0
    started = time.monotonic()  # the first run may have waited until the fork server was ready
    assert forked([*arguments, tmp_path / "timed.h5"]) == 0
    seconds = time.monotonic() - started
    whole, expected = (tmp_path / "whole.h5").read_bytes(), content(tmp_path / "whole.h5")
    assert [row for row, *_ in expected["errors"]] == [7]
    rng, kills, runs = random.Random(workers), 0, 0
    while kills < 5:
        out = tmp_path / f"{runs}.h5"
        # Flags are set after every block, so that each kill leaves a different state.
        sync_always = "import simsiam_eval.features.writer as w; w._SYNC_SECONDS = 0"
        kill, after = rng.uniform(0, seconds), "simsiam_eval.features.writer:FeatureWriter.__init__"
        status = forked([*arguments, out], sync_always, kill, after)
        assert status in (0, 9)
        kills, runs = kills + (status == 9), runs + (status == 0)
    for number in range(runs + 1):
        assert forked([*arguments, tmp_path / f"{number}.h5"]) == 0
        assert (tmp_path / f"{number}.h5").read_bytes() == whole
    assert not list(tmp_path.glob("*.part*"))


def test_written_rows_are_not_recomputed(call, forked, record, checkpoint, images, tmp_path):
    arguments = ["extract", "--checkpoint", checkpoint, "--data", images, "--extract-batch", 4]
    assert forked([*arguments, "--out", tmp_path / "a.h5"], KILL_AFTER_THREE_BLOCKS) == 9
    assert "unfinished" in call("knn", "--train", tmp_path / "a.h5", "--test", tmp_path / "a.h5").stderr
    # The eighth image, in the second block, is known to be unreadable and is not read again.
    assert record(*arguments, "--out", tmp_path / "a.h5")["metrics"]["computed"] == 40 - 12
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["errors"][0]["id"] == b"007.png"


@pytest.mark.parametrize("processes", [2, 4])
def test_torchrun_writes_the_same_bytes(record, checkpoint, images, tmp_path, processes):
    arguments = ["extract", "--checkpoint", str(checkpoint), "--data", str(images), "--extract-batch", "2", "--out"]
    record(*arguments, tmp_path / "single.h5")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    result = subprocess.run([*torchrun, "cli.py", *arguments, str(tmp_path / "multi.h5"), "--json"], cwd=ROOT,
                            capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["provenance"]["processes"] == processes
    assert (tmp_path / "multi.h5").read_bytes() == (tmp_path / "single.h5").read_bytes()


def test_several_layers_are_extracted_in_one_pass(source, tmp_path):
    torch.manual_seed(0)
    trunk = build_trunk("resnet18", "cifar")
    extract(source, tmp_path / "both.h5", ResNetEncoder(trunk, "resnet18", "cifar", ("pool", "layer2")))
    extract(source, tmp_path / "layer2.h5", ResNetEncoder(trunk, "resnet18", "cifar", "layer2"))
    with h5py.File(tmp_path / "both.h5") as both, h5py.File(tmp_path / "layer2.h5") as layer2:
        assert np.array_equal(both["layers/layer2"][:], layer2["features"][:])
        assert both["features"].shape == (10, 512)


def test_flip_average_and_normalize(source, tmp_path):
    extract(source, tmp_path / "a.h5")
    mirrored = ArraySource("noise", source.pixels[:, :, ::-1], source.labels, source.class_names, source.ids)
    extract(mirrored, tmp_path / "mirrored.h5")
    plain, flipped = (read_features(tmp_path / name).features for name in ("a.h5", "mirrored.h5"))
    extract(source, tmp_path / "mean.h5", flip_average=True)
    np.testing.assert_allclose(
        read_features(tmp_path / "mean.h5").features, (plain + flipped) / 2, rtol=1e-4, atol=1e-5
    )
    extract(source, tmp_path / "unit.h5", normalize=True)
    unit = plain / np.linalg.norm(plain, axis=1, keepdims=True)
    np.testing.assert_allclose(read_features(tmp_path / "unit.h5").features, unit, rtol=1e-4, atol=1e-6)


def test_limit_and_rows(record, call, checkpoint, images, tmp_path):
    arguments = ["extract", "--checkpoint", checkpoint, "--data", images, "--extract-batch", 4, "--out"]
    record(*arguments, tmp_path / "all.h5")
    assert record(*arguments, tmp_path / "part.h5", "--rows", "4:10", "--max-unreadable", 0.2)["provenance"]["source"][
        "rows"
    ] == [4, 10]
    assert record(*arguments, tmp_path / "first.h5", "--limit", 3)["metrics"]["rows"] == 3
    with h5py.File(tmp_path / "all.h5") as whole, h5py.File(tmp_path / "part.h5") as part:
        assert np.array_equal(part["ids"][:], whole["ids"][4:10])
        np.testing.assert_allclose(part["features"][:], whole["features"][4:10], rtol=1e-5)
        assert tuple(part["errors"][0])[:2] == (3, b"007.png")
    for options, message in ((["--rows", "9"], "0:1000"), (["--rows", "50:60"], "outside the 40 rows"),
                             (["--rows", "0:4", "--limit", "2"], "cannot be used together")):  # fmt: skip
        result = call(*arguments, tmp_path / "x.h5", *options)
        assert result.exit_code == 2
        assert message in result.stderr


def test_extraction_resumes_after_a_full_disk(call, checkpoint, images, tmp_path, monkeypatch):
    arguments = [
        "extract",
        "--checkpoint",
        checkpoint,
        "--data",
        images,
        "--extract-batch",
        4,
        "--out",
        tmp_path / "a.h5",
    ]
    pwrite, writes = os.pwrite, []

    def write_six_times(*arguments):
        writes.append(arguments)
        if len(writes) > 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", write_six_times)
        result = call(*arguments)
    assert result.exit_code == 1
    assert "No space left on device" in result.stderr and "rerun the command" in result.stderr
    assert call(*arguments).exit_code == 0
    assert read_features(tmp_path / "a.h5").unreadable == 1


def test_unfinished_file_of_a_changed_source_is_rejected(call, forked, checkpoint, images, tmp_path):
    arguments = ["extract", "--checkpoint", checkpoint, "--data", images, "--out", tmp_path / "a.h5"]
    assert forked(arguments, KILL_AT_FIRST_WRITE) == 9
    Image.new("RGB", (16, 16)).save(images / "003.png")
    result = call(*arguments)
    assert result.exit_code == 1
    assert "another extraction" in result.stderr


def test_unreadable_images_are_listed_with_the_reason(record, checkpoint, tmp_path, monkeypatch):
    folder = tmp_path / "images"
    folder.mkdir()
    photo = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(photo, "JPEG")
    (folder / "0-good.jpg").write_bytes(photo.getvalue())
    (folder / "1-truncated.jpg").write_bytes(photo.getvalue()[:900])
    (folder / "2-empty.jpg").write_bytes(b"")
    (folder / "3-text.jpg").write_text("not an image")
    Image.new("RGB", (1, 1)).save(folder / "4-pixel.png")
    Image.new("L", (20_000, 20_000)).save(folder / "5-bomb.png")
    (folder / "6-broken.jpg").symlink_to(folder / "nowhere")
    (folder / "7-gone.jpg").write_bytes(photo.getvalue())
    (folder / "8-circle.jpg").symlink_to(folder / "8-circle.jpg")
    image = PathSource.image

    def delete_and_read(self, row):
        if self.id(row) == "7-gone.jpg":
            (folder / "7-gone.jpg").unlink()
        return image(self, row)

    monkeypatch.setattr(PathSource, "image", delete_and_read)
    result = record("extract", "--checkpoint", checkpoint, "--data", folder, "--out", tmp_path / "a.h5", "--workers", 0,
                    "--max-unreadable", 0.9)  # fmt: skip
    assert result["metrics"]["unreadable"] == 8
    with h5py.File(tmp_path / "a.h5") as file:
        reasons = {name.decode().split(".")[0]: reason.decode() for _, name, reason in file["errors"]}
        assert file["valid"][:].tolist() == [True] + [False] * 8
    assert "truncated" in reasons["1-truncated"]
    assert reasons["4-pixel"] == "a single pixel"
    assert "too many pixels" in reasons["5-bomb"]
    assert reasons["5-bomb"][-1] != "."
    assert "symbolic links" in reasons["8-circle"]
    assert reasons["6-broken"] == reasons["7-gone"] == "no such file"


def test_compiled_features_agree(source, tmp_path):
    try:
        require_compiler(torch.device("cpu"))
    except UsageError as reason:
        pytest.skip(str(reason))
    extract(source, tmp_path / "a.h5", compile="off")
    extract(source, tmp_path / "b.h5", compile="on")
    plain, compiled = (read_features(tmp_path / name).features for name in ("a.h5", "b.h5"))
    np.testing.assert_allclose(compiled, plain, rtol=1e-3, atol=1e-4)


def test_bf16_features_agree(source, tmp_path):
    extract(source, tmp_path / "a.h5")
    extract(source, tmp_path / "b.h5", precision="bf16")
    float32, bf16 = (read_features(tmp_path / name).features for name in ("a.h5", "b.h5"))
    cosine = (float32 * bf16).sum(1) / np.linalg.norm(float32, axis=1) / np.linalg.norm(bf16, axis=1)
    assert cosine.min() > 0.999
    assert not np.array_equal(float32, bf16)


def test_views_depend_on_the_row_and_seed_but_not_on_the_batch(source, tmp_path):
    extract(source, tmp_path / "a.h5", views=3)
    extract(source, tmp_path / "b.h5", views=3, batch=7)
    extract(source, tmp_path / "c.h5", views=3, seed=1)
    with (
        h5py.File(tmp_path / "a.h5") as file,
        h5py.File(tmp_path / "b.h5") as other_batch,
        h5py.File(tmp_path / "c.h5") as other_seed,
    ):
        views = file["views"][:]
        assert views.shape == (10, 3, 512)
        np.testing.assert_allclose(views, other_batch["views"][:], rtol=1e-3, atol=1e-4)
        assert not np.allclose(views, other_seed["views"][:], rtol=1e-2)
        assert np.ptp(views, axis=1).max(axis=1).min() > 0  # the three views of a row differ
        center = file["features"][:]
    extract(source, tmp_path / "d.h5")
    assert np.array_equal(center, read_features(tmp_path / "d.h5").features)


def test_augmented_views_are_distributed_as_those_of_torchvision():
    options = ExtractionOptions(views=400, workers=0)
    encoder = ResNetEncoder(build_trunk("resnet18", "cifar"), "resnet18", "cifar")
    image = np.zeros((40, 60, 3), dtype=np.uint8)
    image[:, :, 0], image[:, :, 1] = np.arange(60), np.arange(40)[:, None]  # a pixel's color is its position
    source = ArraySource("ramp", image[None], np.array([0]), None, ["a"])
    extraction = Extraction(encoder, source, Preprocessing(resize=8, crop=8), options, torch.device("cpu"))
    views = extraction._blocks(extraction.starts)[0].pixels[0, 1:].float()
    torch.manual_seed(0)
    augment = v2.Compose([v2.RandomResizedCrop(8), v2.RandomHorizontalFlip()])
    expected = torch.stack([augment(torch.from_numpy(image).permute(2, 0, 1)) for _ in range(400)]).float()
    for sample in (views, expected):
        flipped = sample[:, 0, 0, 0] > sample[:, 0, 0, -1]
        assert flipped.float().mean() == pytest.approx(0.5, abs=0.1)
    assert views.mean(dim=(0, 2, 3))[:2].tolist() == pytest.approx(expected.mean(dim=(0, 2, 3))[:2].tolist(), rel=0.1)
    assert views.std(dim=0).mean(dim=(1, 2))[:2].tolist() == pytest.approx(
        expected.std(dim=0).mean(dim=(1, 2))[:2].tolist(), rel=0.15
    )


def test_strict_does_not_resume_a_file_with_unreadable_images(call, forked, checkpoint, images, tmp_path):
    arguments = [
        "extract",
        "--checkpoint",
        checkpoint,
        "--data",
        images,
        "--extract-batch",
        4,
        "--out",
        tmp_path / "a.h5",
    ]
    assert forked(arguments, KILL_AFTER_THREE_BLOCKS) == 9
    result = call(*arguments, "--strict")
    assert result.exit_code == 1
    assert "1 image could not be read in an earlier run" in result.stderr
    assert call(*arguments).exit_code == 0


def test_another_batch_size_does_not_resume_a_file(call, forked, checkpoint, images, tmp_path):
    arguments = ["extract", "--checkpoint", checkpoint, "--data", images, "--out", tmp_path / "a.h5"]
    assert forked([*arguments, "--extract-batch", 4], KILL_AT_FIRST_WRITE) == 9
    assert "another extraction" in call(*arguments, "--extract-batch", 5).stderr


@pytest.mark.parametrize("workers", [[], ["--workers", 1]])
def test_missing_folder_stops_the_extraction(call, record, checkpoint, images, tmp_path, monkeypatch, workers):
    folder = Path(shutil.copytree(images, tmp_path / "copy"))
    arguments = ["extract", "--checkpoint", checkpoint, "--data", folder, "--out", tmp_path / "a.h5", *workers]
    image = PathSource.image

    def move_folder_and_read(self, row):
        if row == 20:
            folder.rename(tmp_path / "moved")
        return image(self, row)

    monkeypatch.setattr(PathSource, "image", move_folder_and_read)
    result = call(*arguments)
    assert result.exit_code == 1
    assert "no longer exists; restore it" in result.stderr
    monkeypatch.undo()
    (tmp_path / "moved").rename(folder)
    assert record(*arguments)["metrics"]["unreadable"] == 1


def test_killed_decoding_process_is_reported(call, checkpoint, images, tmp_path, monkeypatch):
    monkeypatch.setattr(PathSource, "image", lambda self, row: os.kill(os.getpid(), signal.SIGKILL))
    result = call("extract", "--checkpoint", checkpoint, "--data", images, "--out", tmp_path / "a.h5", "--workers", 1)
    assert result.exit_code == 1
    assert "A decoding process was killed" in result.stderr


def test_scaled_decoding_gives_the_same_center_crop_with_views(tmp_path):
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    noise.save(tmp_path / "0.jpg")
    encoder = ResNetEncoder(build_trunk("resnet18", "cifar"), "resnet18", "cifar")
    source, crops = PathSource([tmp_path / "0.jpg"]), []
    for views in (0, 2):
        options = ExtractionOptions(views=views, workers=0)
        preprocessing = Preprocessing(resize=8, crop=8, decode="scaled")
        extraction = Extraction(encoder, source, preprocessing, options, torch.device("cpu"))
        crops.append(extraction._blocks(extraction.starts)[0].pixels[0, 0])
    assert torch.equal(*crops)


def test_assumptions_are_noted_once(call, tmp_path):
    torch.save(build_trunk("resnet18", "cifar").state_dict(), tmp_path / "bare.pth")
    for name, times in (("a.h5", 1), ("b.h5", 0)):
        result = call("extract", "--checkpoint", tmp_path / "bare.pth", "--data", "digits#test", "--limit", 2,
                      "--out", tmp_path / name, "--json")  # fmt: skip
        assert result.exit_code == 0
        assert result.stderr.count("Assumed images normalized by ImageNet's") == times
        assert result.stdout.count("Assumed images normalized by ImageNet's") == 1  # in the record
