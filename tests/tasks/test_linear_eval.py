import numpy as np
import pytest

from simsiam_eval.errors import DataError, UsageError
from simsiam_eval.feature_writer import write_features
from tasks.linear_eval import LinearEvalSettings, linear_eval


def write(path, rows, classes, seed, spread=0.6):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, rows)
    labels[:classes] = np.arange(classes)
    centres = np.random.default_rng(9).normal(size=(classes, 6))
    features = (centres[labels] + rng.normal(0, spread, (rows, 6))).astype(np.float32)
    source = {"spec": path.stem, "fingerprint": path.stem, "class_names": None}
    ids = [str(row) for row in range(rows)]
    write_features(path, features, labels * 10, ids, encoder={"arch": "made"}, source=source)  # numbers with gaps
    return str(path)


@pytest.fixture
def sets(tmp_path):
    return {"train": write(tmp_path / "train.h5", 200, 7, 0), "test": write(tmp_path / "test.h5", 80, 7, 1)}


def test_the_last_epoch_is_reported_and_the_best_beside_it(sets):
    metrics = linear_eval(LinearEvalSettings(preset="small", batch_size=32, lr=100, epochs=12, **sets)).metrics
    curve = metrics["test_top1_by_epoch"]
    assert len(curve) == len(metrics["train_loss_by_epoch"]) == 12
    assert metrics["top1"] == pytest.approx(curve[-1])
    assert metrics["top1_best_epoch"] == max(curve) == curve[metrics["best_epoch"]]
    assert metrics["top1"] > 0.6
    assert metrics["top1"] <= metrics["top5"] <= 1
    assert metrics["train_loss_by_epoch"][-1] < metrics["train_loss_by_epoch"][0]


def test_the_same_seed_gives_the_same_number(sets):
    one, two, other = (
        linear_eval(LinearEvalSettings(preset="small", epochs=3, seed=seed, **sets)).metrics["train_loss"]
        for seed in (0, 0, 1)
    )
    assert one == two != other


def test_presets_are_the_protocols():
    chosen = {name: LinearEvalSettings(preset=name, train="a", test="b") for name in ("simsiam-code", "simsiam-paper")}
    assert {(one.batch_size, one.epochs, one.momentum, one.weight_decay) for one in chosen.values()} == {
        (4096, 90, 0.9, 0.0)
    }
    assert [one.lr for one in chosen.values()] == [0.1, 0.02]
    assert all(one.lars for one in chosen.values())


def test_one_class_and_a_diverging_head_are_refused(tmp_path, sets):
    one = write(tmp_path / "one.h5", 20, 1, 0)
    with pytest.raises(DataError, match="one class only"):
        linear_eval(LinearEvalSettings(train=one, test=one))
    with pytest.raises(DataError, match="smaller --lr"):
        linear_eval(LinearEvalSettings(preset="small", lr=1e38, lars=False, **sets))
    with pytest.raises(UsageError, match="--momentum"):
        LinearEvalSettings(momentum=1.0, **sets)
