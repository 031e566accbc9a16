import h5py
import numpy as np
import pytest

from tasks.linear.linear_eval import linear_eval
from tasks.linear.settings import LinearEvalSettings


def test_test_images_that_are_training_images_are_counted(tmp_path, sets, monkeypatch):
    with h5py.File(sets["train"], "r") as train, h5py.File(sets["test"], "a") as test:
        test["features"][:20] = train["features"][:20] * 3  # the same direction
    result = linear_eval(LinearEvalSettings(preset="small", epochs=2, leakage=0.99999, **sets))
    leaked = result.metrics["leakage"]
    assert (leaked["images"], leaked["of"], leaked["drawn_from"]) == (20, 80, 80)
    assert 20 * leaked["top1"] + 60 * leaked["top1_without"] == pytest.approx(80 * result.metrics["top1"])
    assert "20 of 80 test images" in result.table.notes[-1]
    same = linear_eval(
        LinearEvalSettings(preset="small", epochs=2, shots=(3, 5), train=sets["train"], test=sets["train"])
    )
    assert same.metrics["leakage"]["images"] >= 21
    assert "`duplicates`" in same.table.notes[-1]
    monkeypatch.setattr("simsiam_eval.neighbors.leakage._MULTIPLICATIONS", 10 * 200 * 6)
    some = linear_eval(LinearEvalSettings(preset="small", epochs=2, leakage=0.1, **sets))
    assert some.metrics["leakage"]["of"] == 10
    assert "drawn from 80" in some.table.notes[-1]


def test_leakage_is_measured_in_the_layer_of_the_head(tmp_path, run, write):
    sets = {split: write(tmp_path / f"{split}.h5", 80, 7, 0, layers=["layer2"]) for split in ("train", "test")}
    with h5py.File(sets["test"], "a") as file:  # copies by the pool, strangers by the layer
        file["layers/layer2"][:] = np.random.default_rng(1).normal(size=file["layers/layer2"].shape)
    pool, other = (run(sets, layer=layer).metrics["leakage"] for layer in ("pool", "layer2"))
    assert (pool["images"], pool["copies"]) == (80, 80)
    assert other is None or other["copies"] == 0


def test_leakage_is_measured_in_the_deepest_layer_on_the_images_trained_on(tmp_path, run, write):
    sets = {split: write(tmp_path / f"{split}.h5", 80, 7, 0, layers=["layer2"]) for split in ("train", "test")}
    rows = run(sets, per_layer=True, shots=(2, 5))
    assert [row["of"]["layer"] for row in rows.metrics["rows"]] == ["layer2", "layer2", "pool", "pool"]
    found = rows.metrics["leakage"]
    assert (found["layer"], found["copies"], found["of"]) == ("pool", 14, 80)
    assert "top-1 of the first row of pool at seed 0" in " ".join(rows.table.notes)
