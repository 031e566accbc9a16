"""`detect` as a whole, with torchvision's detectors on drawn shapes."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from simsiam_eval.errors import DataError, UsageError
from tasks.detection.detect import detect
from tasks.detection.settings import DetectSettings

ROOT = Path(__file__).parent.parent.parent.parent
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
RUN = "random-torchvision-seed0"


@pytest.fixture
def tiny(few_voc, tmp_path):
    """Settings of a run of a few steps at 64 px with VOC's metric."""
    return {
        "train": (str(few_voc),), "test": str(few_voc), "out": tmp_path / "run", "backend": "torchvision",
        "init": ("random",), "arch": "resnet18", "metric": "voc", "batch_size": 2, "iterations": 5, "min_sizes": (64,),
        "test_size": 64, "max_size": 64, "proposals": 20, "rois": 8, "precise_bn": 2, "workers": 0,
    }  # fmt: skip


def options(settings):
    """Settings as options of the command line."""
    words = []
    for name, value in settings.items():
        for item in value if isinstance(value, tuple) else (value,):
            words += [f"--{name.replace('_', '-')}", str(item)]
    return words


def start(settings, launcher=()):
    command = [sys.executable, *launcher, "cli.py", "detect", *options(settings)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1" if launcher else "2", "OMP_WAIT_POLICY": "PASSIVE"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def logged_steps(folder):
    log = folder / "log.jsonl"
    return [json.loads(line)["step"] for line in log.read_text().splitlines()] if log.exists() else []


def test_learns_shapes_despite_a_stop_and_a_kill(shapes_voc, tmp_path):
    """140 steps of ResNet-18-FPN from random weights; SIGTERM in the first third, SIGKILL in the second."""
    out = tmp_path / "run"
    settings = {
        "train": (str(shapes_voc),), "test": str(shapes_voc), "out": out, "backend": "torchvision", "init": ("random",),
        "arch": "resnet18", "batch_size": 2, "iterations": 140, "lr": 0.01, "min_sizes": (96,), "test_size": 96,
        "max_size": 96, "checkpoint_every": 28, "workers": 0,
    }  # fmt: skip
    untrained = detect(DetectSettings(**settings | {"out": tmp_path / "none", "iterations": 1, "lr": 1e-9}))
    assert untrained.metrics["ap50"] < 0.05
    for number, step, status in ((signal.SIGTERM, 20, 143), (signal.SIGKILL, 70, -9)):
        run = start(settings)
        while max(logged_steps(out / RUN), default=0) < step:
            assert run.poll() is None, run.communicate()
            time.sleep(0.1)
        run.send_signal(number)
        _, stderr = run.communicate(timeout=120)
        assert run.returncode == status, stderr
        assert "Traceback" not in stderr
    run = start(settings)
    stdout, stderr = run.communicate(timeout=600)
    assert run.returncode == 0, stderr
    assert "resuming after step" in stderr
    assert logged_steps(out / RUN) == sorted(set(logged_steps(out / RUN)))
    record = json.loads((out / "result.json").read_text())
    assert record["metrics"]["ap50"] > 0.5, stdout
    assert record["provenance"]["backend"] == "torchvision"
    assert any("smooth L1" in difference for difference in record["provenance"]["differences"])
    assert "not the protocol's result" in record["provenance"]["notes"][0]
    assert (out / RUN / "picture.png").stat().st_size > 10_000
    entries = json.loads((out / RUN / "detections.json").read_text())
    assert set(entries[0]) == {"image_id", "category_id", "category", "bbox", "score"}


def test_bf16(tiny):
    assert detect(DetectSettings(**tiny | {"precision": "bf16", "iterations": 2})).metrics["images"] == 4


def test_masks_with_both_heads(tiny, few_coco):
    tiny |= {"train": (str(few_coco),), "test": str(few_coco), "metric": "coco", "masks": True, "iterations": 1}
    for heads in ("c4", "fpn"):
        result = detect(DetectSettings(**tiny | {"heads": heads, "out": tiny["out"] / heads}))
        assert 0 <= result.metrics["mask_ap50"] <= 1
        assert "mask AP50" in result.table.columns


def test_masks_of_run_lengths_and_areas_below_zero(tiny, odd_coco):
    tiny |= {"train": (str(odd_coco),), "test": str(odd_coco), "metric": "coco", "masks": True, "heads": "fpn"}
    result = detect(DetectSettings(**tiny | {"iterations": 1}))
    assert 0 <= result.metrics["mask_ap50"] <= 1
    assert any(issue.startswith("area below 0") for issue in result.provenance["test"]["issues"])


def test_trials_of_several_initializations_and_the_papers_rows(tiny, checkpoint):
    small = dict(tiny, preset="voc07", heads="fpn", checkpoint=checkpoint, trials=2, iterations=1, min_sizes=(32,),
                 test_size=32)  # fmt: skip
    result = detect(DetectSettings(**small))
    ours, paper = ("torchvision", "resnet18-fpn", "2"), ("detectron2", "resnet50-c4", "5")
    assert [tuple(row[:4]) for row in result.table.rows] == [
        ("encoder", *ours), ("random", *ours), ("paper: supervised", *paper), ("paper: SimSiam, base recipe", *paper),
        ("paper: SimSiam, lr .5, wd 1e-5", *paper),
    ]  # fmt: skip
    changed = "heads, metric, batch_size, min_sizes, test_size, max_size, iterations, rois, precise_bn, proposals"
    assert result.protocol == f"voc07, changed: {changed}, reduced for CPU"
    assert result.protocol in result.table.title
    assert any(note.startswith("The other rows do not follow the full protocol") for note in result.table.notes)
    assert result.metrics["init"] == "encoder"
    assert len(result.metrics["by_init"]["encoder"]["ap"]["values"]) == 2
    assert result.metrics["by_init"]["random"]["ap"]["std"] >= 0
    assert {run["seed"] for run in result.metrics["runs"]} == {0, 1}
    assert result.provenance["encoders"]["encoder"]["stem"] == "cifar"
    assert result.provenance["versions"]["pycocotools"]
    assert result.provenance["random"] == {"arch": "resnet18", "stem": "cifar"}
    checkpoints = sorted(tiny["out"].glob("*/checkpoint_last.pth"))
    assert len(checkpoints) == 4
    for path in checkpoints:
        path.unlink()
    assert detect(DetectSettings(**small)).metrics["by_init"] == result.metrics["by_init"]
    assert not any(path.exists() for path in checkpoints)  # completed runs are not repeated


def test_two_processes(tiny):
    run = start(tiny, TORCHRUN)
    _, stderr = run.communicate(timeout=300)
    assert run.returncode == 0, stderr
    assert "5 iterations, batch 2 (1 on each of 2 processes)" in stderr
    assert json.loads((tiny["out"] / "result.json").read_text())["provenance"]["processes"] == 2


def test_num_gpus_starts_processes(tiny):
    """Stopped by a signal, resumed by a single process."""
    tiny |= {"iterations": 12, "checkpoint_every": 1}
    run = start(tiny | {"num_gpus": 2})
    while not (tiny["out"] / RUN / "checkpoint_last.pth").exists():
        assert run.poll() is None, run.communicate()
        time.sleep(0.1)
    run.send_signal(signal.SIGTERM)
    _, stderr = run.communicate(timeout=120)
    assert run.returncode == 143, stderr
    assert stderr.splitlines()[-1].count("Run the same command to resume from") == 1 and "torchrun" not in stderr
    assert "(1 on each of 2 processes)" in stderr
    assert detect(DetectSettings(**tiny)).metrics["images"] == 4


CORRUPT = r"after step \d of 5: the image .*trainval005.jpg cannot be read .*\. Fix this and run the same command"


def test_corrupt_image_with_num_gpus(tiny, shapes, tmp_path):
    folder = shapes.write_voc(tmp_path / "set", {"trainval": 8, "test": 2})
    tiny |= {"train": (str(folder),), "test": str(folder)}
    image = folder / "JPEGImages" / "trainval005.jpg"
    content = shapes.truncate(image)
    run = start(tiny | {"num_gpus": 2})
    _, stderr = run.communicate()
    assert run.returncode == 1
    assert len(re.findall(CORRUPT, stderr)) == 1 and "Traceback" not in stderr, stderr
    image.write_bytes(content)
    assert detect(DetectSettings(**tiny)).metrics["images"] == 2


def test_corrupt_image_during_training_and_evaluation(tiny, shapes, tmp_path):
    folder = shapes.write_voc(tmp_path / "set", {"trainval": 8, "test": 2})
    tiny |= {"train": (str(folder),), "test": str(folder)}
    image = folder / "JPEGImages" / "trainval005.jpg"
    content = shapes.truncate(image)
    with pytest.raises(DataError, match=CORRUPT):
        detect(DetectSettings(**tiny))
    image.write_bytes(content)
    assert detect(DetectSettings(**tiny)).metrics["images"] == 2
    shapes.truncate(folder / "JPEGImages" / "test000.jpg")
    with pytest.raises(DataError, match=r"evaluation cannot be completed: the image .*test000.jpg"):
        detect(DetectSettings(**tiny | {"out": tmp_path / "again"}))


@pytest.mark.parametrize("split", ["trainval", "test"])
def test_unusable_images_are_rejected_before_training(tiny, shapes, tmp_path, split):
    folder = shapes.write_voc(tmp_path / "set", {"trainval": 3, "test": 3})
    tiny |= {"train": (str(folder),), "test": str(folder)}
    file = folder / "Annotations" / f"{split}001.xml"
    file.write_text(file.read_text().replace("<width>160", "<width>200"))
    with pytest.raises(DataError, match=rf"{split}001.jpg is 160x160, but its annotations are for 200x160\. Fix this"):
        detect(DetectSettings(**tiny))
    assert not tiny["out"].exists()


def test_other_runs_are_not_resumed(tiny, few_voc, tmp_path):
    detect(DetectSettings(**tiny | {"iterations": 1}))
    with pytest.raises(DataError, match="a run with --iterations 1, not 5"):
        detect(DetectSettings(**tiny))
    tiny["iterations"] = 1
    with pytest.raises(DataError, match="already contains a run"):
        detect(DetectSettings(**tiny, resume="never"))
    with pytest.raises(DataError, match="from another encoder"):
        detect(DetectSettings(**tiny | {"arch": "resnet34"}))
    with pytest.raises(DataError, match="--train"):
        detect(DetectSettings(**tiny | {"train": (f"{few_voc}#test",)}))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"init": None}, "An encoder is required; give --checkpoint or --init random"),
        ({"masks": True}, "--masks requires --metric coco"),
        ({"max_size": 32}, "--max-size must be at least the short side"),
        ({"train": ()}, "--train"),
        ({"steps": (4, 2)}, "--steps must be in increasing order, got 4 2"),
        ({"steps": (2, 2)}, "--steps must be in increasing order, got 2 2"),
        ({"classes": ("disc", "disc")}, "--classes disc is given twice"),
        ({"num_gpus": 3}, "--batch-size must be a multiple of the 3 processes, got 2"),
    ],
)
def test_contradictory_settings_are_rejected(tiny, changed, message):
    with pytest.raises(UsageError, match=message):
        DetectSettings(**tiny | changed)


def test_mistakes_are_one_sentence(call, few_voc, tmp_path):
    words = ["detect", "--train", tmp_path / "none", "--test", few_voc, "--init", "random", "--out", tmp_path / "o"]
    result = call(*words)
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "does not exist" in result.stderr
    assert call(*words[:5], "--out", tmp_path / "o").exit_code == 2
