"""`detect` through the command line, with torchvision's detectors on made shapes."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from simsiam_eval.errors import DataError, Stopped, UsageError
from tasks.detection.backends.torchvision.training import Training
from tasks.detection.detect import detect, starts
from tasks.detection.settings import DetectSettings

ROOT = Path(__file__).parent.parent.parent.parent
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
RUN = "random-torchvision-seed0"


@pytest.fixture
def tiny(few_voc, tmp_path):
    """Settings of a run of a few steps at 64 px, VOC's metric."""
    return {
        "train": (str(few_voc),), "test": str(few_voc), "out": tmp_path / "run", "backend": "torchvision",
        "init": ("random",), "arch": "resnet18", "metric": "voc", "batch": 2, "iterations": 5, "min_sizes": (64,),
        "test_size": 64, "max_size": 64, "proposals": 20, "rois": 8, "precise_bn": 2, "workers": 0,
    }  # fmt: skip


def options(settings):
    """Settings as options of the command line."""
    spelled = []
    for name, value in settings.items():
        for one in value if isinstance(value, tuple) else (value,):
            spelled += [f"--{name.replace('_', '-')}", str(one)]
    return spelled


def start(settings, launcher=()):
    command = [sys.executable, *launcher, "cli.py", "detect", *options(settings)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1" if launcher else "2", "OMP_WAIT_POLICY": "PASSIVE"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def steps_logged(folder):
    log = folder / "log.jsonl"
    return [json.loads(line)["step"] for line in log.read_text().splitlines()] if log.exists() else []


def weights(folder):
    return torch.load(folder / "checkpoint_last.pth", weights_only=True)["model"]


def test_it_learns_shapes_though_it_is_stopped_and_killed(shapes_voc, tmp_path):
    """140 steps of FPN, ResNet-18, from random weights; SIGTERM in the first, SIGKILL in the second third."""
    out = tmp_path / "run"
    shapes = {
        "train": (str(shapes_voc),), "test": str(shapes_voc), "out": out, "backend": "torchvision", "init": ("random",),
        "arch": "resnet18", "batch": 2, "iterations": 140, "lr": 0.01, "min_sizes": (96,), "test_size": 96,
        "max_size": 96, "checkpoint_every": 28, "workers": 0,
    }  # fmt: skip
    untrained = detect(DetectSettings(**shapes | {"out": tmp_path / "none", "iterations": 1, "lr": 1e-9}))
    assert untrained.metrics["ap50"] < 0.05
    for number, at, status in ((signal.SIGTERM, 20, 143), (signal.SIGKILL, 70, -9)):
        run = start(shapes)
        while max(steps_logged(out / RUN), default=0) < at:
            assert run.poll() is None, run.communicate()
            time.sleep(0.1)
        run.send_signal(number)
        _, said = run.communicate(timeout=120)
        assert run.returncode == status, said
        assert "Traceback" not in said
    run = start(shapes)
    shown, said = run.communicate(timeout=600)
    assert run.returncode == 0, said
    assert "going on after step" in said
    assert steps_logged(out / RUN) == sorted(set(steps_logged(out / RUN)))
    record = json.loads((out / "result.json").read_text())
    assert record["metrics"]["ap50"] > 0.5, shown
    assert record["provenance"]["backend"] == "torchvision"
    assert any("smooth L1" in one for one in record["provenance"]["differences"])
    assert "CPU-sized" in record["provenance"]["notes"][0]
    assert (out / RUN / "picture.png").stat().st_size > 10_000
    entries = json.loads((out / RUN / "detections.json").read_text())
    assert set(entries[0]) == {"image_id", "category_id", "category", "bbox", "score"}


@pytest.mark.parametrize("extra", [{}, {"heads": "c4"}])
def test_a_run_that_was_stopped_is_the_run_that_was_not(tiny, monkeypatch, extra):
    tiny |= extra
    detect(DetectSettings(**tiny))
    whole, step = weights(tiny["out"] / RUN), Training._step
    tiny["out"] = tiny["out"].with_name("stopped")

    def stop_after_three(self, batch):
        step(self, batch)
        if self.iteration == 2:
            self.work.stop.status = 143

    with monkeypatch.context() as patch:
        patch.setattr(Training, "_step", stop_after_three)
        with pytest.raises(Stopped, match="after step 3 of 5; the same command goes on") as stopped:
            detect(DetectSettings(**tiny))
    assert stopped.value.exit_status == 143
    resumed = detect(DetectSettings(**tiny))
    again = weights(tiny["out"] / RUN)
    assert all(torch.equal(whole[key], again[key]) for key in whole)
    assert resumed.metrics["images"] == 4


def test_a_stop_while_bn_is_estimated_costs_no_step(tiny, monkeypatch):
    detect(DetectSettings(**tiny))
    whole, losses = weights(tiny["out"] / RUN), Training._losses
    tiny["out"] = tiny["out"].with_name("stopped")

    def stop_in_the_estimate(self, batch, number):
        if number == 5:
            self.work.stop.status = 143
        return losses(self, batch, number)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "_losses", stop_in_the_estimate)
        with pytest.raises(Stopped, match="after step 5 of 5"):
            detect(DetectSettings(**tiny))
    monkeypatch.setattr(Training, "_step", lambda *_: pytest.fail("a step is done again"))
    detect(DetectSettings(**tiny))
    again = weights(tiny["out"] / RUN)
    assert all(torch.equal(whole[key], again[key]) for key in whole)


def test_images_a_second_do_not_count_start_up_and_bn_statistics(tiny, monkeypatch):
    now, step, losses, batches = [0.0], Training._step, Training._losses, Training._batches

    def after(seconds, real):
        def timed(*arguments):
            now[0] += seconds
            return real(*arguments)

        return timed

    monkeypatch.setattr("tasks.detection.backends.base.time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(Training, "_step", after(0.5, step))
    monkeypatch.setattr(Training, "_losses", after(0.5, losses))
    monkeypatch.setattr(Training, "_batches", after(100, batches))
    run = detect(DetectSettings(**tiny)).metrics["runs"][0]
    assert run["images_per_second"] == pytest.approx(2)  # 2 images in 1 s


def test_bf16(tiny):
    assert detect(DetectSettings(**tiny | {"precision": "bf16", "iterations": 2})).metrics["images"] == 4


def test_masks_of_both_kinds_of_heads(tiny, few_coco):
    tiny |= {"train": (str(few_coco),), "test": str(few_coco), "metric": "coco", "masks": True, "iterations": 1}
    for heads in ("c4", "fpn"):
        result = detect(DetectSettings(**tiny | {"heads": heads, "out": tiny["out"] / heads}))
        assert 0 <= result.metrics["mask_ap50"] <= 1
        assert "mask AP50" in result.table.columns


def test_trials_and_starts_are_beside_the_papers_rows(tiny, road, monkeypatch):
    small = dict(tiny, preset="voc07", heads="fpn", checkpoint=road / "run" / "checkpoint_0000.pth.tar", trials=2,
                 iterations=1, min_sizes=(32,), test_size=32)  # fmt: skip
    result = detect(DetectSettings(**small))
    ours, papers = ("torchvision", "resnet18-fpn", "2"), ("detectron2", "resnet50-c4", "5")
    assert [tuple(row[:4]) for row in result.table.rows] == [
        ("encoder", *ours), ("random", *ours), ("paper: supervised", *papers), ("paper: SimSiam, base recipe", *papers),
        ("paper: SimSiam, lr .5, wd 1e-5", *papers),
    ]  # fmt: skip
    changed = "heads, metric, batch, min_sizes, test_size, max_size, iterations, rois, precise_bn, proposals"
    assert result.protocol == f"voc07, changed: {changed}, CPU-sized"
    assert result.protocol in result.table.title
    assert any(note.startswith("The other rows are not of the whole protocol") for note in result.table.notes)
    assert len(result.metrics["by_init"]["encoder"]["ap"]["values"]) == 2
    assert result.metrics["by_init"]["random"]["ap"]["std"] >= 0
    assert {run["seed"] for run in result.metrics["runs"]} == {0, 1}
    assert result.provenance["encoders"]["encoder"]["stem"] == "cifar"
    assert result.provenance["versions"]["pycocotools"]
    assert result.provenance["random"] == {"arch": "resnet18", "stem": "cifar"}
    monkeypatch.setattr(Training, "__init__", lambda *_: pytest.fail("a finished run is run again"))
    assert detect(DetectSettings(**small)).metrics["by_init"] == result.metrics["by_init"]


def test_two_processes(tiny):
    run = start(tiny, TORCHRUN)
    _, said = run.communicate(timeout=300)
    assert run.returncode == 0, said
    assert "5 steps of 2 images (1 in each of 2 processes)" in said
    assert json.loads((tiny["out"] / "result.json").read_text())["provenance"]["processes"] == 2


def test_num_gpus_starts_the_processes(tiny):
    """Stopped by a signal, gone on with by one process."""
    tiny |= {"iterations": 12, "checkpoint_every": 1}
    run = start(tiny | {"num_gpus": 2})
    while not (tiny["out"] / RUN / "checkpoint_last.pth").exists():
        assert run.poll() is None, run.communicate()
        time.sleep(0.1)
    run.send_signal(signal.SIGTERM)
    _, said = run.communicate(timeout=120)
    assert run.returncode, said
    assert "the same command goes on from" in said
    assert "(1 in each of 2 processes)" in said
    assert detect(DetectSettings(**tiny)).metrics["images"] == 4


def test_num_gpus_where_one_of_the_images_is_corrupt(tiny, shapes, tmp_path):
    folder = shapes.write_voc(tmp_path / "set", {"trainval": 8, "test": 2})
    tiny |= {"train": (str(folder),), "test": str(folder)}
    image = folder / "JPEGImages" / "trainval005.jpg"
    whole = shapes.truncate(image)
    run = start(tiny | {"num_gpus": 2})
    _, said = run.communicate()
    assert run.returncode
    assert re.search(r"after step \d of 5: the image .*trainval005.jpg cannot be read .* goes on", said), said
    image.write_bytes(whole)
    assert detect(DetectSettings(**tiny)).metrics["images"] == 2


@pytest.mark.parametrize("split", ["trainval", "test"])
def test_images_that_cannot_be_used_are_refused_before_anything_is_done(tiny, shapes, tmp_path, split):
    folder = shapes.write_voc(tmp_path / "set", {"trainval": 3, "test": 3})
    tiny |= {"train": (str(folder),), "test": str(folder)}
    file = folder / "Annotations" / f"{split}001.xml"
    whole = file.read_text()
    file.write_text(whole.replace("<width>160", "<width>200"))
    with pytest.raises(DataError, match=rf"{split}001.jpg is 160x160, but its annotations are for 200x160. Fix this"):
        detect(DetectSettings(**tiny))
    file.write_text(whole)
    for number in (0, 2):
        (folder / "JPEGImages" / f"{split}00{number}.jpg").write_bytes(b"none")
    with pytest.raises(DataError, match=rf"{split}000.jpg cannot be read .* \(and 1 more like it\)"):
        detect(DetectSettings(**tiny))
    assert not tiny["out"].exists()


def test_a_corrupt_image_in_mid_training(tiny, shapes, tmp_path):
    folder = shapes.write_voc(tmp_path / "set", {"trainval": 8, "test": 2})
    tiny |= {"train": (str(folder),), "test": str(folder)}
    image = folder / "JPEGImages" / "trainval005.jpg"
    whole = shapes.truncate(image)
    with pytest.raises(DataError, match=r"after step \d of 5: the image .*trainval005.jpg cannot be read .* goes on"):
        detect(DetectSettings(**tiny))
    image.write_bytes(whole)
    assert detect(DetectSettings(**tiny)).metrics["images"] == 2
    shapes.truncate(folder / "JPEGImages" / "test000.jpg")
    with pytest.raises(DataError, match=r"evaluation cannot be completed: the image .*test000.jpg"):
        detect(DetectSettings(**tiny | {"out": tmp_path / "again"}))


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_out_of_memory(tiny, monkeypatch, error):
    step = Training._step

    def short_of_memory(self, batch):
        if self.iteration == 3:
            raise error
        step(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "_step", short_of_memory)
        with pytest.raises(DataError, match=r"Out of memory on cpu in step 4: .*checkpoint_last.pth, or .*--batch"):
            detect(DetectSettings(**tiny, checkpoint_every=2))
    assert torch.load(tiny["out"] / RUN / "checkpoint_last.pth", weights_only=True)["iteration"] == 2
    detect(DetectSettings(**tiny))


def test_a_loss_that_is_not_finite(tiny):
    with pytest.raises(
        DataError, match=r"not finite by step 5: .* and another --out .the last good state: the beginning"
    ):
        detect(DetectSettings(**tiny | {"lr": 1e30, "warmup": 0}))


def test_a_checkpoint_of_what_is_not_finite_is_never_written(tiny, monkeypatch):
    """Between two looks at the loss, and at a signal; the good state is the one before."""
    tiny |= {"iterations": 19, "checkpoint_every": 3}
    step, weight = Training._step, "rpn.head.cls_logits.weight"

    def ruined(self, batch):
        step(self, batch)
        if self.iteration == 4:  # the loss of this step is finite
            self.detector.state_dict()[weight].fill_(float("nan"))
            self.work.stop.status = stop

    for stop in (0, 143):
        tiny["out"] = tiny["out"].with_name(f"run{stop}")
        with monkeypatch.context() as patch:
            patch.setattr(Training, "_step", ruined)
            with pytest.raises(DataError, match=rf"by step {5 if stop else 6}: .* state: .*_last.pth"):
                detect(DetectSettings(**tiny))
        left = torch.load(tiny["out"] / RUN / "checkpoint_last.pth", weights_only=True)
        assert left["iteration"] == 3
        assert left["model"][weight].isfinite().all()


def test_losses_of_a_run_that_was_stopped_are_those_of_one_that_was_not(tiny, monkeypatch):
    from tasks.detection.backends.base import Work

    tiny |= {"iterations": 22}
    detect(DetectSettings(**tiny))
    whole = (tiny["out"] / RUN / "log.jsonl").read_text()
    tiny["out"], step, shown = tiny["out"].with_name("stopped"), Training._step, []

    def stop_after_15(self, batch):
        step(self, batch)
        if self.iteration == 14:
            self.work.stop.status = 143

    @contextlib.contextmanager
    def progress(self, what, total, done=0):
        yield lambda steps, note="": shown.append((what, steps))

    with monkeypatch.context() as patch:
        patch.setattr(Training, "_step", stop_after_15)
        with pytest.raises(Stopped):
            detect(DetectSettings(**tiny))
    monkeypatch.setattr(Work, "progress", progress)
    detect(DetectSettings(**tiny))
    assert (tiny["out"] / RUN / "log.jsonl").read_text() == whole
    assert [steps for what, steps in shown if what == "detect"] == [5, 2]


def test_a_folder_of_another_run(tiny, shapes, tmp_path, monkeypatch):
    detect(DetectSettings(**tiny | {"iterations": 1}))
    with pytest.raises(DataError, match="a run with --iterations 1, not 5"):
        detect(DetectSettings(**tiny))
    tiny["iterations"] = 1
    with pytest.raises(DataError, match=r"a run without --lr, not 1\.0"):
        detect(DetectSettings(**tiny, lr=1.0))
    with pytest.raises(DataError, match="earlier run"):
        detect(DetectSettings(**tiny, resume="never"))
    with pytest.raises(DataError, match="from another encoder"):
        detect(DetectSettings(**tiny | {"arch": "resnet34"}))
    from tasks.detection.backends.torchvision.backend import TorchvisionBackend

    with monkeypatch.context() as patch:
        patch.setattr(TorchvisionBackend, "name", "detectron2")  # what auto may choose another time
        with pytest.raises(DataError, match="a run of backend torchvision, not detectron2: give --backend torchvision"):
            detect(DetectSettings(**tiny))
    moved = shapes.write_voc(Path(tiny["train"][0]).parent / "other", {"trainval": 4, "test": 2})
    os.rename(moved, tmp_path / "moved")
    with pytest.raises(DataError, match="--train"):
        detect(DetectSettings(**tiny | {"train": (str(tmp_path / "moved"),)}))


def test_a_disk_that_is_full_when_a_checkpoint_is_due(tiny, monkeypatch, capsys):
    save, calls = torch.save, []

    def full_at_first(content, file):
        calls.append(1)
        if len(calls) == 1:
            raise OSError(28, "No space left on device")
        save(content, file)

    monkeypatch.setattr(torch, "save", full_at_first)
    detect(DetectSettings(**tiny, checkpoint_every=2))
    assert "training continues" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"init": None}, "Give an encoder with --checkpoint, or --init random"),
        ({"masks": True}, "--masks needs --metric coco"),
        ({"max_size": 32}, "--max-size 32"),
        ({"train": ()}, "--train"),
        ({"steps": (4, 2)}, "--steps 4 2 must rise"),
        ({"steps": (2, 2)}, "--steps 2 2 must rise"),
        ({"classes": ("disc", "disc")}, "--classes disc is given twice"),
        ({"num_gpus": 3}, "--batch 2 cannot be cut into equal parts for 3 processes"),
    ],
)
def test_settings_that_contradict_each_other(tiny, changed, says):
    with pytest.raises(UsageError, match=says):
        DetectSettings(**tiny | changed)


def test_names_of_the_starts(tiny):
    chosen = starts(DetectSettings(**tiny | {"init": ("random", "a/x.pth", "b/x.pth.tar"), "checkpoint": "c.pth"}))
    assert list(chosen) == ["encoder", "random", "x-2", "x-3"]
    named = starts(DetectSettings(**tiny | {"init": ("supervised=a/x.pth", "runs/lr=1/x.pth", "x=b.pth")}))
    assert named == {"supervised": Path("a/x.pth"), "x-1": Path("runs/lr=1/x.pth"), "x": Path("b.pth")}
    assert list(starts(DetectSettings(**tiny | {"init": ("a/random.pth",)}))) == ["random-0"]
    with pytest.raises(UsageError, match=r"--init random=a.pth: random is the start without a checkpoint"):
        starts(DetectSettings(**tiny | {"init": ("random=a.pth",)}))
    for twice, says in ((("random", "random"), "given twice"), (("a=x", "a=y"), "there is a start a already")):
        with pytest.raises(UsageError, match=says):
            starts(DetectSettings(**tiny | {"init": twice}))


def test_a_file_with_an_equals_sign_is_a_path(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("lr=1.pth").touch()
    assert starts(DetectSettings(**tiny | {"init": ("lr=1.pth",)})) == {"lr=1": Path("lr=1.pth")}


def test_a_mistake_is_one_sentence(call, few_voc, tmp_path):
    given = ["detect", "--train", tmp_path / "none", "--test", few_voc, "--init", "random", "--out", tmp_path / "o"]
    refused = call(*given)
    assert refused.exit_code == 1
    assert refused.stderr.count("\n") == 1
    assert "does not exist" in refused.stderr
    assert call(*given[:5], "--out", tmp_path / "o").exit_code == 2
