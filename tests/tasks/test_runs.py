import csv
import json
import os
from pathlib import Path

import pytest

from simsiam_eval.commands.main_metrics import MAIN_METRICS
from simsiam_eval.commands.record import RECORD_VERSION
from simsiam_eval.commands.table import COMMANDS

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "records.json").read_text(encoding="utf-8"))["records"]


def made(task="knn", **changed):
    """A record as a command writes it."""
    features = {
        "encoder": {"arch": "resnet18", "weights_sha256": "bc851c06600c2a76e8"},
        "source": {"spec": "digits#test", "fingerprint": "1"},
    }
    values = {
        "record": "simsiam-eval",
        "record_version": 1,
        "task": task,
        "protocol": "dino",
        "metrics": {"top1": 0.5, "top1_interval": [0.4, 0.6]},
        "faults": [],
        "provenance": {"test": features, "train": features, "finished": "2026-01-02T03:04:05Z"},
        "files": {},
        "settings": {},
    }
    return values | changed


def write(path, values, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, **options), encoding="utf-8")
    return path


def test_the_records_of_the_commands_are_one_table(record, call, pipeline, tmp_path):
    knn = call("knn", "--train", pipeline / "train.h5", "--test", pipeline / "test.h5", "--json").stdout
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "knn of today.json").write_text(knn)
    linear = ("linear-eval", "--train", pipeline / "train.h5", "--test", pipeline / "test.h5", "--epochs", 1)
    record(*linear, "--out", tmp_path / "b")
    found = record("runs", tmp_path, pipeline / "run", "--csv", tmp_path / "runs.csv")["metrics"]
    assert (found["records"], found["unfinished"], found["unread"]) == (3, 0, [])
    by_task = {run["task"]: run for run in found["runs"]}
    assert set(by_task) == {"knn", "linear-eval", "pretrain"}
    assert by_task["knn"]["metrics"]["top1"]["value"] == json.loads(knn)["metrics"]["top1"]
    assert by_task["knn"]["metrics"]["top1"]["interval"] == json.loads(knn)["metrics"]["top1_interval"]
    sha = json.loads(knn)["provenance"]["test"]["encoder"]["weights_sha256"]
    assert by_task["knn"]["encoders"] == [f"resnet18 {sha[:8]}"]
    assert by_task["knn"]["data"] == ["digits#test", "digits#train"]
    assert by_task["pretrain"]["metrics"]["loss"]["value"] < 0
    assert by_task["linear-eval"]["file"].endswith("b/record.json")
    lines = list(csv.DictReader((tmp_path / "runs.csv").open()))
    assert {(line["task"], line["metric"]) for line in lines} >= {("knn", "top1"), ("linear-eval", "mean_per_class")}
    shown = call("runs", tmp_path).stdout
    assert "2 records" in shown and sha[:8] in shown and "top-1 %" in shown


@pytest.mark.parametrize("name", [name for name, values in GOLDEN.items() if "task" in values])
def test_the_record_of_every_command_is_read(record, tmp_path, name):
    golden = GOLDEN[name]
    (line, *_) = record("runs", write(tmp_path / "a.json", golden))["metrics"]["runs"]
    assert line["task"] == golden["task"]
    without = ("inspect", "verify", "retrieval search", "report", "runs", "serve")  # a search may have no recall
    if golden["task"] not in without and name != "pretrain on digits, untrained":  # no epoch, no loss
        assert line["metrics"]
    if golden["task"] not in ("demo", "pretrain"):
        assert line["encoders"]


def test_parts_of_a_record_are_lines(record, tmp_path):
    write(tmp_path / "c.json", GOLDEN["compare"])
    lines = record("runs", tmp_path)["metrics"]["runs"]
    methods = GOLDEN["compare"]["metrics"]["methods"]
    assert {line["of"]: line["metrics"]["top1"]["value"] for line in lines} == {
        method["name"]: method["top1"] for method in methods
    }
    assert all(len(line["encoders"]) == 1 for line in lines)
    assert len({line["encoders"][0] for line in lines}) > 1


def test_main_metrics_are_of_commands_and_in_their_records():
    assert set(MAIN_METRICS) <= set(COMMANDS)
    for task, metrics in MAIN_METRICS.items():
        recorded = json.dumps([values for values in GOLDEN.values() if "task" in values and values["task"] == task])
        for metric in metrics if recorded != "[]" else ():  # `suspects` has a test of its own
            assert f'"{metric.name}"' in recorded, (task, metric)


def test_sorting(record, tmp_path):
    for number, (value, date) in enumerate(
        [(0.2, "2026-01-03"), (0.9, "2026-01-01"), (None, None), (0.5, "2026-01-02")]
    ):
        metrics = {} if value is None else {"top1": value}
        write(tmp_path / f"{number}.json", made(metrics=metrics, provenance={"finished": date}))

    def order(*options):
        return [Path(run["file"]).stem for run in record("runs", tmp_path, *options)["metrics"]["runs"]]

    assert order() == ["0", "3", "1", "2"]
    assert order("--reverse") == ["1", "3", "0", "2"]
    assert order("--sort", "value") == ["1", "3", "0", "2"]
    assert order("--sort", "file") == ["0", "1", "2", "3"]


def test_only_records_of_a_task(record, call, tmp_path):
    write(tmp_path / "a.json", made())
    write(tmp_path / "b.json", made("predict"))
    assert record("runs", tmp_path, "--task", "predict")["metrics"]["records"] == 1
    write(tmp_path / "c.json", made("verify"))  # a command without a main metric
    assert record("runs", tmp_path, "--task", "verify")["metrics"]["records"] == 1
    assert "No records of rank found" in call("runs", tmp_path, "--task", "rank").stderr
    assert call("runs", tmp_path, "--sort", "size").exit_code == 2


def test_versions(record, call, tmp_path):
    old = made()
    del old["record_version"], old["faults"], old["files"]
    write(tmp_path / "old.json", old)
    newer = write(tmp_path / "newer.json", made(record_version=RECORD_VERSION + 1))
    found = record("runs", tmp_path)["metrics"]
    assert [run["record_version"] for run in found["runs"]] == [0]
    assert "was written by a newer version of simsiam-eval" in found["unread"][0]["reason"]
    alone = call("runs", newer)
    assert alone.exit_code == 1 and "newer version" in alone.stderr


def test_other_json_is_skipped_and_damaged_records_are_named(record, call, tmp_path):
    write(tmp_path / "good.json", made())
    write(tmp_path / "sorted.json", made(metrics={"x": "y" * 9000}, task="verify"), sort_keys=True)
    write(tmp_path / "coco.json", {"images": [], "info": "simsiam-eval"})
    (tmp_path / "list.json").write_text("[1, 2")
    (tmp_path / "binary.json").write_bytes(b"\xff\x00\x80")
    (tmp_path / "powershell.json").write_bytes(json.dumps(made()).encode("utf-16"))
    (tmp_path / "cut off.json").write_text(json.dumps(made(), indent=2)[:300])
    (tmp_path / "empty.json").write_text("")
    write(tmp_path / "metrics.json", made(metrics=[1]))
    (tmp_path / "deep.json").write_text('{"record": "simsiam-eval", "x": ' + "[" * 100_000)
    found = record("runs", tmp_path)["metrics"]
    assert sorted(Path(run["file"]).stem for run in found["runs"]) == ["good", "powershell", "sorted"]
    assert sorted(Path(entry["file"]).stem for entry in found["unread"]) == ["cut off", "deep", "empty", "metrics"]
    shown = call("runs", tmp_path)
    assert shown.exit_code == 0 and "Not read: 4 files" in shown.stdout and "cut off.json" in shown.stdout


def test_links_pipes_hidden_folders_and_missing_ones(record, call, tmp_path):
    write(tmp_path / "runs" / "a.json", made())
    write(tmp_path / "elsewhere" / "b.json", made("predict"))
    write(tmp_path / "runs" / ".hidden" / "c.json", made())
    os.symlink(tmp_path / "elsewhere", tmp_path / "runs" / "link")
    os.symlink(tmp_path / "runs", tmp_path / "runs" / "loop")
    os.symlink("nowhere.json", tmp_path / "runs" / "broken.json")
    os.symlink("self.json", tmp_path / "runs" / "self.json")
    os.link(tmp_path / "runs" / "a.json", tmp_path / "runs" / "again.json")
    os.mkfifo(tmp_path / "runs" / "pipe.json")
    (tmp_path / "runs" / "folder.json").mkdir()
    found = record("runs", tmp_path / "runs", tmp_path / "elsewhere")["metrics"]
    assert sorted(Path(run["file"]).name for run in found["runs"]) == ["a.json", "b.json"]
    assert "none cannot be opened: No such file" in call("runs", tmp_path / "none").stderr
    assert "neither a folder nor a regular file" in call("runs", tmp_path / "runs" / "pipe.json").stderr
    assert "No records found below" in call("runs", tmp_path / "runs" / "folder.json").stderr


def test_folders_and_files_that_cannot_be_opened_are_named(record, tmp_path, monkeypatch):
    write(tmp_path / "a.json", made())
    write(tmp_path / "locked" / "b.json", made())
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr("simsiam_eval.commands.record_search.os.scandir", refuse)
    found = record("runs", tmp_path)["metrics"]
    assert found["records"] == 1
    assert found["unread"][0]["reason"].endswith("locked cannot be read: Permission denied.")


def test_large_files_are_not_read(record, tmp_path, monkeypatch):
    monkeypatch.setattr("simsiam_eval.commands.record_file._MAX_SEARCHED", 20_000)
    monkeypatch.setattr("simsiam_eval.commands.record_file._MAX_BYTES", 40_000)
    write(tmp_path / "a.json", made())
    write(tmp_path / "annotations.json", {"images": ["x" * 30_000], "record": "simsiam-eval"})
    write(tmp_path / "b.json", made(settings={"x": "y" * 30_000}))
    write(tmp_path / "c.json", made(settings={"x": "y" * 50_000}))
    found = record("runs", tmp_path)["metrics"]
    assert [Path(run["file"]).stem for run in found["runs"]] == ["a", "b"]
    assert "records of at most" in found["unread"][0]["reason"]


def test_unfinished_runs(record, call, pipeline, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    for name in ("log.jsonl", "checkpoint_last.pth.tar"):
        os.link(pipeline / "run" / name, run / name)
    identity = {"settings": {"train": ["voc:x"], "preset": "voc07"}, "training_set": "1", "backend": "torchvision"}
    write(tmp_path / "det" / "run.json", identity)
    (tmp_path / "det" / "random-seed0").mkdir()
    (tmp_path / "det" / "random-seed0" / "log.jsonl").write_text('{"step": 20, "loss": 1.5}\n{"step": 30, "lo')
    write(tmp_path / "other" / "run.json", {"id": 3})
    found = record("runs", tmp_path)["metrics"]
    assert (found["records"], found["unfinished"]) == (0, 2)
    by_task = {entry["task"]: entry for entry in found["runs"]}
    assert by_task["pretrain"]["state"].startswith("unfinished after epoch ")
    assert by_task["pretrain"]["metrics"]["loss"]["value"] < 0
    assert by_task["detect"]["state"] == "unfinished after step 20"
    assert (by_task["detect"]["data"], by_task["detect"]["protocol"]) == (["voc:x"], "voc07")
    assert "0 records, 2 unfinished runs" in call("runs", tmp_path).stdout
    (run / "result.json").write_text(json.dumps(made("pretrain")))
    assert record("runs", run)["metrics"]["unfinished"] == 0


def test_control_characters_do_not_reach_the_terminal(call, tmp_path):
    write(tmp_path / "a\x1b[2J.json", made(protocol="\x1b]0;title\x07"))
    assert "\x1b" not in call("runs", tmp_path).stdout


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1" + "0" * 400, '"0.9"', "true", "null", "[0.9]"])
def test_a_metric_that_is_no_finite_number_is_not_a_value(record, tmp_path, value):
    text = '{"record": "simsiam-eval", "record_version": 1, "task": "knn", "metrics": {"top1": %s, "top5": 0.5}}'
    (tmp_path / "a.json").write_text(text % value)
    (line,) = record("runs", tmp_path, "--csv", tmp_path / "a.csv")["metrics"]["runs"]
    assert list(line["metrics"]) == ["top5"] and line["metrics"]["top5"]["value"] == 0.5
