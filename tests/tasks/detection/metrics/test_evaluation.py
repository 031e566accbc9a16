"""The evaluator against cases computed by hand, and against detectron2's evaluators on the same predictions."""

import json
import math

import numpy as np
import pytest

from tasks.detection.data.dataset import Annotation, DetectionDataset, LabeledImage, LabeledImages
from tasks.detection.data.detections import Detections
from tasks.detection.data.opening import open_detection_dataset, open_train_and_test
from tasks.detection.metrics.coco_ap import result_file_entries
from tasks.detection.metrics.evaluation import evaluate


def detections(*rows, masks=None):
    """Detections of rows (x1, y1, x2, y2, score, label)."""
    values = np.array(rows, dtype=np.float64).reshape(-1, 6)
    return Detections(
        values[:, :4].astype(np.float32), values[:, 4].astype(np.float32), values[:, 5].astype(int), masks
    )


def image(*annotations, name=0):
    return LabeledImage(name, f"{name}.jpg", 200, 200, annotations)


def dataset(*images, classes=("a",), kind="voc"):
    return DetectionDataset("example", kind, classes, LabeledImages.packed(images))


# Three objects count and one is difficult. By falling score: true positive, on the difficult object (ignored), false
# positive, true positive, a second detection of the same object (false positive): precision 1, 1/2, 2/3, 1/2 at recall
# 1/3, 1/3, 2/3, 2/3.
IMAGES = (
    image(Annotation((0, 0, 50, 50), 0), Annotation((100, 100, 50, 50), 0, difficult=True)),
    image(Annotation((0, 0, 50, 50), 0), Annotation((120, 0, 50, 50), 0), name=1),
)
DETECTED = (
    detections((0, 0, 50, 50, 0.9, 0), (100, 100, 150, 150, 0.85, 0), (60, 0, 90, 30, 0.8, 0)),
    detections((0, 0, 50, 50, 0.7, 0), (0, 0, 50, 49, 0.6, 0)),
)


@pytest.mark.parametrize(("rule", "ap50"), [("voc07", 6 / 11), ("voc", 1 / 3 + 1 / 3 * 2 / 3)])
def test_voc_rules_by_hand(rule, ap50):
    evaluation = evaluate(dataset(*IMAGES), DETECTED, rule)
    assert evaluation.average_precision["ap50"] == pytest.approx(ap50, abs=1e-12)
    assert evaluation.by_class["by_class_ap50"]["a"] == evaluation.average_precision["ap50"]


def test_voc_overlap_must_exceed_the_threshold():
    data = dataset(image(Annotation((0, 0, 100, 100), 0)))
    for bottom, ap50 in ((50, 0), (50.2, 1)):  # 50 gives an IoU of exactly .5
        assert evaluate(data, [detections((0, 0, 100, bottom, 0.9, 0))], "voc").average_precision["ap50"] == ap50


def test_coco_by_hand():
    """IoU 80 / 120 passes four of the ten thresholds."""
    data = dataset(image(Annotation((0, 0, 100, 100), 0, area=10000)), kind="coco")
    ap = evaluate(data, [detections((20, 0, 120, 100, 0.9, 0))], "coco").average_precision
    assert (ap["ap"], ap["ap50"], ap["ap75"]) == pytest.approx((0.4, 1, 0))
    assert ap["ap_large"] == pytest.approx(0.4)
    assert math.isnan(ap["ap_small"])


def test_coco_ignores_difficult_objects():
    difficult = Annotation((100, 100, 50, 50), 0, difficult=True, area=2500)
    data = dataset(image(Annotation((0, 0, 50, 50), 0, area=2500), difficult))
    detected = detections((100, 100, 150, 150, 0.95, 0), (0, 0, 50, 50, 0.9, 0))
    assert evaluate(data, [detected], "coco").average_precision["ap"] == pytest.approx(1)


@pytest.mark.parametrize("metric", ["voc07", "voc", "coco"])
def test_no_detections_give_zero_and_a_warning(metric):
    evaluation = evaluate(dataset(*IMAGES), [detections(), detections()], metric)
    assert [evaluation.average_precision[name] for name in ("ap", "ap50", "ap75")] == [0, 0, 0]
    assert evaluation.detections == 0
    assert "detected nothing" in evaluation.warnings[0]


@pytest.mark.parametrize("metric", ["voc07", "coco"])
def test_no_detections_give_the_same_metrics_as_some(metric):
    small = image(Annotation((0, 0, 20, 20), 0, area=400), Annotation((50, 50, 20, 20), 1, area=400))
    data = dataset(small, classes=("a", "b", "c"))
    none = evaluate(data, [detections()], metric)
    some = evaluate(data, [detections((0, 0, 20, 20, 0.9, 0))], metric)
    assert list(none.to_dict()) == list(some.to_dict())
    assert [math.isnan(value) for value in none.average_precision.values()] == [
        math.isnan(value) for value in some.average_precision.values()
    ]
    for evaluation, ap in ((none, 0), (some, 1)):
        by_class = evaluation.by_class["by_class"]
        assert (by_class["a"], by_class["b"]) == pytest.approx((ap, 0))
        assert math.isnan(by_class["c"])
    assert metric == "voc07" or none.average_precision["ap_small"] == 0


@pytest.mark.parametrize("metric", ["voc07", "coco"])
def test_absent_class_is_left_out_of_the_mean(metric):
    data = dataset(image(Annotation((0, 0, 50, 50), 0, area=2500)), classes=("a", "b"))
    evaluation = evaluate(data, [detections((0, 0, 50, 50, 0.9, 0), (0, 0, 50, 50, 0.9, 1))], metric)
    assert evaluation.average_precision["ap"] == pytest.approx(1)
    assert math.isnan(evaluation.by_class["by_class"]["b"])
    assert evaluation.warnings == ["The test set has no objects of b; left out of the mean."]


@pytest.mark.parametrize("metric", ["voc07", "voc", "coco"])
@pytest.mark.parametrize(
    ("mark", "kind", "message"), [("difficult", "voc", "difficult"), ("crowd", "coco", "crowd regions")]
)
def test_class_with_ignored_objects_only_is_named(metric, mark, kind, message):
    objects = (Annotation((0, 0, 50, 50), 0, area=2500), Annotation((100, 0, 50, 50), 1, area=2500, **{mark: True}))
    data = dataset(image(*objects), classes=("a", "b"), kind=kind)
    evaluation = evaluate(data, [detections((0, 0, 50, 50, 0.9, 0), (100, 0, 150, 50, 0.9, 1))], metric)
    assert evaluation.average_precision["ap"] == pytest.approx(1)
    assert math.isnan(evaluation.by_class["by_class"]["b"])
    assert evaluation.warnings == [f"All objects of b in the test set are {message}; left out of the mean."]


def test_masks_have_their_own_metrics():
    from pycocotools import mask

    square = [[0.0, 0.0, 100.0, 0.0, 100.0, 100.0, 0.0, 100.0]]
    half = mask.merge(mask.frPyObjects([[0, 0, 100, 0, 100, 60, 0, 60]], 200, 200))
    half["counts"] = half["counts"].decode()
    data = dataset(image(Annotation((0, 0, 100, 100), 0, area=10000, segmentation=square)), kind="coco")
    ap = evaluate(data, [detections((0, 0, 100, 100, 0.9, 0), masks=[half])], "coco").average_precision
    assert (ap["ap"], ap["mask_ap50"], ap["mask_ap75"]) == pytest.approx((1, 1, 0))
    assert ap["mask_ap"] == pytest.approx(0.3)  # IoU .6 passes .50, .55 and .60


def random_detections(data, rng):
    """Boxes near the objects, and some elsewhere, with scores that sometimes tie."""
    detected = []
    for item in data.images:
        rows = []
        for obj in item.annotations:
            for _ in range(int(rng.integers(0, 3))):
                box = np.array(obj.corners) + rng.normal(0, 4, 4)
                rows.append([*box, round(float(rng.random()), 2), obj.label if rng.random() < 0.9 else 0])
        for _ in range(int(rng.integers(0, 3))):
            x, y = rng.random(2) * 100
            rows.append([x, y, x + 30, y + 20, float(rng.random()), rng.integers(0, len(data.classes))])
        detected.append(detections(*rows))
    return detected


def as_instances(detected, size):
    """detectron2's form of the detections of one image."""
    import torch
    from detectron2.structures import Boxes, Instances

    instances = Instances(size)
    instances.pred_boxes = Boxes(torch.from_numpy(detected.boxes))
    instances.scores = torch.from_numpy(detected.scores)
    instances.pred_classes = torch.from_numpy(detected.labels)
    return {"instances": instances}


@pytest.mark.detectron2
@pytest.mark.parametrize("year", [2007, 2012])
def test_equals_detectron2s_voc_evaluator(shapes, year, tmp_path):
    from detectron2.data import MetadataCatalog
    from detectron2.evaluation import PascalVOCDetectionEvaluator

    folder = shapes.write_voc(tmp_path, {"test": 30}, seed=5)
    shapes.write_xml(folder, "test003", 160, [("disc", 5, 5, 60, 60), ("disc", 80, 80, 120, 120)], difficult=(1,))
    data = open_detection_dataset(str(folder), "test")
    detected = random_detections(data, np.random.default_rng(year))
    name = f"shapes_voc_{year}"
    MetadataCatalog.get(name).set(dirname=str(folder), split="test", year=year, thing_classes=list(data.classes))
    evaluator = PascalVOCDetectionEvaluator(name)
    evaluator.reset()
    for item, prediction in zip(data.images, detected, strict=True):
        evaluator.process([{"image_id": item.id}], [as_instances(prediction, (160, 160))])
    expected = evaluator.evaluate()["bbox"]
    ap = evaluate(data, detected, {2007: "voc07", 2012: "voc"}[year]).average_precision
    assert 0.1 < ap["ap"] < 0.9
    for name in ("AP", "AP50", "AP75"):
        assert 100 * ap[name.lower()] == pytest.approx(expected[name], abs=1e-9)


@pytest.mark.detectron2
def test_equals_detectron2s_coco_evaluator(shapes, tmp_path):
    from detectron2.data import DatasetCatalog
    from detectron2.data.datasets import register_coco_instances
    from detectron2.evaluation import COCOEvaluator

    folder = shapes.write_coco(tmp_path / "set", {"val": 30}, seed=6)
    file = folder / "annotations" / "instances_val.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["iscrowd"] = 1
    content["annotations"][0]["segmentation"] = {"size": [160, 160], "counts": [0, 160 * 160]}
    content["info"], content["licenses"] = {}, []
    content["images"].reverse()  # the order of a file need not be that of its ids
    file.write_text(json.dumps(content))
    data = open_detection_dataset(str(folder), "test")
    detected = random_detections(data, np.random.default_rng(0))
    register_coco_instances("shapes_coco", {}, str(file), str(folder / "val"))
    DatasetCatalog.get("shapes_coco")  # fills in the classes
    evaluator = COCOEvaluator("shapes_coco", tasks=("bbox",), output_dir=str(tmp_path / "out"), use_fast_impl=False)
    evaluator.reset()
    for item, prediction in zip(data.images, detected, strict=True):
        evaluator.process([{"image_id": item.id}], [as_instances(prediction, (160, 160))])
    expected = evaluator.evaluate()["bbox"]
    evaluation = evaluate(data, detected, "coco")
    ap = evaluation.average_precision
    assert 0.1 < ap["ap"] < 0.9
    for name, detectron2_name in (("ap", "AP"), ("ap50", "AP50"), ("ap75", "AP75"), ("ap_medium", "APm")):
        assert 100 * ap[name] == pytest.approx(expected[detectron2_name], abs=1e-9)
    for name in data.classes:
        assert 100 * evaluation.by_class["by_class"][name] == pytest.approx(expected[f"AP-{name}"], abs=1e-9)


def test_result_file_has_the_ids_of_the_annotation_file(shapes, tmp_path):
    """pycocotools computes from the two files what the evaluator computes, for boxes and masks."""
    from pycocotools import mask
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    folder = shapes.write_coco(tmp_path / "set", {"train2017": 2, "val2017": 12}, seed=6)
    data = open_train_and_test((str(folder),), str(folder), ("triangle", "square", "disc"))[1]
    detected = []
    for boxes in random_detections(data, np.random.default_rng(0)):
        x1, y1, x2, y2 = boxes.boxes.T
        outlines = np.stack([x1, y1, x2, y1, x2, y2, x1, y2], 1).astype(float)
        masks = [mask.merge(mask.frPyObjects([outline.tolist()], 160, 160)) for outline in outlines]
        masks = [encoded | {"counts": encoded["counts"].decode()} for encoded in masks]
        detected.append(Detections(boxes.boxes, boxes.scores, boxes.labels, masks))
    ap = evaluate(data, detected, "coco").average_precision
    (tmp_path / "detections.json").write_text(json.dumps(result_file_entries(data, detected)))
    ground_truth = COCO(folder / "annotations" / "instances_val2017.json")
    for iou_type, prefix in (("bbox", ""), ("segm", "mask_")):
        evaluator = COCOeval(ground_truth, ground_truth.loadRes(str(tmp_path / "detections.json")), iou_type)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
        assert evaluator.stats[:3] == pytest.approx([ap[f"{prefix}{name}"] for name in ("ap", "ap50", "ap75")])
        assert evaluator.stats[1] > 0.1
