import pytest

from simsiam_eval.errors import DataError


def test_a_sweep_chooses_on_held_out_training_images_and_refits_on_all(sets, run):
    swept = run(sets, lr=(0.001, 30.0, 1e-6), scaling=("none", "l2"), seed=2)
    heads = swept.metrics["heads"]
    assert len(heads) == 6
    best = max(heads, key=lambda one: (one["held_out_top1"], -one["held_out_loss"]))
    assert swept.metrics["chosen"] == {name: best[name] for name in ("lr", "weight_decay", "layer", "scaling")}
    assert swept.metrics["chosen"]["lr"] == 30.0
    alone = run(sets, lr=30.0, scaling=best["scaling"], seed=2)
    for name in ("top1", "train_loss", "test_top1_by_epoch"):
        assert swept.metrics[name] == pytest.approx(alone.metrics[name], rel=1e-4)
    assert alone.metrics["heads"] == []
    assert "Best of 6 heads" in " ".join(swept.table.notes)


def test_the_test_set_has_no_part_in_the_choice(sets, tmp_path, run, write):
    other = write(tmp_path / "other.h5", 60, 7, 5)
    one, two = (run(sets | {"test": test}, sweep=True).metrics for test in (sets["test"], other))
    assert one["heads"] == two["heads"] and one["chosen"] == two["chosen"]
    assert len(one["heads"]) == 13
    lrs = [head["lr"] for head in one["heads"]]
    assert lrs[0] == pytest.approx(0.01) and lrs[6] == 10.0 and lrs[12] == pytest.approx(10000)


def test_a_diverged_head_is_not_chosen_and_a_choice_at_the_edge_is_noted(sets, run):
    found = run(sets, lars=False, lr=(0.01, 0.1, 1.0, 1e30), weight_decay=(1e9, 0.0))
    assert found.metrics["chosen"]["weight_decay"] == 0.0
    low = run(sets, lr=(0.1, 0.01, 0.001))
    assert "largest lr tried" in " ".join(low.table.notes)
    with pytest.raises(DataError, match="smaller learning rate"):
        run(sets, lars=False, lr=(1e29, 1e30), weight_decay=1e9)


def test_with_one_image_per_class_the_protocols_own_value_is_used(sets, run):
    alone = run(sets, shots=1, lr=100).metrics
    swept = run(sets, shots=1, lr=100, sweep=True)
    assert (swept.metrics["top1"], swept.metrics["heads"]) == (alone["top1"], [])
    assert swept.metrics["chosen"]["lr"] == 100 and "the middle recipe was used" in swept.table.notes[-1]
    several = run(sets, preset="logistic", epochs=None, lr=None, batch_size=None, shots=(1, 2), trials=2)
    one, two = several.metrics["rows"]
    assert [trial["chosen"]["c"] for trial in one["trials"]] == [1, 1]
    assert all(len(trial["heads"]) == 7 for trial in two["trials"])
    assert "the middle recipe was used" in several.table.notes[-1]
    assert "middle one" not in " ".join(run(sets, shots=2, lr=100, sweep=True).table.notes)
