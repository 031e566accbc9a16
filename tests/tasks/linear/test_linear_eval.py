import json

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from simsiam_eval.errors import DataError, UsageError
from simsiam_eval.features.writer import write_features
from simsiam_eval.linear.probing import fit_linear
from simsiam_eval.linear.protocols import PROTOCOLS
from tasks.linear.linear_eval import linear_eval
from tasks.linear.settings import LinearEvalSettings


def write(path, rows, classes, seed, spread=0.6, labels=None, layers=(), views=0):
    rng = np.random.default_rng(seed)
    if labels is None:
        labels = rng.integers(0, classes, rows)
        labels[:classes] = np.arange(classes)
    labels = np.asarray(labels)
    centers = np.random.default_rng(9).normal(size=(classes, 6))
    features = (centers[labels] + rng.normal(0, spread, (rows, 6))).astype(np.float32)
    source = {"spec": path.stem, "fingerprint": path.stem, "class_names": None}
    ids = [str(row) for row in range(rows)]
    numbers = np.where(labels < 0, -1, labels * 10)  # with gaps
    write_features(path, features, numbers, ids, encoder={"arch": "made"} | ({"layer": "pool"} if layers else {}),
                   source=source)  # fmt: skip
    with h5py.File(path, "a") as file:
        for number, name in enumerate(layers):  # worse and worse
            noisy = features + rng.normal(0, 3.0 * (number + 1), features.shape)
            file[f"layers/{name}"] = noisy[:, : 5 - number].astype(np.float32)
        if views:
            file.attrs["views"] = json.dumps({"count": views, "seed": 0})
            file["views"] = (features[:, None] + rng.normal(0, 0.3, (rows, views, 6))).astype(np.float32)
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
    chosen = {name: LinearEvalSettings(preset=name, train="a", test="b") for name in LinearEvalSettings.PRESETS}
    names = ("lars", "lr", "batch_size", "epochs", "schedule", "momentum", "weight_decay")
    assert {name: tuple(getattr(one, field) for field in names) for name, one in chosen.items()} == {
        "simsiam-code": (True, (0.1,), 4096, 90, "cosine", 0.9, (0.0,)),
        "simsiam-paper": (True, (0.02,), 4096, 90, "cosine", 0.9, (0.0,)),
        "moco-sgd": (False, (30.0,), 256, 100, "step", 0.9, (0.0,)),
        "dino": (False, (0.001,), 1024, 100, "cosine", 0.9, (0.0,)),
        "small": (True, (10.0,), 256, 100, "cosine", 0.9, (0.0,)),
        "logistic": (None,) * 7,
    }


def run(sets, **values):
    return linear_eval(LinearEvalSettings(**{"preset": "small", "batch_size": 64, "epochs": 6, **sets, **values}))


def test_a_sweep_is_chosen_on_held_out_training_images_and_refitted_on_all(sets):
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


def test_the_test_set_has_no_part_in_the_choice(sets, tmp_path):
    other = write(tmp_path / "other.h5", 60, 7, 5)
    one, two = (run(sets | {"test": test}, sweep=True).metrics for test in (sets["test"], other))
    assert one["heads"] == two["heads"] and one["chosen"] == two["chosen"]
    assert len(one["heads"]) == 13
    lrs = [head["lr"] for head in one["heads"]]
    assert lrs[0] == pytest.approx(0.01) and lrs[6] == 10.0 and lrs[12] == pytest.approx(10000)


def test_a_diverged_head_loses_and_the_edge_of_a_sweep_is_said(sets):
    found = run(sets, lars=False, lr=(0.01, 0.1, 1.0, 1e30), weight_decay=(1e9, 0.0))
    assert found.metrics["chosen"]["weight_decay"] == 0.0
    low = run(sets, lr=(0.1, 0.01, 0.001))
    assert "largest lr tried" in " ".join(low.table.notes)
    with pytest.raises(DataError, match="smaller learning rate"):
        run(sets, lars=False, lr=(1e29, 1e30), weight_decay=1e9)


def test_the_record_has_classes_confusion_and_intervals(sets):
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


def test_where_all_are_right_the_interval_has_a_width(tmp_path):
    sets = {split: write(tmp_path / f"{split}.h5", 200, 3, seed=0, spread=0.01) for split in ("train", "test")}
    metrics = run(sets, lr=100, epochs=40).metrics
    assert metrics["mean_per_class"] == metrics["top1"] == 1
    assert metrics["mean_per_class_interval"][0] < metrics["top1_interval"][0] < 1


def test_shots_fractions_and_trials_are_rows_with_mean_and_deviation(sets):
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


def test_every_layer_has_its_row(tmp_path):
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
    with pytest.raises(DataError, match="holds no layer layer1; it holds: pool, layer3, layer4"):
        run(sets, layer="layer1")


def test_test_images_that_are_training_images_are_told(tmp_path, sets, monkeypatch):
    with h5py.File(sets["train"], "r") as train, h5py.File(sets["test"], "a") as test:
        test["features"][:20] = train["features"][:20] * 3  # the same direction
    told = linear_eval(LinearEvalSettings(preset="small", epochs=2, leakage=0.99999, **sets))
    leaked = told.metrics["leakage"]
    assert (leaked["images"], leaked["of"], leaked["drawn_from"]) == (20, 80, 80)
    assert 20 * leaked["top1"] + 60 * leaked["top1_without"] == pytest.approx(80 * told.metrics["top1"])
    assert "20 of 80 test images" in told.table.notes[-1]
    same = linear_eval(
        LinearEvalSettings(preset="small", epochs=2, shots=(3, 5), train=sets["train"], test=sets["train"])
    )
    assert same.metrics["leakage"]["images"] >= 21
    assert "`duplicates`" in same.table.notes[-1]
    monkeypatch.setattr("simsiam_eval.neighbors.duplicates._MULTIPLICATIONS", 10 * 200 * 6)
    some = linear_eval(LinearEvalSettings(preset="small", epochs=2, leakage=0.1, **sets))
    assert some.metrics["leakage"]["of"] == 10
    assert "drawn from 80" in some.table.notes[-1]


def test_views_take_turns_and_the_difference_to_crops_is_told(sets, tmp_path):
    train = write(tmp_path / "views.h5", 200, 7, 0, views=3)
    crop = run(sets, lr=100).metrics
    views = run(sets | {"train": train}, views=3, lr=100)
    assert views.metrics["trained_on"] == "views"
    assert views.metrics["crop_top1"] == pytest.approx(crop["top1"])
    gain = views.metrics["top1"] - views.metrics["crop_top1"]
    assert views.metrics["difference_to_crop"] == pytest.approx(gain)
    low, high = views.metrics["difference_to_crop_interval"]
    assert low <= gain <= high
    assert views.metrics["train_loss"] != crop["train_loss"]
    assert "center crops: top-1" in " ".join(views.table.notes)
    with pytest.raises(DataError, match="3 views per image, but --views is 4"):
        run(sets | {"train": train}, views=4)
    with pytest.raises(DataError, match="0 views per image"):
        run(sets, views=1)
    layered = {split: write(tmp_path / f"{split}-l.h5", 80, 7, 0, layers=["layer2"], views=2) for split in sets}
    assert run(layered, views=2)
    with pytest.raises(DataError, match="are of layer pool, but --layer is layer2"):
        run(layered, views=2, layer="layer2")


def test_leakage_is_measured_in_the_layer_of_the_head(tmp_path):
    sets = {split: write(tmp_path / f"{split}.h5", 80, 7, 0, layers=["layer2"]) for split in ("train", "test")}
    with h5py.File(sets["test"], "a") as file:  # copies by the pool, strangers by the layer
        file["layers/layer2"][:] = np.random.default_rng(1).normal(size=file["layers/layer2"].shape)
    pool, other = (run(sets, layer=layer).metrics["leakage"] for layer in ("pool", "layer2"))
    assert (pool["images"], pool["copies"]) == (80, 80)
    assert other is None or other["copies"] == 0


def test_leakage_is_of_the_deepest_layer_and_of_the_images_trained_on(tmp_path):
    sets = {split: write(tmp_path / f"{split}.h5", 80, 7, 0, layers=["layer2"]) for split in ("train", "test")}
    rows = run(sets, per_layer=True, shots=(2, 5))
    assert [row["of"]["layer"] for row in rows.metrics["rows"]] == ["layer2", "layer2", "pool", "pool"]
    found = rows.metrics["leakage"]
    assert (found["layer"], found["copies"], found["of"]) == ("pool", 14, 80)
    assert "top-1 of the first row of pool at seed 0" in " ".join(rows.table.notes)


@pytest.mark.parametrize("size", [1e16, 1e19])
def test_features_that_float32_cannot_follow_are_refused_or_scaled(sets, size):
    plain = {scaling: run(sets, scaling=scaling).metrics["top1"] for scaling in ("l2", "standard")}
    for path in sets.values():
        with h5py.File(path, "a") as file:
            file["features"][:] = size * file["features"][:]
    with pytest.raises(DataError, match="Use l2 or standard scaling"):
        run(sets)
    for scaling, top1 in plain.items():
        assert run(sets, scaling=scaling).metrics["top1"] == pytest.approx(top1, abs=0.02)


def test_logistic_regression_is_scikit_learns(sets, tmp_path):
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


def test_files_of_out(sets, tmp_path):
    out = tmp_path / "a" / "out"
    result = run(sets, out=out)
    names = ["confusion.json", "confusion.png", "curves.png", "head.safetensors", "record.json"]
    assert sorted(path.name for path in out.iterdir()) == names
    record = json.loads((out / "record.json").read_text())
    assert record == json.loads(result.to_json())
    assert json.loads((out / "confusion.json").read_text())["matrix"] == record["metrics"]["confusion"]
    for name in ("confusion.png", "curves.png"):
        assert min(Image.open(out / name).size) > 100
    rows = run(sets, out=tmp_path / "many", trials=2)
    assert list(rows.files) == ["record"]
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "none" / "h.safetensors"):
        with pytest.raises(DataError, match="cannot be written"):
            run(sets, save_head=path)
    with pytest.raises(DataError, match="cannot be written"):
        run(sets, out=tmp_path / "file")
    with pytest.raises(DataError, match="cannot be written"):
        run(sets, save_head=tmp_path / "no" / "h.safetensors")


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (dict(preset="logistic", lr=1.0), "--lr cannot be used with --preset logistic"),
        (dict(preset="logistic", weight_decay=1.0), "--weight-decay cannot be used"),
        (dict(c=1.0), "-C cannot be used with --preset simsiam-code"),
        (dict(sweep=True, lr=(1.0, 2.0)), "--sweep requires a single --lr"),
        (dict(sweep=True, preset="logistic"), "--sweep cannot be used with --preset logistic"),
        (dict(preset="logistic", views=2), "--views cannot be used with --preset logistic, which has no epochs"),
        (dict(end_to_end=True), "requires --checkpoint"),
        (dict(end_to_end=True, views=2), "cannot be combined"),
        (dict(views=2, per_layer=True), "requires a single --layer"),
        (dict(trials=2, save_head="h"), "saves a single head"),
        (dict(momentum=1.0), "--momentum must be below 1"),
        (dict(held_out=1.0), "--held-out must be below 1"),
        (dict(trials=2, seed=2**32 - 1), r"at most 2\^32"),
        (dict(preset="logistic", c=-1.0), "-C must be above 0"),
        (dict(fraction=1.5), "--fraction must be at most 1"),
        (dict(shots=0), "--shots must be at least 1"),
    ],
)
def test_settings_that_contradict_each_other(values, says):
    with pytest.raises(UsageError, match=says):
        LinearEvalSettings(train="a.h5", test="b.h5", **values)


def test_what_cannot_be_judged_is_one_sentence(tmp_path, sets):
    one = write(tmp_path / "one.h5", 20, 1, 0)
    with pytest.raises(DataError, match="only one class"):
        linear_eval(LinearEvalSettings(train=one, test=one))
    with pytest.raises(DataError, match="smaller learning rate"):
        linear_eval(LinearEvalSettings(preset="small", lr=1e36, batch_size=1 << 16, lars=False, **sets))
    rare = write(tmp_path / "rare.h5", 21, 3, 0, labels=[0] * 10 + [1] * 10 + [2])
    assert run({"train": rare, "test": rare}, sweep=True).metrics["train_images"] == 21
    with pytest.raises(DataError, match="leaves no image of class 20, which has 1"):
        run({"train": rare, "test": rare}, fraction=0.3)
    with pytest.raises(DataError, match="--shots 2 are more than the 1 training images of class 20"):
        run({"train": rare, "test": rare}, shots=2)
    with pytest.raises(DataError, match=r"no image of a class of .*: "):
        run({"train": rare, "test": sets["test"]})


def test_with_one_image_of_a_class_the_protocols_own_value_is_taken(sets):
    alone = run(sets, shots=1, lr=100).metrics
    swept = run(sets, shots=1, lr=100, sweep=True)
    assert (swept.metrics["top1"], swept.metrics["heads"]) == (alone["top1"], [])
    assert swept.metrics["chosen"]["lr"] == 100 and "the middle one was used" in swept.table.notes[-1]
    several = run(sets, preset="logistic", epochs=None, lr=None, batch_size=None, shots=(1, 2), trials=2)
    one, two = several.metrics["rows"]
    assert [trial["chosen"]["c"] for trial in one["trials"]] == [1, 1]
    assert all(len(trial["heads"]) == 7 for trial in two["trials"])
    assert "the middle one was used" in several.table.notes[-1]
    assert "middle one" not in " ".join(run(sets, shots=2, lr=100, sweep=True).table.notes)


def test_a_head_that_says_one_class_only_has_an_interval_around_its_mean_over_classes(tmp_path):
    """Of 90 and 10 images: 50 % on the mean, not the 90 % of all."""
    labels = [0] * 90 + [1] * 10
    same = write(tmp_path / "same.h5", 100, 2, 0, labels=labels, spread=0)
    with h5py.File(same, "a") as file:
        file["features"][:] = 1
    metrics = run({"train": same, "test": same}, lr=1).metrics
    assert (metrics["top1"], metrics["mean_per_class"]) == (0.9, 0.5)
    low, high = metrics["mean_per_class_interval"]
    assert low < 0.5 < high < 0.7


def test_one_test_image_unlabeled_rows_and_a_batch_larger_than_the_set(tmp_path, sets, capsys):
    single = write(tmp_path / "single.h5", 1, 7, 0, labels=[3])
    assert run(sets | {"test": single}, batch_size=4096, lr=10).metrics["images"] == 1
    some = write(tmp_path / "some.h5", 30, 7, 0, labels=[-1, -1, *range(7), *range(7), *range(7), *range(7)])
    assert run(sets | {"train": some}).metrics["train_images"] == 28
    assert "2 images without a label left out" in capsys.readouterr().err


def test_unreadable_rows_are_left_out_and_a_row_of_nan_is_refused(sets, capsys):
    with h5py.File(sets["train"], "a") as file:
        file["valid"][5] = False
        file["features"][5] = np.nan
    assert run(sets, lr=100).metrics["train_images"] == 199
    assert "1 unreadable image left out" in capsys.readouterr().err
    with h5py.File(sets["train"], "a") as file:
        file["features"][9, 2] = np.nan
    with pytest.raises(DataError, match=r"not finite \(row 9\)"):
        run(sets)


def test_end_to_end_trains_on_new_views_and_leaves_the_encoder(record, call, checkpoint):
    sets = ("--train", "digits#test", "--test", "digits#test", "--checkpoint", checkpoint, "--layer", "layer2")
    short = ("--preset", "small", "--epochs", 2, "--lr", 100)
    made = record("linear-eval", *sets, *short, "--end-to-end")
    metrics, told = made["metrics"], made["provenance"]["end_to_end"]
    assert metrics["trained_on"] == "end-to-end"
    assert told["encoder_unchanged"] and told["weights_sha256_before"] == told["weights_sha256_after"]
    assert metrics["crop_top1"] == pytest.approx(record("linear-eval", *sets, *short)["metrics"]["top1"])
    assert record("linear-eval", *sets, *short, "--end-to-end")["metrics"] == metrics
    # A sweep trains its trials and the refit in one pass; the winner is that of its lr alone (the other diverges).
    swept = record("linear-eval", *sets, *short, "--lr", 1e30, "--end-to-end")["metrics"]
    assert len(swept["heads"]) == 2
    alone = record("linear-eval", *sets, *short[:-1], swept["chosen"]["lr"], "--end-to-end")["metrics"]
    assert swept["train_loss_by_epoch"] == pytest.approx(alone["train_loss_by_epoch"], rel=1e-4)


def test_a_killed_end_to_end_run_goes_on_to_the_same_numbers(record, call, checkpoint, forked, tmp_path):
    arguments = ["linear-eval", "--train", "digits#test", "--test", "digits#test", "--checkpoint", checkpoint, "--layer",
                 "layer1", "--preset", "small", "--epochs", 3, "--end-to-end", "--lr", 1, "--lr", 100]  # fmt: skip
    whole = record(*arguments)["metrics"]
    # The process kills itself after its second epoch.
    prepare = (
        "from simsiam_eval.linear.state import ProbeState\n"
        "save = ProbeState.save\n"
        "def killed(self, epoch, heads):\n"
        "    save(self, epoch, heads)\n"
        "    if epoch == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "ProbeState.save = killed\n"
    )
    out = tmp_path / "out"
    assert forked([*arguments, "--out", out], prepare=prepare) == 9
    assert [path.name for path in out.iterdir()] == ["unfinished.pt"]
    other = call(*arguments, "--seed", 1, "--out", out)
    assert other.exit_code == 1 and "unfinished.pt belongs to other images, settings" in other.stderr
    again = call(*arguments, "--out", out, "--json")
    assert "resuming from epoch 2" in again.stderr
    assert not (out / "unfinished.pt").exists()
    found = json.loads(again.stdout)["metrics"]
    assert found.keys() == whole.keys()
    assert found["train_loss_by_epoch"] == pytest.approx(whole["train_loss_by_epoch"], rel=1e-5)
    assert (found["top1"], found["chosen"]) == (whole["top1"], whole["chosen"])
    (out / "unfinished.pt").write_bytes(b"junk")
    damaged = call(*arguments, "--out", out)
    assert damaged.exit_code == 1 and "is damaged" in damaged.stderr


def test_files_of_others_in_the_folder_stay(sets, tmp_path):
    out = tmp_path / "mine"
    out.mkdir()
    (out / "head.safetensors").write_text("another's")
    (out / "curves.png").write_text("another's")
    run(sets, out=out, trials=2)
    assert (out / "head.safetensors").read_text() == (out / "curves.png").read_text() == "another's"
    run(sets, out=out)
    assert (out / "confusion.json").exists()
    run(sets, out=out, trials=2)
    assert sorted(path.name for path in out.iterdir()) == ["record.json"]
