"""The reference backend: what is said without it, and, with it, training, stops, kills and evaluation."""

import contextlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

from simsiam_eval.errors import DataError, Stopped, UsageError
from tasks.detection.backends.base import Work, detector_spec
from tasks.detection.backends.choose import choose_backend
from tasks.detection.backends.detectron2.backend import Detectron2Backend, _commit
from tasks.detection.backends.detectron2.config import config_values
from tasks.detection.detect import detect
from tasks.detection.schedule import schedule_of
from tasks.detection.settings import DetectSettings

ROOT = Path(__file__).parent.parent.parent.parent
RUN = "random-detectron2-seed0"


@pytest.fixture
def tiny(few_voc, tmp_path):
    return {
        "train": (str(few_voc),), "test": str(few_voc), "out": tmp_path / "run", "backend": "detectron2",
        "init": ("random",), "arch": "resnet18", "metric": "voc", "batch": 2, "iterations": 5, "min_sizes": (96,),
        "test_size": 96, "max_size": 96, "proposals": 20, "rois": 8, "precise_bn": 2, "workers": 0,
    }  # fmt: skip


def test_where_it_is_missing_one_sentence_says_how_to_install_it(call, few_voc, tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "detectron2" else found(name, *more)
    )
    given = ("detect", "--train", few_voc, "--test", few_voc, "--init", "random", "--out", tmp_path / "run")
    refused = call(*given, "--backend", "detectron2")
    assert refused.exit_code == 2
    assert refused.stderr.count("\n") == 1
    assert "pip install 'git+https://github.com/facebookresearch/detectron2.git'" in refused.stderr
    assert choose_backend("auto", "imagenet").name == "torchvision"


def test_a_clone_in_the_working_folder_and_packages_that_are_missing(tmp_path, monkeypatch):
    """Python takes the clone's outer folder for a package, though there is nothing in it to import."""
    (tmp_path / "detectron2" / "detectron2").mkdir(parents=True)
    (tmp_path / "detectron2" / "detectron2" / "__init__.py").touch()
    found = {"detectron2": PathFinder.find_spec("detectron2", [str(tmp_path)])}
    assert found["detectron2"] is not None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: found.get(name, True))
    assert "detectron2 is not installed" in Detectron2Backend().available()
    assert choose_backend("auto", "imagenet").name == "torchvision"
    found["detectron2"] = PathFinder.find_spec("detectron2", [str(tmp_path / "detectron2")])
    assert Detectron2Backend().available() is None
    for name in ("yacs", "fvcore", "cv2"):
        monkeypatch.setitem(found, name, None)
    says = Detectron2Backend().available()
    assert 'packages (fvcore, yacs, cv2): pip install "simsiam-eval[detectron2]"' in says
    assert choose_backend("auto", "imagenet").name == "torchvision"


def test_the_protocol_stands_in_the_config():
    asked = DetectSettings(train=("a",), test="b", out=Path("c"), init=("random",), preset="voc0712")
    values = config_values("resnet50", detector_spec(asked, ("a",) * 20, False)[0], schedule_of(asked), "SyncBN")
    expected = {
        "MODEL.ROI_HEADS.NAME": "Res5ROIHeadsExtraNorm", "MODEL.RESNETS.NORM": "SyncBN", "INPUT.FORMAT": "RGB",
        "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53], "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
        "MODEL.RESNETS.STRIDE_IN_1X1": False, "MODEL.BACKBONE.FREEZE_AT": 0, "MODEL.RPN.PRE_NMS_TOPK_TEST": 6000,
        "MODEL.RPN.POST_NMS_TOPK_TEST": 1000, "TEST.PRECISE_BN.ENABLED": True, "SOLVER.IMS_PER_BATCH": 16,
        "SOLVER.BASE_LR": 0.02, "SOLVER.MAX_ITER": 24000, "SOLVER.STEPS": [18000, 22000], "SOLVER.WARMUP_ITERS": 100,
        "INPUT.MIN_SIZE_TRAIN": list(range(480, 801, 32)), "INPUT.MIN_SIZE_TEST": 800, "MODEL.ROI_HEADS.NUM_CLASSES": 20,
    }  # fmt: skip
    assert {key: values[key] for key in expected} == expected


def start(settings):
    spelled = []
    for name, value in settings.items():
        for one in value if isinstance(value, tuple) else (value,):
            spelled += [f"--{name.replace('_', '-')}", str(one)]
    return subprocess.Popen(
        [sys.executable, "cli.py", "detect", *spelled, "--json"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def steps_logged(folder):
    log = folder / "metrics.json"
    lines = log.read_text().splitlines() if log.exists() else []
    return [json.loads(line)["iteration"] for line in lines if "iteration" in line]


@pytest.mark.detectron2
def test_it_learns_shapes_though_it_is_stopped_and_killed(shapes_voc, tmp_path):
    out = tmp_path / "run"
    shapes = {
        "train": (str(shapes_voc),), "test": str(shapes_voc), "out": out, "backend": "detectron2", "init": ("random",),
        "arch": "resnet18", "batch": 2, "iterations": 200, "lr": 0.01, "min_sizes": (160,), "test_size": 160,
        "max_size": 160, "checkpoint_every": 40, "workers": 0,
    }  # fmt: skip
    for number, at, status in ((signal.SIGTERM, 19, 143), (signal.SIGKILL, 99, -9)):
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
    record = json.loads(shown)
    assert record["metrics"]["ap50"] > 0.5
    assert record["provenance"]["backend"] == "detectron2"
    assert record["provenance"]["differences"] == []
    assert (out / RUN / "picture.png").stat().st_size > 10_000


@pytest.mark.detectron2
@pytest.mark.parametrize("heads", ["c4", "fpn"])
def test_masks_of_both_kinds_of_heads(tiny, few_coco, heads):
    tiny |= {"train": (str(few_coco),), "test": str(few_coco), "metric": "coco", "masks": True, "heads": heads}
    assert 0 <= detect(DetectSettings(**tiny | {"iterations": 1})).metrics["mask_ap50"] <= 1


@pytest.mark.detectron2
def test_the_run_is_told_whole(tiny, few_coco):
    """Its config as detectron2 reads it again, and what it ran on."""
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


def test_the_commit_of_a_clone(tmp_path):
    (tmp_path / ".git" / "refs" / "heads").mkdir(parents=True)
    head = tmp_path / ".git" / "HEAD"
    head.write_text("0123abcd\n")
    assert _commit(tmp_path) == "0123abcd"
    head.write_text("ref: refs/heads/main\n")
    (tmp_path / ".git" / "packed-refs").write_text(
        "# pack-refs with: peeled\n89ab refs/heads/other\n4567 refs/heads/main\n"
    )
    assert _commit(tmp_path) == "4567"
    (tmp_path / ".git" / "refs" / "heads" / "main").write_text("cdef\n")
    assert _commit(tmp_path) == "cdef"


def test_bf16_without_a_gpu_is_refused(tiny, monkeypatch):
    monkeypatch.setattr(Detectron2Backend, "available", lambda _: None)
    for backend in ("auto", "detectron2"):
        with pytest.raises(UsageError, match="detectron2 trains in bf16 on CUDA alone: leave out --precision bf16"):
            detect(DetectSettings(**tiny | {"backend": backend, "precision": "bf16", "device": "cpu"}))
    assert choose_backend("torchvision", "imagenet", bf16_on_cpu=True).name == "torchvision"


@pytest.mark.detectron2
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


@pytest.mark.detectron2
def test_an_image_that_can_be_read_is_decoded_by_detectron2_alone(tiny, monkeypatch):
    monkeypatch.setattr(
        "tasks.detection.backends.detectron2.images.read_pixels", lambda _: pytest.fail("decoded again")
    )
    assert detect(DetectSettings(**tiny | {"iterations": 1})).metrics["images"] == 4


@pytest.mark.detectron2
def test_two_processes_of_which_one_has_a_corrupt_image(tiny, shapes, tmp_path):
    folder = shapes.write_voc(tmp_path / "set", {"trainval": 8, "test": 2})
    tiny |= {"train": (str(folder),), "test": str(folder), "num_gpus": 2}
    image = folder / "JPEGImages" / "trainval005.jpg"
    whole = shapes.truncate(image)
    run = start(tiny)
    _, said = run.communicate()
    assert run.returncode
    assert re.search(r"after step \d of 5: the image .*trainval005.jpg cannot be read .* goes on", said), said
    image.write_bytes(whole)
    run = start(tiny)
    _, said = run.communicate()
    assert run.returncode == 0, said
    assert json.loads((tiny["out"] / "result.json").read_text())["provenance"]["processes"] == 2
    assert "NORM: naiveSyncBN_N" in (tiny["out"] / RUN / "config.yaml").read_text()


@pytest.mark.detectron2
def test_a_loss_that_is_not_finite_and_memory_that_is_short(tiny, monkeypatch):
    import torch

    with pytest.raises(
        DataError, match=r"not finite by step \d: give a smaller --lr and another --out .* the beginning"
    ):
        detect(DetectSettings(**tiny | {"lr": 1e30, "warmup": 0, "iterations": 30, "out": tiny["out"] / "a"}))
    from tasks.detection.backends.detectron2.training import _Trainer

    def short_of_memory(self):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(_Trainer, "run_step", short_of_memory)
    with pytest.raises(DataError, match="Out of memory on cpu in step 1"):
        detect(DetectSettings(**tiny | {"out": tiny["out"] / "b"}))


@pytest.mark.detectron2
def test_a_checkpoint_of_what_is_not_finite_is_never_written(tiny, monkeypatch):
    import torch

    from tasks.detection.backends.detectron2.training import _Trainer

    step = _Trainer.run_step

    def ruined(self):
        step(self)
        if self.iter == 3:  # the loss of this step is finite
            next(self._trainer.model.parameters()).data.fill_(float("nan"))

    monkeypatch.setattr(_Trainer, "run_step", ruined)
    with pytest.raises(DataError, match=rf"not finite by step 4: .* state: .*{RUN}"):
        detect(DetectSettings(**tiny | {"checkpoint_every": 2, "precise_bn": 0}))
    left = torch.load(tiny["out"] / RUN / "model_0000001.pth", weights_only=False)["model"]
    assert all(one.isfinite().all() for one in left.values() if one.is_floating_point())
    assert (tiny["out"] / RUN / "last_checkpoint").read_text() == "model_0000001.pth"


@pytest.mark.detectron2
def test_a_full_disk_is_no_unreadable_image(tiny, monkeypatch):
    """Whatever the folder is called."""
    import torch

    def full(content, file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(DataError, match="no space left on device") as refused:
        detect(DetectSettings(**tiny | {"out": tiny["out"].with_name("images_full")}))
    assert "put that right, and" not in str(refused.value)


@pytest.mark.detectron2
def test_a_stop_is_a_checkpoint_at_that_step(tiny, monkeypatch):
    from tasks.detection.backends.detectron2.training import _Trainer

    tiny["iterations"] = 25
    step = _Trainer.run_step

    def stop_after_three(self):
        step(self)
        if self.iter == 2:
            self.work.stop.status = 130

    with monkeypatch.context() as patch:
        patch.setattr(_Trainer, "run_step", stop_after_three)
        with pytest.raises(Stopped, match="after step 3 of 25"):
            detect(DetectSettings(**tiny))
    assert (tiny["out"] / RUN / "last_checkpoint").read_text() == "model_0000002.pth"
    shown = []

    @contextlib.contextmanager
    def progress(self, what, total, done=0):
        yield lambda steps, note="": shown.append((what, steps))

    monkeypatch.setattr(Work, "progress", progress)
    assert detect(DetectSettings(**tiny)).metrics["images"] == 4
    assert [steps for what, steps in shown if what == "detect"] == [17, 5]


@pytest.mark.detectron2
@pytest.mark.parametrize("preset", ["voc07", "coco-1x-fpn"])
def test_detectron2s_own_tools_take_the_converted_files(tmp_path, preset):
    import torch
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    import tasks.detection.backends.detectron2.heads  # noqa: F401 - as docs/detection.md says
    from simsiam_eval.encoders.encoder import build_trunk
    from tasks.convert import ConvertSettings, convert

    trunk = build_trunk("resnet18")
    torch.save(trunk.state_dict(), tmp_path / "trunk.pth")
    given = ConvertSettings(checkpoint=tmp_path / "trunk.pth", to="detectron2", out=tmp_path / "r18.pth", preset=preset)
    assert convert(given).metrics["largest_difference"] <= 1e-4
    cfg = get_cfg()
    cfg.merge_from_file(str(tmp_path / "r18.yaml"))
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.RESNETS.NORM = cfg.MODEL.FPN.NORM = cfg.MODEL.ROI_MASK_HEAD.NORM = "BN"  # SyncBN wants CUDA
    model = build_model(cfg)
    DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    bottom = model.backbone if preset == "voc07" else model.backbone.bottom_up
    assert torch.equal(bottom.stem.conv1.weight, trunk.conv1.weight)
    last = model.roi_heads.res5 if preset == "voc07" else bottom.res5
    assert torch.equal(last[1].conv2.norm.running_var, trunk.layer4[1].bn2.running_var)
    assert torch.equal(last[1].conv2.weight, trunk.layer4[1].conv2.weight)
