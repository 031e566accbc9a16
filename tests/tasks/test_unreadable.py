"""Too many unreadable images end a command with exit status 1, after its outputs are written. The same of extract, knn,
retrieval build and pretrain: benchmarks/input_cases/failures.py."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """20 images of two classes: `one` has 1 unreadable image, `some` 4, `none` has no readable one."""
    rng = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("images")
    for name, count in {"one": 1, "some": 4, "none": 20}.items():
        for number in range(20):
            path = root / name / ("cat" if number % 2 else "dog") / f"{number:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8)).save(path)
            if number < count:
                path.write_bytes(b"not an image")
    return root


@pytest.fixture
def arguments(pipeline, checkpoint, record, images, tmp_path):
    """arguments(command, source) -> a command that reads the images, and the files that it writes."""

    def of(command, source):
        checkpoint_of = ("--checkpoint", checkpoint)
        if command == "extract":
            return ("extract", *checkpoint_of, "--data", source, "--out", tmp_path / "a.h5"), ["a.h5"]
        if command == "linear-eval":
            sets = ("--train", source, "--test", source, "--preset", "small", "--save-head", tmp_path / "a.safetensors")
            return ("linear-eval", *checkpoint_of, *sets), ["a.safetensors"]
        if command == "retrieval eval":
            return ("retrieval", "eval", *checkpoint_of, "--gallery", source), []
        if command == "retrieval search":
            sets = ("--gallery", pipeline / "train.h5", "--table", tmp_path / "a.csv")
            return ("retrieval", "search", source, *checkpoint_of, *sets), ["a.csv"]
        head = tmp_path / "head.safetensors"
        sets = ("--train", pipeline / "train.h5", "--test", pipeline / "test.h5", "--preset", "small")
        record("linear-eval", *sets, "--epochs", 1, "--save-head", head)
        return ("predict", *checkpoint_of, "--head", head, "--data", source, "--out", tmp_path / "a.csv"), ["a.csv"]

    return of


COMMANDS = ["linear-eval", "retrieval eval", "retrieval search", "predict"]


@pytest.mark.parametrize("command", COMMANDS)
def test_exit_status_and_outputs(command, arguments, call, images, tmp_path):
    for source, more, status in (("some", (), 1), ("some", ("--max-unreadable", 0.2), 0), ("one", (), 0)):
        for entry in tmp_path.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        command_line, outputs = arguments(command, images / source)
        result = call(*command_line, *more, "--json")
        assert result.exit_code == status, result.stderr
        record = json.loads(result.stdout)
        assert record["settings"]["max_unreadable"] == (more[1] if more else 0.1)
        assert len(record["faults"]) == status
        fault = f"4 of 20 images of {images}/some could not be read, which is more than --max-unreadable 0.1"
        assert (fault in result.stderr) == bool(status)
        assert all((tmp_path / name).exists() for name in outputs)


@pytest.mark.parametrize("command", COMMANDS)
def test_no_readable_image_fails_at_any_share(command, arguments, call, images):
    result = call(*arguments(command, images / "none")[0], "--max-unreadable", 1)
    assert result.exit_code == 1
    assert "Error: No" in result.stderr
    assert "Traceback" not in result.stderr


def test_rerun_of_extract_fails_as_before_and_repaired_images_are_noticed(arguments, call, images, tmp_path):
    folder = shutil.copytree(images / "some", tmp_path / "copy")
    command_line, _ = arguments("extract", folder)
    for _ in range(2):
        result = call(*command_line)
        assert result.exit_code == 1
        assert "more than --max-unreadable 0.1: repair or remove them" in result.stderr
    for path in folder.rglob("0[0-3].png"):
        shutil.copy(folder / "cat" / "19.png", path)
    result = call(*command_line)
    assert result.exit_code == 1
    assert "remove it if its 4 images that could not be read were repaired" in result.stderr
    (tmp_path / "a.h5").unlink()
    assert call(*command_line).exit_code == 0


def test_feature_files_count_too(arguments, call, images, tmp_path):
    assert call(*arguments("extract", images / "some")[0]).exit_code == 1
    features = tmp_path / "a.h5"
    assert call("knn", "--train", features, "--test", features, "-k", 2).exit_code == 1
    assert call("knn", "--train", features, "--test", features, "-k", 2, "--max-unreadable", 0.5).exit_code == 0
