"""The presets of `detect`: the protocols of docs/detection-protocols.md, and a quick one. Does not import torch."""

from __future__ import annotations

from typing import Any

from tasks.detection.detector_spec import DetectorSpec, Sizes, detector_spec
from tasks.detection.schedule import Schedule

_VOC: dict[str, Any] = {
    "heads": "c4",
    "masks": False,
    "metric": "voc07",
    "batch_size": 16,
    "min_sizes": tuple(range(480, 801, 32)),
    "test_size": 800,
    "max_size": 1333,
}
_COCO: dict[str, Any] = _VOC | {"masks": True, "metric": "coco", "min_sizes": (640, 672, 704, 736, 768, 800)}
# For small datasets: an afternoon on a small GPU, an evening on a CPU.
_QUICK: dict[str, Any] = {
    "heads": "fpn",
    "metric": "coco",
    "batch_size": 4,
    "min_sizes": (320, 352, 384),
    "test_size": 384,
    "max_size": 640,
}
PRESETS: dict[str, dict[str, Any]] = {
    "voc07": _VOC,
    "voc0712": _VOC,
    "coco-1x": _COCO,
    "coco-2x": _COCO,
    "voc07-fpn": _VOC | {"heads": "fpn"},
    "voc0712-fpn": _VOC | {"heads": "fpn"},
    "coco-1x-fpn": _COCO | {"heads": "fpn"},
    "coco-2x-fpn": _COCO | {"heads": "fpn"},
    "quick": _VOC | _QUICK,
}

# Only VOC07's 9,000 iterations are published: its steps are at the same fractions as VOC07+12's.
_SCHEDULES = {
    "voc07": Schedule(16, 0.02, 9_000, (6_750, 8_250), 100),
    "voc0712": Schedule(16, 0.02, 24_000, (18_000, 22_000), 100),
    "coco-1x": Schedule(16, 0.02, 90_000, (60_000, 80_000), 1_000),
    "coco-2x": Schedule(16, 0.02, 180_000, (120_000, 160_000), 1_000),
    "quick": Schedule(4, 0.01, 1_000, (750, 920), 100),
}


def preset_schedule(preset: str) -> Schedule:
    """The schedule of a preset at its own batch size; with FPN heads it is the same.

    >>> preset_schedule("coco-1x-fpn") == preset_schedule("coco-1x")
    True
    """
    return _SCHEDULES[preset.removesuffix("-fpn")]


def preset_detector(preset: str) -> DetectorSpec:
    """The detector of a preset, as it is trained on a GPU; its classes are numbers, as many as VOC or COCO has.

    >>> spec = preset_detector("coco-1x-fpn")
    >>> spec.heads, spec.masks, len(spec.classes), spec.rois
    ('fpn', True, 80, 512)
    """
    values = PRESETS[preset]
    spec, _ = detector_spec(
        **{name: values[name] for name in ("heads", "masks", "min_sizes", "test_size", "max_size")},
        classes=tuple(map(str, range(20 if values["metric"].startswith("voc") else 80))),
        sizes=Sizes(),
        on_cpu=False,
    )
    return spec
