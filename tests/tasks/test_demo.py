import json
from pathlib import Path

import pytest

LINES = ["raw_pixels", "untrained", "simsiam", "no_stop_gradient"]
CHOSEN = ("--seed", 1, "--epochs", 6)


@pytest.fixture(scope="module")
def demo(call, tmp_path_factory):
    """The demo with a seed that its recipe was not chosen on, in six epochs instead of nine: its folder and its record."""
    out = tmp_path_factory.mktemp("demo") / "demo"
    result = call("demo", "--out", out, *CHOSEN, "--json")
    assert result.exit_code == 0, result.output
    return out, json.loads(result.stdout)


def test_every_line_has_both_accuracies_with_their_intervals(demo):
    metrics = demo[1]["metrics"]
    assert list(metrics) == LINES
    for line in metrics.values():
        for name in ("knn_top1", "linear_top1"):
            low, high = line[f"{name}_interval"]
            assert 0 <= low < line[name] < high <= 1
        assert line["images"] == 600
    assert metrics["raw_pixels"]["knn_top1"] > 0.95  # scikit-learn's digits are easy for a nearest neighbor
    assert metrics["untrained"]["output_std"] is None


def test_it_shows_the_learning_and_the_collapse(demo):
    lines = demo[1]["metrics"]
    untrained, simsiam, collapsed = (lines[name] for name in LINES[1:])
    for name in ("knn_top1", "linear_top1"):
        assert simsiam[f"{name}_interval"][0] > untrained[f"{name}_interval"][1]
        assert collapsed[f"{name}_interval"][1] < simsiam[f"{name}_interval"][0]
    assert simsiam["output_std"] > 0.9 > 0.6 > collapsed["output_std"]


def test_other_commands_take_what_it_made(demo, record):
    out, made = demo
    found = record("inspect", made["files"]["simsiam"])["metrics"]
    assert (found["arch"], found["epoch"]) == ("resnet18", 6)
    again = record("knn", "--train", out / "simsiam-train.h5", "--test", out / "simsiam-test.h5", "-k", 20)
    assert again["metrics"]["top1"] == made["metrics"]["simsiam"]["knn_top1"]


def test_a_second_run_makes_nothing_again(demo, record):
    out, made = demo
    before = {path: path.stat().st_mtime_ns for path in Path(out).rglob("*.h5")}
    assert record("demo", "--out", out, *CHOSEN)["metrics"] == made["metrics"]
    assert {path: path.stat().st_mtime_ns for path in Path(out).rglob("*.h5")} == before


def test_a_folder_of_other_settings_or_of_something_else_is_left_alone(demo, call, tmp_path):
    for options, said in (
        (("--seed", 4, *CHOSEN[2:]), "--seed 1, not 4"),
        ((*CHOSEN[:2], "--epochs", 1), "--epochs 6, not 1"),
    ):
        other = call("demo", "--out", demo[0], *options)
        assert other.exit_code == 1
        assert said in other.stderr
    (tmp_path / "mine.txt").write_text("keep")
    foreign = call("demo", "--out", tmp_path)
    assert foreign.exit_code == 1
    assert "--out" in foreign.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
