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

from simsiam_eval.encoders.encoder import Encoder, build_trunk
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
    work = Extraction(encoder, source, preprocessing, options, device)
    return write_extraction(work, attributes, out, Processes(device))


def test_features_are_the_encoders_of_each_image_in_order(source, tmp_path):
    assert extract(source, tmp_path / "a.h5") == (10, 0)
    found = read_features(tmp_path / "a.h5")
    torch.manual_seed(0)
    encoder = Encoder(build_trunk("resnet18", "cifar"), "resnet18", "cifar").eval()
    preprocessing = Preprocessing(resize=8, crop=8)
    for row in range(10):
        one = preprocessing.normalize(preprocessing.pixels(source.image(row))[None])
        with torch.inference_mode():
            np.testing.assert_allclose(found.features[row], encoder(one)[0].numpy(), rtol=1e-4, atol=1e-5)
    assert found.ids.tolist() == source.ids
    assert found.labels.tolist() == source.labels.tolist()


def test_the_number_of_workers_changes_nothing(record, checkpoint, images, tmp_path):
    content = []
    for workers in ([], ["--workers", 0], ["--workers", 2]):  # in the first every core makes blocks of its own
        out = tmp_path / f"{len(content)}.h5"
        record("extract", "--checkpoint", checkpoint, "--data", images, "--extract-batch", 4, "--out", out, *workers)
        with h5py.File(out) as file:
            content.append([file[name][:] for name in ("features", "labels", "ids", "valid")])
    assert content[0][3].sum() == 39
    assert all(np.array_equal(*pair) for other in content[1:] for pair in zip(content[0], other, strict=True))


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_the_number_of_cores_changes_nothing(source, tmp_path, precision):
    before, found = torch.get_num_threads(), []
    for cores in (1, 4):
        for workers in (None, 0):
            torch.set_num_threads(cores)
            out = tmp_path / f"{cores}-{workers}.h5"
            extract(source, out, precision=precision, views=2, flip_average=True, batch=2, workers=workers)
            found.append(read_features(out, ["views"]))
    torch.set_num_threads(before)
    assert all(np.array_equal(one.features, found[0].features) for one in found)
    assert all(np.array_equal(one.columns["views"], found[0].columns["views"]) for one in found)


def test_strict_names_the_first_unreadable_image(call, checkpoint, images, tmp_path):
    arguments = ["--checkpoint", checkpoint, "--data", images, "--out", tmp_path / "a.h5"]
    refused = call("extract", *arguments, "--strict")
    assert refused.exit_code == 1
    assert "007.png (row 7)" in refused.stderr
    done = call("extract", *arguments, "--json")
    assert done.exit_code == 0
    assert "without 1 images" in call("extract", *arguments, "--strict").stderr
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


DATA = ("features", "labels", "ids", "valid", "layers/layer2", "errors")


def content(path):
    with h5py.File(path) as file:
        return {name: file[name][:] for name in DATA}


@pytest.mark.parametrize("workers", ["threads", 1, 2, 4])
def test_killed_at_any_instant_it_goes_on_to_the_same_bytes(forked, checkpoint, images, tmp_path, workers):
    arguments = ["extract", "--checkpoint", checkpoint, "--data", images, "--extract-batch", 2]
    arguments += [] if workers == "threads" else ["--workers", workers]
    arguments += ["--layer", "pool", "--layer", "layer2", "--out"]
    assert forked([*arguments, tmp_path / "whole.h5"]) == 0
    started = time.monotonic()  # of the second run: the first may have waited for the server's start
    assert forked([*arguments, tmp_path / "again.h5"]) == 0
    seconds = time.monotonic() - started
    whole, expected = (tmp_path / "whole.h5").read_bytes(), content(tmp_path / "whole.h5")
    assert [row for row, *_ in expected["errors"]] == [7]
    rng, kills, runs = random.Random(workers), 0, 0
    while kills < 5:
        out = tmp_path / f"{runs}.h5"
        # Flags are set after every block, so that each kill finds another state.
        always = "import simsiam_eval.features.writer as w; w._SYNC_SECONDS = 0"
        kill, after = rng.uniform(0, seconds), "simsiam_eval.features.writer:FeatureWriter.__init__"
        status = forked([*arguments, out], always, kill, after)
        assert status in (0, 9)
        kills, runs = kills + (status == 9), runs + (status == 0)
    for number in range(runs + 1):
        assert forked([*arguments, tmp_path / f"{number}.h5"]) == 0
        assert (tmp_path / f"{number}.h5").read_bytes() == whole
    assert not list(tmp_path.glob("*.part*"))


def test_rows_that_are_there_are_not_computed_again(call, forked, record, checkpoint, images, tmp_path):
    arguments = ["extract", "--checkpoint", checkpoint, "--data", images, "--extract-batch", 4]
    third = (
        "from simsiam_eval.features.writer import FeatureWriter\n"
        "write, blocks = FeatureWriter.write, []\n"
        "def killed(self, *rows):\n"
        "    write(self, *rows); self.sync(); blocks.append(1)\n"
        "    if len(blocks) == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "FeatureWriter.write = killed\n"
    )
    assert forked([*arguments, "--out", tmp_path / "a.h5"], third) == 9
    assert "unfinished" in call("knn", "--train", tmp_path / "a.h5", "--test", tmp_path / "a.h5").stderr
    # The eighth image, in the second block, is known to be unreadable and not read again.
    assert record(*arguments, "--out", tmp_path / "a.h5")["metrics"]["computed"] == 40 - 12
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["errors"][0]["id"] == b"007.png"


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_of_torchrun_write_the_same_bytes(record, checkpoint, images, tmp_path, processes):
    arguments = ["extract", "--checkpoint", str(checkpoint), "--data", str(images), "--extract-batch", "2", "--out"]
    record(*arguments, tmp_path / "one.h5")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    done = subprocess.run([*torchrun, "cli.py", *arguments, str(tmp_path / "all.h5"), "--json"], cwd=ROOT,
                          capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["provenance"]["processes"] == processes
    assert (tmp_path / "all.h5").read_bytes() == (tmp_path / "one.h5").read_bytes()


def test_several_layers_come_from_one_pass(source, tmp_path):
    torch.manual_seed(0)
    trunk = build_trunk("resnet18", "cifar")
    extract(source, tmp_path / "both.h5", Encoder(trunk, "resnet18", "cifar", ("pool", "layer2")))
    extract(source, tmp_path / "one.h5", Encoder(trunk, "resnet18", "cifar", "layer2"))
    with h5py.File(tmp_path / "both.h5") as both, h5py.File(tmp_path / "one.h5") as one:
        assert np.array_equal(both["layers/layer2"][:], one["features"][:])
        assert both["features"].shape == (10, 512)


def test_flip_average_and_normalize(source, tmp_path):
    extract(source, tmp_path / "a.h5")
    mirrored = ArraySource("noise", source.pixels[:, :, ::-1], source.labels, source.class_names, source.ids)
    extract(mirrored, tmp_path / "mirrored.h5")
    plain, other = (read_features(tmp_path / name).features for name in ("a.h5", "mirrored.h5"))
    extract(source, tmp_path / "mean.h5", flip_average=True)
    np.testing.assert_allclose(read_features(tmp_path / "mean.h5").features, (plain + other) / 2, rtol=1e-4, atol=1e-5)
    extract(source, tmp_path / "unit.h5", normalize=True)
    unit = plain / np.linalg.norm(plain, axis=1, keepdims=True)
    np.testing.assert_allclose(read_features(tmp_path / "unit.h5").features, unit, rtol=1e-4, atol=1e-6)


def test_limit_and_rows(record, call, checkpoint, images, tmp_path):
    arguments = ["extract", "--checkpoint", checkpoint, "--data", images, "--extract-batch", 4, "--out"]
    record(*arguments, tmp_path / "all.h5")
    assert record(*arguments, tmp_path / "part.h5", "--rows", "4:10")["provenance"]["source"]["rows"] == [4, 10]
    assert record(*arguments, tmp_path / "first.h5", "--limit", 3)["metrics"]["rows"] == 3
    with h5py.File(tmp_path / "all.h5") as whole, h5py.File(tmp_path / "part.h5") as part:
        assert np.array_equal(part["ids"][:], whole["ids"][4:10])
        np.testing.assert_allclose(part["features"][:], whole["features"][4:10], rtol=1e-5)
        assert tuple(part["errors"][0])[:2] == (3, b"007.png")
    for wrong, says in ((["--rows", "9"], "0:1000"), (["--rows", "50:60"], "not among the 40"),
                        (["--rows", "0:4", "--limit", "2"], "not both")):  # fmt: skip
        refused = call(*arguments, tmp_path / "x.h5", *wrong)
        assert (refused.exit_code, says in refused.stderr) == (2, True), refused.stderr


def test_a_disk_that_fills_up(call, checkpoint, images, tmp_path, monkeypatch):
    of = ["extract", "--checkpoint", checkpoint, "--data", images]
    arguments = [*of, "--extract-batch", 4, "--out", tmp_path / "a.h5"]
    real, left = os.pwrite, [6]

    def full(*written):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*written)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        stopped = call(*arguments)
    assert stopped.exit_code == 1
    assert "No space left on device" in stopped.stderr and "rerun the command" in stopped.stderr
    assert call(*arguments).exit_code == 0
    assert read_features(tmp_path / "a.h5").unreadable == 1


def test_a_source_that_changed_since_the_start_is_rejected(call, forked, checkpoint, images, tmp_path):
    arguments = ["extract", "--checkpoint", checkpoint, "--data", images, "--out", tmp_path / "a.h5"]
    died = "from simsiam_eval.features.writer import FeatureWriter as w\nw.write = lambda *_: os.kill(os.getpid(), 9)"
    assert forked(arguments, died) == 9
    Image.new("RGB", (16, 16)).save(images / "003.png")
    refused = call(*arguments)
    assert refused.exit_code == 1
    assert "another extraction" in refused.stderr


def test_images_that_cannot_be_read_are_named_with_the_reason(record, checkpoint, tmp_path, monkeypatch):
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

    def vanishing(self, row, *more):
        if self.id(row) == "7-gone.jpg":
            (folder / "7-gone.jpg").unlink()
        return image(self, row, *more)

    monkeypatch.setattr(PathSource, "image", vanishing)
    made = record("extract", "--checkpoint", checkpoint, "--data", folder, "--out", tmp_path / "a.h5", "--workers", 0)
    assert made["metrics"]["unreadable"] == 8
    with h5py.File(tmp_path / "a.h5") as file:
        reasons = {name.decode().split(".")[0]: reason.decode() for _, name, reason in file["errors"]}
        assert file["valid"][:].tolist() == [True] + [False] * 8
    assert "truncated" in reasons["1-truncated"]
    assert reasons["4-pixel"] == "a single pixel"
    assert "too many pixels" in reasons["5-bomb"]
    assert "symbolic links" in reasons["8-circle"]
    assert reasons["6-broken"] == reasons["7-gone"] == "no such file"


def test_compiled_features_agree(source, tmp_path):
    try:
        require_compiler(torch.device("cpu"))
    except UsageError as reason:
        pytest.skip(str(reason))
    extract(source, tmp_path / "a.h5", compile="off")
    extract(source, tmp_path / "b.h5", compile="on")
    one, two = (read_features(tmp_path / name).features for name in ("a.h5", "b.h5"))
    np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-4)


def test_bf16_features_agree(source, tmp_path):
    extract(source, tmp_path / "a.h5")
    extract(source, tmp_path / "b.h5", precision="bf16")
    one, two = (read_features(tmp_path / name).features for name in ("a.h5", "b.h5"))
    cosine = (one * two).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(two, axis=1)
    assert cosine.min() > 0.999
    assert not np.array_equal(one, two)


def test_views_are_random_crops_of_each_row_whatever_block_it_is_in(source, tmp_path):
    extract(source, tmp_path / "a.h5", views=3)
    extract(source, tmp_path / "b.h5", views=3, batch=7)
    extract(source, tmp_path / "c.h5", views=3, seed=1)
    with (
        h5py.File(tmp_path / "a.h5") as file,
        h5py.File(tmp_path / "b.h5") as other,
        h5py.File(tmp_path / "c.h5") as third,
    ):
        views = file["views"][:]
        assert views.shape == (10, 3, 512)
        np.testing.assert_allclose(views, other["views"][:], rtol=1e-3, atol=1e-4)
        assert not np.allclose(views, third["views"][:], rtol=1e-2)
        assert np.ptp(views, axis=1).max(axis=1).min() > 0  # no row has the same view three times
        center = file["features"][:]
    extract(source, tmp_path / "d.h5")
    assert np.array_equal(center, read_features(tmp_path / "d.h5").features)


def test_augmented_views_are_torchvisions_random_resized_crops(source):
    options = ExtractionOptions(views=400, workers=0)
    encoder = Encoder(build_trunk("resnet18", "cifar"), "resnet18", "cifar")
    image = np.zeros((40, 60, 3), dtype=np.uint8)
    image[:, :, 0], image[:, :, 1] = np.arange(60), np.arange(40)[:, None]  # a pixel says where it was
    one = ArraySource("ramp", image[None], np.array([0]), None, ["a"])
    work = Extraction(encoder, one, Preprocessing(resize=8, crop=8), options, torch.device("cpu"))
    ours = work._blocks(work.starts)[0].pixels[0, 1:].float()
    torch.manual_seed(0)
    theirs = v2.Compose([v2.RandomResizedCrop(8), v2.RandomHorizontalFlip()])
    expected = torch.stack([theirs(torch.from_numpy(image).permute(2, 0, 1)) for _ in range(400)]).float()
    for found in (ours, expected):
        assert (found[:, 0, 0, 0] > found[:, 0, 0, -1]).float().mean() == pytest.approx(0.5, abs=0.1)  # mirrored
    assert ours.mean(dim=(0, 2, 3))[:2].tolist() == pytest.approx(expected.mean(dim=(0, 2, 3))[:2].tolist(), rel=0.1)
    assert ours.std(dim=0).mean(dim=(1, 2))[:2].tolist() == pytest.approx(
        expected.std(dim=0).mean(dim=(1, 2))[:2].tolist(), rel=0.15
    )


def test_strict_does_not_finish_what_was_begun_without_it(call, forked, checkpoint, images, tmp_path):
    of = ["extract", "--checkpoint", checkpoint, "--data", images]
    arguments = [*of, "--extract-batch", 4, "--out", tmp_path / "a.h5"]
    third = (
        "from simsiam_eval.features.writer import FeatureWriter\n"
        "write, blocks = FeatureWriter.write, []\n"
        "def killed(self, *rows):\n"
        "    write(self, *rows); self.sync(); blocks.append(1)\n"
        "    if len(blocks) == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "FeatureWriter.write = killed\n"
    )
    assert forked(arguments, third) == 9
    refused = call(*arguments, "--strict")
    assert (refused.exit_code, "1 images could not be read in an earlier run" in refused.stderr) == (1, True), (
        refused.output
    )
    assert call(*arguments).exit_code == 0


def test_another_batch_does_not_go_on_with_a_file(call, forked, checkpoint, images, tmp_path):
    arguments = ["extract", "--checkpoint", checkpoint, "--data", images, "--out", tmp_path / "a.h5"]
    died = "from simsiam_eval.features.writer import FeatureWriter as w\nw.write = lambda *_: os.kill(os.getpid(), 9)"
    assert forked([*arguments, "--extract-batch", 4], died) == 9
    assert "another extraction" in call(*arguments, "--extract-batch", 5).stderr


@pytest.mark.parametrize("workers", [[], ["--workers", 1]])
def test_a_folder_that_is_gone_is_no_images_fault(call, record, checkpoint, images, tmp_path, monkeypatch, workers):
    folder = Path(shutil.copytree(images, tmp_path / "copy"))
    arguments = ["extract", "--checkpoint", checkpoint, "--data", folder, "--out", tmp_path / "a.h5", *workers]
    real = PathSource.image

    def away(self, row):
        if row == 20:
            folder.rename(tmp_path / "away")
        return real(self, row)

    monkeypatch.setattr(PathSource, "image", away)
    gone = call(*arguments)
    assert (gone.exit_code, "no longer exists; restore it" in gone.stderr) == (1, True), gone.output
    monkeypatch.undo()
    (tmp_path / "away").rename(folder)
    assert record(*arguments)["metrics"]["unreadable"] == 1


def test_a_killed_decoding_process_is_one_sentence(call, checkpoint, images, tmp_path, monkeypatch):
    monkeypatch.setattr(PathSource, "image", lambda self, row: os.kill(os.getpid(), signal.SIGKILL))
    died = call("extract", "--checkpoint", checkpoint, "--data", images, "--out", tmp_path / "a.h5", "--workers", 1)
    assert (died.exit_code, "fewer --workers" in died.stderr) == (1, True), died.output


def test_a_scaled_decoding_is_the_center_crops_with_views_too(tmp_path):
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    noise.save(tmp_path / "0.jpg")
    encoder = Encoder(build_trunk("resnet18", "cifar"), "resnet18", "cifar")
    one, crops = PathSource([tmp_path / "0.jpg"]), []
    for views in (0, 2):
        options = ExtractionOptions(views=views, workers=0)
        preprocessing = Preprocessing(resize=8, crop=8, decode="scaled")
        work = Extraction(encoder, one, preprocessing, options, torch.device("cpu"))
        crops.append(work._blocks(work.starts)[0].pixels[0, 0])
    assert torch.equal(*crops)
