"""Statistics over runs, and the results table."""

import math

from tasks.detection.backends.torchvision.backend import TorchvisionBackend
from tasks.detection.metrics.evaluation import Evaluation
from tasks.detection.run import RunResult
from tasks.detection.run_folder import read_json, write_json
from tasks.detection.summary import TableRow, results_table, summarize


def run(seed=0, **average_precision):
    return RunResult("random", seed, 1.5, Evaluation(3, 2, average_precision, {"by_class": {"a": math.nan}}, ["w"]))


def test_statistics_over_runs():
    statistics = summarize([run(ap=0.5, ap_small=0.25), run(1, ap=0.0, ap_small=math.nan)])
    assert list(statistics) == ["ap"]
    assert statistics["ap"].to_dict() == {"mean": 0.25, "std": math.sqrt(0.125), "values": [0.5, 0.0]}
    assert summarize([run(ap=0.5)])["ap"].std is None


def test_result_survives_a_file(tmp_path):
    write_json(tmp_path / "evaluation.json", run(ap=0.5, ap_small=math.nan).to_dict())
    values = read_json(tmp_path / "evaluation.json")
    assert values["metrics"] == {"detections": 3, "images": 2, "ap": 0.5, "ap_small": None, "by_class": {"a": None}}
    evaluation = RunResult.from_dict(values).evaluation
    assert math.isnan(evaluation.average_precision["ap_small"])
    assert math.isnan(evaluation.by_class["by_class"]["a"])
    assert evaluation.warnings == ["w"]


def test_table_with_masks():
    statistics = summarize([run(ap=0.5, ap50=0.75, ap75=0.25, mask_ap=0.5, mask_ap50=0.5)])
    rows = [TableRow("random", "resnet18-fpn", statistics)]
    table = results_table(rows, TorchvisionBackend(), "coco-1x", "coco-1x, reduced for CPU", "coco", ["first"])
    assert table.columns[-3:] == ["mask AP50", "mask AP", "mask AP75"]
    assert table.rows[0] == ["random", "torchvision", "resnet18-fpn", "1", "75.0", "50.0", "25.0", "50.0", "50.0", "-"]
    assert table.rows[1][0] == "paper: supervised"
    assert len(table.rows[1]) == len(table.columns)
    assert table.notes[0] == "first"
    assert "do not follow the full protocol (coco-1x, reduced for CPU)" in table.notes[2]
    assert "torchvision is not the reference protocol" in table.notes[3]
