import h5py
import numpy as np
import pytest
import torch

from simsiam_eval.errors import DataError
from simsiam_eval.linear.probing import fit_linear
from simsiam_eval.linear.protocols import PROTOCOLS
from tasks.linear.linear_eval import linear_eval
from tasks.linear.settings import LinearEvalSettings


def test_the_last_epoch_is_reported_and_the_best_for_comparison(sets):
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


def test_the_record_has_classes_confusion_and_intervals(sets, run):
    metrics = run(sets, lr=100, epochs=12).metrics
    matrix = np.array(metrics["confusion"])
    assert matrix.sum() == metrics["images"] == 80
    assert matrix.trace() / 80 == pytest.approx(metrics["top1"])
    assert list(metrics["per_class"]) == [str(10 * number) for number in range(7)]
    assert np.mean(list(metrics["per_class"].values())) == pytest.approx(metrics["mean_per_class"])
    for name in ("top1", "top5", "mean_per_class"):
        low, high = metrics[f"{name}_interval"]
        assert low <= metrics[name] <= high
    low, high = metrics["top1_bootstrap_interval"]
    assert [low, high] == pytest.approx(metrics["top1_interval"], abs=0.03)


def test_the_interval_of_a_perfect_accuracy_has_a_width(tmp_path, run, write):
    sets = {split: write(tmp_path / f"{split}.h5", 200, 3, seed=0, spread=0.01) for split in ("train", "test")}
    metrics = run(sets, lr=100, epochs=40).metrics
    assert metrics["mean_per_class"] == metrics["top1"] == 1
    assert metrics["mean_per_class_interval"][0] < metrics["top1_interval"][0] < 1


def test_a_head_that_predicts_one_class_has_an_interval_around_its_mean_per_class(tmp_path, run, write):
    """Of 90 and 10 images: 50 % on the mean, not the 90 % of all."""
    labels = [0] * 90 + [1] * 10
    same = write(tmp_path / "same.h5", 100, 2, 0, labels=labels, spread=0)
    with h5py.File(same, "a") as file:
        file["features"][:] = 1
    metrics = run({"train": same, "test": same}, lr=1).metrics
    assert (metrics["top1"], metrics["mean_per_class"]) == (0.9, 0.5)
    low, high = metrics["mean_per_class_interval"]
    assert low < 0.5 < high < 0.7


def test_logistic_regression_is_scikit_learns(sets, tmp_path, write):
    from sklearn.linear_model import LogisticRegression

    found = linear_eval(LinearEvalSettings(preset="logistic", c=0.5, **sets)).metrics
    with h5py.File(sets["train"]) as train, h5py.File(sets["test"]) as test:
        model = LogisticRegression(C=0.5, max_iter=1000).fit(train["features"][:], train["labels"][:])
        assert found["top1"] == pytest.approx(model.score(test["features"][:], test["labels"][:]))
    swept = linear_eval(LinearEvalSettings(preset="logistic", **sets)).metrics
    assert len(swept["heads"]) == 7
    two = {name: write(tmp_path / f"two-{name}.h5", 60, 2, seed) for seed, name in enumerate(("train", "test"))}
    assert linear_eval(LinearEvalSettings(preset="logistic", c=1.0, **two)).metrics["top1"] > 0.8


@pytest.mark.parametrize("preset", ["simsiam-code", "small", "moco-sgd", "logistic"])
def test_fit_linear_gives_the_numbers_of_the_command(sets, preset):
    metrics = linear_eval(LinearEvalSettings(preset=preset, seed=4, **sets)).metrics
    with h5py.File(sets["train"]) as train, h5py.File(sets["test"]) as test:
        fit = fit_linear(train["features"][:], train["labels"][:], PROTOCOLS[preset].recipes(seed=4))
        predictions = fit.classes[fit.head.scores(torch.from_numpy(test["features"][:])).argmax(dim=1)]
        assert (predictions == test["labels"][:]).mean() == metrics["top1"]
    assert fit.train_loss == metrics["train_loss_by_epoch"]
    chosen = fit.recipe.varied()
    assert chosen.pop("layer") and chosen.items() <= metrics["chosen"].items()


@pytest.mark.parametrize("size", [1e16, 1e19])
def test_features_beyond_the_range_of_float32_gradients_are_rejected_or_scaled(sets, size, run):
    plain = {scaling: run(sets, scaling=scaling).metrics["top1"] for scaling in ("l2", "standard")}
    for path in sets.values():
        with h5py.File(path, "a") as file:
            file["features"][:] = size * file["features"][:]
    with pytest.raises(DataError, match="Use l2 or standard scaling"):
        run(sets)
    for scaling, top1 in plain.items():
        assert run(sets, scaling=scaling).metrics["top1"] == pytest.approx(top1, abs=0.02)


def test_data_that_cannot_be_evaluated_are_rejected(tmp_path, sets, run, write):
    one = write(tmp_path / "one.h5", 20, 1, 0)
    with pytest.raises(DataError, match="only one class"):
        linear_eval(LinearEvalSettings(train=one, test=one))
    with pytest.raises(DataError, match="smaller learning rate"):
        linear_eval(LinearEvalSettings(preset="small", lr=1e36, batch_size=1 << 16, lars=False, **sets))
    rare = write(tmp_path / "rare.h5", 21, 3, 0, labels=[0] * 10 + [1] * 10 + [2])
    assert run({"train": rare, "test": rare}, sweep=True).metrics["train_images"] == 21
    with pytest.raises(DataError, match="leaves no image of class 20, which has 1"):
        run({"train": rare, "test": rare}, fraction=0.3)
    with pytest.raises(DataError, match="--shots 2 exceeds the 1 training images of class 20"):
        run({"train": rare, "test": rare}, shots=2)
    with pytest.raises(DataError, match=r"no image of a class of .*: "):
        run({"train": rare, "test": sets["test"]})


def test_one_test_image_unlabeled_rows_and_a_batch_larger_than_the_set(tmp_path, sets, capsys, run, write):
    single = write(tmp_path / "single.h5", 1, 7, 0, labels=[3])
    assert run(sets | {"test": single}, batch_size=4096, lr=10).metrics["images"] == 1
    some = write(tmp_path / "some.h5", 30, 7, 0, labels=[-1, -1, *range(7), *range(7), *range(7), *range(7)])
    assert run(sets | {"train": some}).metrics["train_images"] == 28
    assert "2 images without a label skipped" in capsys.readouterr().err


def test_unreadable_rows_are_skipped_and_a_row_of_nan_is_rejected(sets, capsys, run):
    with h5py.File(sets["train"], "a") as file:
        file["valid"][5] = False
        file["features"][5] = np.nan
    assert run(sets, lr=100).metrics["train_images"] == 199
    assert "1 unreadable image skipped" in capsys.readouterr().err
    with h5py.File(sets["train"], "a") as file:
        file["features"][9, 2] = np.nan
    with pytest.raises(DataError, match=r"not finite \(row 9\)"):
        run(sets)
