"""The linear rule, and what is printed of it; what a CPU makes smaller."""

from pathlib import Path

import pytest

from tasks.detection.backend import specification
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


def test_what_is_given_goes_before_the_rule():
    schedule = schedule_of(asked(preset="voc07", batch=8, iterations=900, lr=0.5))
    assert (schedule.lr, schedule.iterations, schedule.steps, schedule.warmup) == (0.5, 900, (675, 825), 10)
    assert schedule_of(asked(preset="voc07", steps=(5,), warmup=0)).steps == (5,)
    assert schedule_of(asked(preset="voc07", steps=(5,), warmup=0)).lr_at(0) == 0.02


@pytest.mark.parametrize(("preset", "on_gpu"), [("voc0712", (512, 2000, 1000)), ("coco-1x-fpn", (512, 1000, 1000))])
def test_cpu_sized_settings_are_said(preset, on_gpu):
    spec, said = specification(asked(preset=preset), ("a",), on_cpu=False)
    assert (spec.rois, *spec.proposals) == on_gpu
    assert not said
    spec, said = specification(asked(preset=preset), ("a",), on_cpu=True)
    assert spec.rois <= 64
    assert spec.proposals == (100, 100)
    assert "not the protocol's number" in said[0]
    given = asked(preset=preset, rois=512, proposals=1000, precise_bn=200)
    assert specification(given, ("a",), on_cpu=True)[1] == []
    assert specification(given, ("a",), on_cpu=True)[0].rois == 512
