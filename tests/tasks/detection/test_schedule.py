"""The linear rule, and what is printed of it; what a CPU makes smaller."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from tasks.detection.backends.base import StepClock, detector_spec
from tasks.detection.schedule import schedule_of
from tasks.detection.settings import SCHEDULES, DetectSettings, schedule_name


def asked(**more):
    return DetectSettings(**{"train": ("a",), "test": "b", "out": Path("c"), "init": ("random",), **more})


@pytest.mark.parametrize("preset", list(DetectSettings.PRESETS))
def test_a_preset_at_its_own_batch_is_its_schedule(preset):
    schedule = schedule_of(asked(preset=preset))
    assert (schedule.batch, schedule.lr, schedule.iterations, schedule.steps, schedule.warmup) == SCHEDULES[
        schedule_name(preset)
    ]


def test_the_linear_rule():
    schedule = schedule_of(asked(preset="coco-1x", batch=2))
    assert (schedule.lr, schedule.iterations, schedule.steps, schedule.warmup) == (
        0.0025,
        720000,
        (480000, 640000),
        8000,
    )
    assert schedule.sentence() == (
        "Schedule: 720000 steps of 2 images, lr 0.0025 after 8000 of warm-up, a tenth at 480000 and 640000."
    )


def test_images_a_second_are_of_the_steps_alone(monkeypatch):
    times, clock = iter([100.0, 100.5, 101.0, 101.5]), StepClock()
    monkeypatch.setattr("tasks.detection.backends.base.time", SimpleNamespace(perf_counter=lambda: next(times)))
    assert clock.rate is None
    clock.tick()
    assert clock.rate is None
    for _ in range(3):
        clock.tick()
    assert clock.rate == 2


def test_what_is_given_goes_before_the_rule():
    schedule = schedule_of(asked(preset="voc07", batch=8, iterations=900, lr=0.5))
    assert (schedule.lr, schedule.iterations, schedule.steps, schedule.warmup) == (0.5, 900, (675, 825), 10)
    assert schedule_of(asked(preset="voc07", steps=(5,), warmup=0)).steps == (5,)
    assert schedule_of(asked(preset="voc07", steps=(5,), warmup=0)).lr_at(0) == 0.02


def test_what_is_not_the_protocols_is_named():
    own = {"lr": 0.02, "iterations": 9000, "steps": (6750, 8250), "warmup": 100, "rois": 512, "precise_bn": 200}
    assert asked(preset="voc07", **own).protocol() == "voc07"
    assert asked(preset="voc07-fpn", proposals=1000).protocol() == "voc07-fpn"
    assert asked(preset="voc07", proposals=1000).protocol() == "voc07, changed: proposals"
    assert asked(preset="voc07", batch=8, iterations=20).protocol() == "voc07, changed: batch, iterations"
    assert asked(preset="voc07", classes=("a",), precise_bn=0).protocol() == "voc07, changed: classes, precise_bn"


@pytest.mark.parametrize(("preset", "on_gpu"), [("voc0712", (512, 2000, 1000)), ("coco-1x-fpn", (512, 1000, 1000))])
def test_cpu_sized_settings_are_said(preset, on_gpu):
    spec, said = detector_spec(asked(preset=preset), ("a",), on_cpu=False)
    assert (spec.rois, *spec.proposals) == on_gpu
    assert not said
    spec, said = detector_spec(asked(preset=preset), ("a",), on_cpu=True)
    assert spec.rois <= 64
    assert spec.proposals == (100, 100)
    assert "not the protocol's number" in said[0]
    assert "100 proposals of 1000 an image" in said[0]
    few = detector_spec(asked(preset=preset, rois=512, proposals=300, precise_bn=200), ("a",), on_cpu=True)
    assert few[0].before_nms == (1000, 1000)
    assert "300 proposals of 1000 an image" in few[1][0]
    for number in (1000, 2000, 20000):
        given = asked(preset=preset, rois=512, proposals=number, precise_bn=200)
        for on_cpu in (True, False):
            spec, said = detector_spec(given, ("a",), on_cpu)
            assert said == []
            assert all(before >= number for before in spec.before_nms)
            assert spec.before_nms[0] >= (12000 if preset == "voc0712" else 2000)
    given = asked(preset=preset, rois=512, proposals=1000, precise_bn=200)
    assert detector_spec(given, ("a",), on_cpu=True)[1] == []
    assert detector_spec(given, ("a",), on_cpu=True)[0].rois == 512
