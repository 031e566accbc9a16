"""`demo`: its table shows learning and collapse, and a second run reuses the files."""

import json
from pathlib import Path

import pytest

ROWS = ["raw_pixels", "untrained", "simsiam", "no_stop_gradient"]
OPTIONS = ("--seed", 1, "--epochs", 8)


@pytest.fixture(scope="module")
def demo(call, tmp_path_factory):
    """The folder and the record of a demo with fewer epochs than the preset has."""
    out = tmp_path_factory.mktemp("demo") / "demo"
    result = call("demo", "--out", out, *OPTIONS, "--json")
    assert result.exit_code == 0, result.output
    return out, json.loads(result.stdout)


def test_every_row_has_both_accuracies_with_intervals(demo):
    metrics = demo[1]["metrics"]
    assert list(metrics) == ROWS
    for line in metrics.values():
        for name in ("knn_top1", "linear_top1"):
            low, high = line[f"{name}_interval"]
            assert 0 <= low < line[name] < high <= 1
        assert line["images"] == 400
    assert metrics["raw_pixels"]["knn_top1"] < 0.6  # the colors mislead a nearest neighbor
    assert metrics["untrained"]["output_std"] is None


def test_rows_show_learning_and_collapse(demo):
    lines = demo[1]["metrics"]
    untrained, simsiam, collapsed = (lines[name] for name in ROWS[1:])
    for name in ("knn_top1", "linear_top1"):
        assert simsiam[f"{name}_interval"][0] > untrained[f"{name}_interval"][1]
        assert collapsed[f"{name}_interval"][1] < simsiam[f"{name}_interval"][0]
    assert simsiam["output_std"] > 0.9 > 0.6 > collapsed["output_std"]


def test_other_commands_use_its_files(demo, record):
    out, result = demo
    checkpoint = record("inspect", result["files"]["simsiam"])["metrics"]
    assert (checkpoint["arch"], checkpoint["epoch"]) == ("resnet10_x0_5", 8)
    again = record("knn", "--train", out / "simsiam-train.h5", "--test", out / "simsiam-test.h5", "-k", 20)
    assert again["metrics"]["top1"] == result["metrics"]["simsiam"]["knn_top1"]


def test_report_is_about_simsiam(demo):
    out, result = demo
    assert result["files"]["report"] == str(out / "report.html")
    page = (out / "report.html").read_text()
    assert "Of 400 test images of 10 classes, the nearest neighbors classify" in page
    top1 = result["metrics"]["simsiam"]["knn_top1"]
    assert f"classify {100 * top1:.2f} % correctly" in page
    assert "and a linear classifier" in page


def test_report_opens_in_a_browser(demo, opened):
    shown, faults = opened(demo[0] / "report.html")
    for chart, classes in (("#map-chart", 10), ("[data-figure=confusion]", 1), ("#pair-second", 3)):
        shown.locator(chart).scroll_into_view_if_needed()
        shown.wait_for_function(f"document.querySelector('{chart}').data?.length >= {classes}")
    assert faults == []


def test_second_run_computes_nothing(demo, record):
    out, result = demo
    before = {path: path.stat().st_mtime_ns for path in Path(out).rglob("*.h5")}
    assert record("demo", "--out", out, *OPTIONS)["metrics"] == result["metrics"]
    assert {path: path.stat().st_mtime_ns for path in Path(out).rglob("*.h5")} == before


def test_folder_with_other_settings_or_files_is_not_changed(demo, call, tmp_path):
    for options, message in (
        (("--seed", 4, *OPTIONS[2:]), "--seed 1, not 4"),
        ((*OPTIONS[:2], "--epochs", 1), "--epochs 8, not 1"),
    ):
        other = call("demo", "--out", demo[0], *options)
        assert other.exit_code == 1
        assert message in other.stderr
    (tmp_path / "mine.txt").write_text("keep")
    foreign = call("demo", "--out", tmp_path)
    assert foreign.exit_code == 1
    assert "--out" in foreign.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
