"""The presets' schedules, the linear scaling rule, and the smaller defaults on a CPU."""

from pathlib import Path

import pytest

from tasks.detection.detector_spec import Sizes, detector_spec
from tasks.detection.presets import PRESETS, preset_schedule
from tasks.detection.settings import DetectSettings


def settings(**more):
    return DetectSettings(**{"train": ("a",), "test": "b", "out": Path("c"), "init": ("random",), **more})


def spec_and_note(preset, on_cpu, **sizes):
    values = PRESETS[preset]
    detector = {name: values[name] for name in ("heads", "masks", "min_sizes", "test_size", "max_size")}
    return detector_spec(**detector, classes=("a",), sizes=Sizes(**sizes), on_cpu=on_cpu)


@pytest.mark.parametrize("preset", list(PRESETS))
def test_own_batch_size_keeps_the_schedule(preset):
    schedule = preset_schedule(preset)
    assert PRESETS[preset]["batch_size"] == schedule.batch
    assert schedule.rescaled(schedule.batch) == schedule


def test_linear_scaling_rule():
    schedule = preset_schedule("coco-1x").rescaled(2)
    assert (schedule.lr, schedule.iterations, schedule.steps, schedule.warmup) == (
        0.0025,
        720000,
        (480000, 640000),
        8000,
    )
    assert schedule.sentence() == (
        "Schedule: 720000 iterations, batch 2, lr 0.0025 after 8000 iterations of warm-up, x0.1 at 480000 and 640000."
    )
    assert "batch 2 (1 on each of 2 processes), lr" in schedule.sentence(2)


def test_given_values_replace_the_rule():
    preset = preset_schedule("voc07")
    schedule = preset.rescaled(8, iterations=900, lr=0.5)
    assert (schedule.lr, schedule.iterations, schedule.steps, schedule.warmup) == (0.5, 900, (675, 825), 10)
    schedule = preset.rescaled(16, steps=(5,), warmup=0)
    assert schedule.steps == (5,)
    assert schedule.lr_at(0) == 0.02


def test_protocol_names_what_differs_from_the_preset():
    same = {"lr": 0.02, "iterations": 9000, "steps": (6750, 8250), "warmup": 100, "rois": 512, "precise_bn": 200}
    assert settings(preset="voc07", **same).protocol() == "voc07"
    assert settings(preset="voc07-fpn", proposals=1000).protocol() == "voc07-fpn"
    assert settings(preset="voc07", proposals=1000).protocol() == "voc07, changed: proposals"
    assert settings(preset="voc07", batch_size=8, iterations=20).protocol() == "voc07, changed: batch_size, iterations"
    assert settings(preset="voc07", classes=("a",), precise_bn=0).protocol() == "voc07, changed: classes, precise_bn"


@pytest.mark.parametrize(("preset", "sizes"), [("voc0712", (512, 2000, 1000)), ("coco-1x-fpn", (512, 1000, 1000))])
def test_smaller_defaults_on_a_cpu_are_noted(preset, sizes):
    spec, note = spec_and_note(preset, on_cpu=False)
    assert (spec.rois, *spec.proposals) == sizes
    assert note is None
    spec, note = spec_and_note(preset, on_cpu=True)
    assert spec.rois <= 64
    assert spec.proposals == (100, 100)
    assert "not the protocol's result" in note
    assert f"100 proposals per image out of 1000 (protocol: {sizes[1]}" in note
    spec, note = spec_and_note(preset, on_cpu=True, rois=512, proposals=300, precise_bn=200)
    assert spec.proposals_before_nms == (1000, 1000)
    assert "300 proposals per image out of 1000" in note


@pytest.mark.parametrize("preset", ["voc0712", "coco-1x-fpn"])
@pytest.mark.parametrize("on_cpu", [True, False])
@pytest.mark.parametrize("proposals", [1000, 2000, 20000])
def test_full_sizes_on_a_cpu_need_no_note(preset, on_cpu, proposals):
    spec, note = spec_and_note(preset, on_cpu, rois=512, proposals=proposals, precise_bn=200)
    assert note is None
    assert spec.rois == 512
    assert min(spec.proposals_before_nms) >= proposals
    assert spec.proposals_before_nms[0] >= (12000 if preset == "voc0712" else 2000)
