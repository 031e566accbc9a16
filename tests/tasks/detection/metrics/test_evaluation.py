"""The evaluator against cases computed by hand, and against detectron2's on the same predictions."""

import json
import math

import numpy as np
import pytest

from tasks.detection.backends.predictions import Detections
from tasks.detection.data.dataset import Annotation, DetectionSet, LabeledImage
from tasks.detection.data.opening import open_detection_set, open_train_and_test
from tasks.detection.metrics.coco_ap import result_file_entries
from tasks.detection.metrics.evaluation import evaluate
from tasks.detection.summary import summarized


def found(*rows, masks=None):
    """Detections of rows (x1, y1, x2, y2, score, label)."""
    values = np.array(rows, dtype=np.float64).reshape(-1, 6)
    return Detections(
        values[:, :4].astype(np.float32), values[:, 4].astype(np.float32), values[:, 5].astype(int), masks
    )


def image(*annotations, name=0):
    return LabeledImage(name, f"{name}.jpg", 200, 200, annotations)


def made_set(*images, classes=("a",), kind="voc"):
    return DetectionSet("made", kind, classes, images)


# Three objects are asked for and one is difficult. By falling score: right, on the difficult one (does not count), wrong,
# right, a second time the same (wrong): precision 1, 1/2, 2/3, 1/2 at recall 1/3, 1/3, 2/3, 2/3.
OBJECTS = (
    image(Annotation((0, 0, 50, 50), 0), Annotation((100, 100, 50, 50), 0, difficult=True)),
    image(Annotation((0, 0, 50, 50), 0), Annotation((120, 0, 50, 50), 0), name=1),
)
FOUND = (
    found((0, 0, 50, 50, 0.9, 0), (100, 100, 150, 150, 0.85, 0), (60, 0, 90, 30, 0.8, 0)),
    found((0, 0, 50, 50, 0.7, 0), (0, 0, 50, 49, 0.6, 0)),
)


@pytest.mark.parametrize(("rule", "ap50"), [("voc07", 6 / 11), ("voc", 1 / 3 + 1 / 3 * 2 / 3)])
def test_voc_rules_by_hand(rule, ap50):
    metrics = evaluate(made_set(*OBJECTS), FOUND, rule).metrics
    assert metrics["ap50"] == pytest.approx(ap50, abs=1e-12)
    assert metrics["by_class_ap50"]["a"] == metrics["ap50"]


def test_overlap_must_exceed_the_threshold():
    data = made_set(image(Annotation((0, 0, 100, 100), 0)))
    assert evaluate(data, [found((0, 0, 100, 50, 0.9, 0))], "voc").metrics["ap50"] == 0  # exactly .5
    assert evaluate(data, [found((0, 0, 100, 50.2, 0.9, 0))], "voc").metrics["ap50"] == 1


def test_coco_by_hand():
    """IoU 80 / 120 passes four of the ten thresholds."""
    data = made_set(image(Annotation((0, 0, 100, 100), 0, area=10000)), kind="coco")
    metrics = evaluate(data, [found((20, 0, 120, 100, 0.9, 0))], "coco").metrics
    assert (metrics["ap"], metrics["ap50"], metrics["ap75"]) == pytest.approx((0.4, 1, 0))
    assert metrics["ap_large"] == pytest.approx(0.4)
    assert math.isnan(metrics["ap_small"])


def test_difficult_objects_count_neither_way_in_coco():
    hard = Annotation((100, 100, 50, 50), 0, difficult=True, area=2500)
    data = made_set(image(Annotation((0, 0, 50, 50), 0, area=2500), hard))
    seen = found((100, 100, 150, 150, 0.95, 0), (0, 0, 50, 50, 0.9, 0))
    assert evaluate(data, [seen], "coco").metrics["ap"] == pytest.approx(1)


@pytest.mark.parametrize("metric", ["voc07", "voc", "coco"])
def test_nothing_found_is_zero_with_a_warning(metric):
    result = evaluate(made_set(*OBJECTS), [found(), found()], metric)
    assert (result.metrics["ap"], result.metrics["ap50"], result.metrics["ap75"]) == (0, 0, 0)
    assert "nothing at all" in result.warnings[0]


@pytest.mark.parametrize("metric", ["voc07", "coco"])
def test_nothing_found_has_the_same_numbers_as_something(metric):
    small = image(Annotation((0, 0, 20, 20), 0, area=400), Annotation((50, 50, 20, 20), 1, area=400))
    data = made_set(small, classes=("a", "b", "c"))
    nothing, something = (evaluate(data, [one], metric).metrics for one in (found(), found((0, 0, 20, 20, 0.9, 0))))
    assert list(nothing) == list(something)
    assert [name for name, value in nothing.items() if value != value] == [
        name for name, value in something.items() if value != value
    ]
    for value, zero in ((nothing, 0), (something, 1)):
        assert (value["by_class"]["a"], value["by_class"]["b"]) == pytest.approx((zero, 0))
        assert math.isnan(value["by_class"]["c"])
    assert metric == "voc07" or nothing["ap_small"] == 0
    both = summarized([{"metrics": something}, {"metrics": nothing}])
    assert both["ap50"]["values"] == [something["ap50"], 0]


def test_a_run_of_an_earlier_version_without_a_number():
    short = {"metrics": {"ap": 0.0}}
    assert summarized([{"metrics": {"ap": 0.5, "ap_small": 0.5}}, short])["ap"]["mean"] == 0.25


@pytest.mark.parametrize("metric", ["voc07", "coco"])
def test_a_class_that_is_not_there_is_left_out_of_the_mean(metric):
    data = made_set(image(Annotation((0, 0, 50, 50), 0, area=2500)), classes=("a", "b"))
    result = evaluate(data, [found((0, 0, 50, 50, 0.9, 0), (0, 0, 50, 50, 0.9, 1))], metric)
    assert result.metrics["ap"] == pytest.approx(1)
    assert math.isnan(result.metrics["by_class"]["b"])
    assert "No object of b" in result.warnings[0]


@pytest.mark.parametrize("metric", ["voc07", "voc", "coco"])
@pytest.mark.parametrize(("mark", "kind", "says"), [("difficult", "voc", "difficult"), ("crowd", "coco", "a crowd")])
def test_a_class_whose_objects_are_not_counted_is_named(metric, mark, kind, says):
    objects = (Annotation((0, 0, 50, 50), 0, area=2500), Annotation((100, 0, 50, 50), 1, area=2500, **{mark: True}))
    data = made_set(image(*objects), classes=("a", "b"), kind=kind)
    result = evaluate(data, [found((0, 0, 50, 50, 0.9, 0), (100, 0, 150, 50, 0.9, 1))], metric)
    assert result.metrics["ap"] == pytest.approx(1)
    assert math.isnan(result.metrics["by_class"]["b"])
    assert result.warnings == [f"Every object of b in the test set is {says}: not in the mean."]


def test_masks_have_their_own_numbers():
    from pycocotools import mask

    square = [[0.0, 0.0, 100.0, 0.0, 100.0, 100.0, 0.0, 100.0]]
    half = mask.merge(mask.frPyObjects([[0, 0, 100, 0, 100, 60, 0, 60]], 200, 200))
    half["counts"] = half["counts"].decode()
    data = made_set(image(Annotation((0, 0, 100, 100), 0, area=10000, segmentation=square)), kind="coco")
    metrics = evaluate(data, [found((0, 0, 100, 100, 0.9, 0), masks=[half])], "coco").metrics
    assert (metrics["ap"], metrics["mask_ap50"], metrics["mask_ap75"]) == pytest.approx((1, 1, 0))
    assert metrics["mask_ap"] == pytest.approx(0.3)  # IoU .6 passes .50, .55 and .60


def guesses(data, rng):
    """Boxes near the objects, and some elsewhere, with scores that tie now and then."""
    made = []
    for one in data.images:
        rows = []
        for thing in one.annotations:
            for _ in range(int(rng.integers(0, 3))):
                box = np.array(thing.corners) + rng.normal(0, 4, 4)
                rows.append([*box, round(float(rng.random()), 2), thing.label if rng.random() < 0.9 else 0])
        for _ in range(int(rng.integers(0, 3))):
            x, y = rng.random(2) * 100
            rows.append([x, y, x + 30, y + 20, float(rng.random()), rng.integers(0, len(data.classes))])
        made.append(found(*rows))
    return made


def as_instances(one, size):
    import torch
    from detectron2.structures import Boxes, Instances

    instances = Instances(size)
    instances.pred_boxes = Boxes(torch.from_numpy(one.boxes))
    instances.scores = torch.from_numpy(one.scores)
    instances.pred_classes = torch.from_numpy(one.labels)
    return {"instances": instances}


@pytest.mark.detectron2
@pytest.mark.parametrize("year", [2007, 2012])
def test_equal_to_detectron2s_voc_evaluator(shapes_voc, year, made, tmp_path):
    from detectron2.data import MetadataCatalog
    from detectron2.evaluation import PascalVOCDetectionEvaluator

    folder = made.write_voc(tmp_path, {"test": 30}, seed=5)
    made.write_xml(folder, "test003", 160, [("disc", 5, 5, 60, 60), ("disc", 80, 80, 120, 120)], difficult=(1,))
    data = open_detection_set(str(folder), "test")
    seen = guesses(data, np.random.default_rng(year))
    name = f"made_voc_{year}"
    MetadataCatalog.get(name).set(dirname=str(folder), split="test", year=year, thing_classes=list(data.classes))
    evaluator = PascalVOCDetectionEvaluator(name)
    evaluator.reset()
    for one, guess in zip(data.images, seen, strict=True):
        evaluator.process([{"image_id": one.id}], [as_instances(guess, (160, 160))])
    theirs = evaluator.evaluate()["bbox"]
    ours = evaluate(data, seen, {2007: "voc07", 2012: "voc"}[year]).metrics
    assert 0.1 < ours["ap"] < 0.9
    for name in ("AP", "AP50", "AP75"):
        assert 100 * ours[name.lower()] == pytest.approx(theirs[name], abs=1e-9)


@pytest.mark.detectron2
def test_equal_to_detectron2s_coco_evaluator(made, tmp_path):
    from detectron2.data import DatasetCatalog
    from detectron2.data.datasets import register_coco_instances
    from detectron2.evaluation import COCOEvaluator

    folder = made.write_coco(tmp_path / "set", {"val": 30}, seed=6)
    file = folder / "annotations" / "instances_val.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["iscrowd"] = 1
    content["annotations"][0]["segmentation"] = {"size": [160, 160], "counts": [0, 160 * 160]}
    content["info"], content["licenses"] = {}, []
    content["images"].reverse()  # the order of a file is not that of its ids
    file.write_text(json.dumps(content))
    data = open_detection_set(str(folder), "test")
    seen = guesses(data, np.random.default_rng(0))
    register_coco_instances("made_coco", {}, str(file), str(folder / "val"))
    DatasetCatalog.get("made_coco")  # fills in the classes
    evaluator = COCOEvaluator("made_coco", tasks=("bbox",), output_dir=str(tmp_path / "out"), use_fast_impl=False)
    evaluator.reset()
    for one, guess in zip(data.images, seen, strict=True):
        evaluator.process([{"image_id": one.id}], [as_instances(guess, (160, 160))])
    theirs = evaluator.evaluate()["bbox"]
    result = evaluate(data, seen, "coco")
    assert 0.1 < result.metrics["ap"] < 0.9
    for ours, name in (("ap", "AP"), ("ap50", "AP50"), ("ap75", "AP75"), ("ap_medium", "APm")):
        assert 100 * result.metrics[ours] == pytest.approx(theirs[name], abs=1e-9)
    for label in data.classes:
        assert 100 * result.metrics["by_class"][label] == pytest.approx(theirs[f"AP-{label}"], abs=1e-9)


def test_the_result_file_has_the_annotation_files_ids(made, tmp_path):
    """pycocotools finds in the two files what the evaluator found, boxes and masks."""
    from pycocotools import mask
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    folder = made.write_coco(tmp_path / "set", {"train2017": 2, "val2017": 12}, seed=6)
    data = open_train_and_test((str(folder),), str(folder), ("triangle", "square", "disc"))[1]
    seen = []
    for one in guesses(data, np.random.default_rng(0)):
        x1, y1, x2, y2 = one.boxes.T
        outlines = np.stack([x1, y1, x2, y1, x2, y2, x1, y2], 1).astype(float)
        masks = [mask.merge(mask.frPyObjects([outline.tolist()], 160, 160)) for outline in outlines]
        masks = [encoded | {"counts": encoded["counts"].decode()} for encoded in masks]
        seen.append(Detections(one.boxes, one.scores, one.labels, masks))
    ours = evaluate(data, seen, "coco").metrics
    (tmp_path / "detections.json").write_text(json.dumps(result_file_entries(data, seen)))
    truth = COCO(folder / "annotations" / "instances_val2017.json")
    for what, prefix in (("bbox", ""), ("segm", "mask_")):
        evaluator = COCOeval(truth, truth.loadRes(str(tmp_path / "detections.json")), what)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
        assert evaluator.stats[:3] == pytest.approx([ours[f"{prefix}{name}"] for name in ("ap", "ap50", "ap75")])
        assert evaluator.stats[1] > 0.1
