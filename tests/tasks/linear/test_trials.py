import numpy as np
import pytest

from simsiam_eval.errors import DataError


def test_shots_fractions_and_trials_are_rows_with_mean_and_deviation(sets, run):
    plain = dict(lars=False, lr=10, epochs=20)
    found = run(sets, shots=(1, 8), fraction=0.5, trials=3, **plain)
    rows = found.metrics["rows"]
    assert [row["of"]["images"] for row in rows[:2]] == [7, 56]
    for row in rows:
        values = [trial["top1"] for trial in row["trials"]]
        assert [trial["seed"] for trial in row["trials"]] == [0, 1, 2]
        assert row["top1"] == pytest.approx(np.mean(values))
        assert row["top1_std"] == pytest.approx(np.std(values, ddof=1))
        assert row["top1"] < row["top5"] == pytest.approx(np.mean([trial["top5"] for trial in row["trials"]]))
    assert rows[1]["top1"] > rows[0]["top1"]
    one = run(sets, shots=8, seed=1, **plain).metrics
    assert one["train_images"] == 56
    assert one["top1"] == pytest.approx(rows[1]["trials"][1]["top1"])


def test_per_layer_has_a_row_for_every_layer(tmp_path, run, write):
    names = ("layer4", "layer3")
    sets = {
        name: write(tmp_path / f"{name}.h5", 150, 4, seed, layers=names) for seed, name in enumerate(("train", "test"))
    }
    plain = dict(lars=False, lr=10)
    rows = run(sets, per_layer=True, **plain).metrics["rows"]
    assert [row["of"]["layer"] for row in rows] == ["layer3", "layer4", "pool"]
    assert rows[2]["top1"] > rows[0]["top1"]
    only = run(sets, layer="layer4", **plain).metrics
    assert only["top1"] == pytest.approx(rows[1]["top1"])
    assert only["top1_bootstrap_interval"] == rows[1]["trials"][0]["top1_bootstrap_interval"]
    both = run(sets, layer=("layer3", "pool"), **plain).metrics
    assert both["chosen"]["layer"] == "pool" and len(both["heads"]) == 2
    with pytest.raises(DataError, match="has no layer layer1; it has: pool, layer3, layer4"):
        run(sets, layer="layer1")
