"""Training by detectron2: stopped and killed runs, failures and the record. Skipped where detectron2 is missing."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from simsiam_eval.errors import DataError, Stopped
from tasks.detection.backends.base import RunContext
from tasks.detection.detect import detect
from tasks.detection.settings import DetectSettings

pytestmark = pytest.mark.detectron2
ROOT = Path(__file__).parent.parent.parent.parent.parent.parent
RUN = "random-detectron2-seed0"
CORRUPT = r"after step \d of 5: the image .*trainval005.jpg cannot be read .*\. Fix this and run the same command"


@pytest.fixture
def tiny(few_voc, tmp_path):
    """Settings of a run of a few steps at 96 px with VOC's metric."""
    return {
        "train": (str(few_voc),), "test": str(few_voc), "out": tmp_path / "run", "backend": "detectron2",
        "init": ("random",), "arch": "resnet18", "metric": "voc", "batch_size": 2, "iterations": 5, "min_sizes": (96,),
        "test_size": 96, "max_size": 96, "proposals": 20, "rois": 8, "precise_bn": 2, "workers": 0,
    }  # fmt: skip


def start(settings):
    words = []
    for name, value in settings.items():
        for item in value if isinstance(value, tuple) else (value,):
            words += [f"--{name.replace('_', '-')}", str(item)]
    return subprocess.Popen(
        [sys.executable, "cli.py", "detect", *words, "--json"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def logged_steps(folder):
    log = folder / "metrics.json"
    lines = log.read_text().splitlines() if log.exists() else []
    return [json.loads(line)["iteration"] for line in lines if "iteration" in line]


def test_learns_shapes_despite_a_stop_and_a_kill(shapes_voc, tmp_path):
    out = tmp_path / "run"
    settings = {
        "train": (str(shapes_voc),), "test": str(shapes_voc), "out": out, "backend": "detectron2", "init": ("random",),
        "arch": "resnet18", "batch_size": 2, "iterations": 200, "lr": 0.01, "min_sizes": (160,), "test_size": 160,
        "max_size": 160, "checkpoint_every": 40, "workers": 0,
    }  # fmt: skip
    for number, step, status in ((signal.SIGTERM, 19, 143), (signal.SIGKILL, 99, -9)):
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
    record = json.loads(stdout)
    assert record["metrics"]["ap50"] > 0.5
    assert record["provenance"]["backend"] == "detectron2"
    assert record["provenance"]["differences"] == []
    assert (out / RUN / "picture.png").stat().st_size > 10_000


@pytest.mark.parametrize("heads", ["c4", "fpn"])
def test_masks_with_both_heads(tiny, few_coco, heads):
    tiny |= {"train": (str(few_coco),), "test": str(few_coco), "metric": "coco", "masks": True, "heads": heads}
    assert 0 <= detect(DetectSettings(**tiny | {"iterations": 1})).metrics["mask_ap50"] <= 1


def test_masks_of_run_lengths_and_areas_below_zero(tiny, odd_coco):
    tiny |= {"train": (str(odd_coco),), "test": str(odd_coco), "metric": "coco", "masks": True}
    assert 0 <= detect(DetectSettings(**tiny | {"iterations": 1})).metrics["mask_ap50"] <= 1


def test_config_and_versions_are_recorded(tiny, few_coco):
    import detectron2
    from detectron2.config import get_cfg

    tiny |= {"train": (str(few_coco),), "test": str(few_coco), "metric": "coco", "masks": True, "seed": 3}
    result = detect(DetectSettings(**tiny | {"iterations": 1, "checkpoint_every": 7}))
    folder = tiny["out"] / "random-detectron2-seed3"
    cfg = get_cfg()
    cfg.merge_from_file(str(folder / "config.yaml"))
    assert (cfg.SEED, cfg.INPUT.MASK_FORMAT) == (3, "polygon")
    assert str(folder) == cfg.OUTPUT_DIR
    assert (cfg.SOLVER.AMP.ENABLED, cfg.SOLVER.CHECKPOINT_PERIOD, cfg.MODEL.DEVICE) == (False, 7, "cpu")
    assert cfg.MODEL.ROI_HEADS.NAME == "StandardROIHeads"
    versions = result.provenance["versions"]
    assert versions["detectron2"].startswith(detectron2.__version__)
    assert versions["fvcore"]
    assert versions["pycocotools"]


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


def test_images_are_not_decoded_by_detectron2_as_well(tiny, monkeypatch):
    monkeypatch.setattr(
        "detectron2.data.detection_utils.read_image", lambda *_, **__: pytest.fail("decoded by detectron2")
    )
    assert detect(DetectSettings(**tiny | {"iterations": 1})).metrics["images"] == 4


def test_two_processes_and_a_corrupt_image(tiny, shapes, tmp_path):
    folder = shapes.write_voc(tmp_path / "set", {"trainval": 8, "test": 2})
    tiny |= {"train": (str(folder),), "test": str(folder), "num_gpus": 2}
    image = folder / "JPEGImages" / "trainval005.jpg"
    content = shapes.truncate(image)
    run = start(tiny)
    _, stderr = run.communicate()
    assert run.returncode
    assert re.search(CORRUPT, stderr), stderr
    image.write_bytes(content)
    run = start(tiny)
    _, stderr = run.communicate()
    assert run.returncode == 0, stderr
    assert json.loads((tiny["out"] / "result.json").read_text())["provenance"]["processes"] == 2
    assert "NORM: naiveSyncBN_N" in (tiny["out"] / RUN / "config.yaml").read_text()


def test_loss_that_is_not_finite_stops_the_run(tiny):
    message = r"not finite at step \d+\. Use a smaller --lr and another --out .* the beginning"
    with pytest.raises(DataError, match=message):
        detect(DetectSettings(**tiny | {"lr": 1e30, "warmup": 0, "iterations": 30}))


def test_out_of_memory(tiny, monkeypatch):
    from tasks.detection.backends.detectron2.training import _Trainer

    def run_out_of_memory(self):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(_Trainer, "run_step", run_out_of_memory)
    with pytest.raises(DataError, match="Out of memory on cpu at step 1"):
        detect(DetectSettings(**tiny))


def test_checkpoint_with_values_that_are_not_finite_is_not_written(tiny, monkeypatch):
    from tasks.detection.backends.detectron2.training import _Trainer

    run_step = _Trainer.run_step

    def ruin_the_weights(self):
        run_step(self)
        if self.iter == 3:  # the loss of this step is finite
            next(self._trainer.model.parameters()).data.fill_(float("nan"))

    monkeypatch.setattr(_Trainer, "run_step", ruin_the_weights)
    with pytest.raises(DataError, match=rf"not finite at step 4\. .* state: .*{RUN}"):
        detect(DetectSettings(**tiny | {"checkpoint_every": 2, "precise_bn": 0}))
    model = torch.load(tiny["out"] / RUN / "model_0000001.pth", weights_only=False)["model"]
    assert all(value.isfinite().all() for value in model.values() if value.is_floating_point())
    assert (tiny["out"] / RUN / "last_checkpoint").read_text() == "model_0000001.pth"


def test_full_disk_is_not_reported_as_an_unreadable_image(tiny, monkeypatch):
    """Not even in a folder whose name contains "image"."""

    def full(content, file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(DataError, match="no space left on device") as error:
        detect(DetectSettings(**tiny | {"out": tiny["out"].with_name("images_full")}))
    assert "Stopped after step" not in str(error.value)


def test_stop_writes_a_checkpoint_at_that_step(tiny, monkeypatch):
    from tasks.detection.backends.detectron2.training import _Trainer

    tiny["iterations"] = 25
    run_step = _Trainer.run_step

    def stop_after_three(self):
        run_step(self)
        if self.iter == 2:
            self.run.stop.status = 130

    with monkeypatch.context() as patch:
        patch.setattr(_Trainer, "run_step", stop_after_three)
        with pytest.raises(Stopped, match="after step 3 of 25"):
            detect(DetectSettings(**tiny))
    assert (tiny["out"] / RUN / "last_checkpoint").read_text() == "model_0000002.pth"
    shown = []

    @contextlib.contextmanager
    def progress(self, title, total, done=0):
        yield lambda steps, note="": shown.append((title, steps))

    monkeypatch.setattr(RunContext, "progress", progress)
    assert detect(DetectSettings(**tiny)).metrics["images"] == 4
    assert [steps for title, steps in shown if title == "detect"] == [17, 5]
