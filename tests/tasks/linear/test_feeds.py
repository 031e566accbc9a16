import json

import pytest

from simsiam_eval.errors import DataError


def test_views_are_used_in_turn_and_the_difference_to_crops_is_reported(sets, tmp_path, run, write):
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
    with pytest.raises(DataError, match="has views of layer pool; expected --layer layer2"):
        run(layered, views=2, layer="layer2")


def test_end_to_end_trains_on_new_views_and_leaves_the_encoder(record, call, checkpoint):
    sets = ("--train", "digits#test", "--test", "digits#test", "--checkpoint", checkpoint, "--layer", "layer2")
    short = ("--preset", "small", "--epochs", 2, "--lr", 100)
    made = record("linear-eval", *sets, *short, "--end-to-end")
    metrics, encoder = made["metrics"], made["provenance"]["end_to_end"]
    assert metrics["trained_on"] == "end-to-end"
    assert encoder["encoder_unchanged"] and encoder["weights_sha256_before"] == encoder["weights_sha256_after"]
    assert metrics["crop_top1"] == pytest.approx(record("linear-eval", *sets, *short)["metrics"]["top1"])
    assert record("linear-eval", *sets, *short, "--end-to-end")["metrics"] == metrics
    # A sweep trains its trials and the refit in one pass; the winner is that of its lr alone (the other diverges).
    swept = record("linear-eval", *sets, *short, "--lr", 1e30, "--end-to-end")["metrics"]
    assert len(swept["heads"]) == 2
    alone = record("linear-eval", *sets, *short[:-1], swept["chosen"]["lr"], "--end-to-end")["metrics"]
    assert swept["train_loss_by_epoch"] == pytest.approx(alone["train_loss_by_epoch"], rel=1e-4)


def test_a_killed_end_to_end_run_resumes_to_the_same_numbers(record, call, checkpoint, forked, tmp_path):
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
