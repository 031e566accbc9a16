"""The loop through the command line: what it writes, and what stops it."""

import torch


def test_untrained_encoder_has_statistics_of_the_data(record, small, tmp_path):
    made = record("pretrain", *small, "--epochs", 0, "--out", tmp_path / "run")["files"]["checkpoint"]
    state = torch.load(made, weights_only=True)["state_dict"]
    assert state["module.encoder.bn1.running_mean"].abs().max() > 0
    assert not torch.allclose(state["module.encoder.bn1.running_var"], torch.ones(64))


def test_the_same_seed_gives_the_same_weights(record, checkpoint, small, tmp_path):
    again = record("pretrain", *small, "--epochs", 1, "--out", tmp_path / "run")["files"]["checkpoint"]
    first = torch.load(checkpoint, weights_only=True)["state_dict"]
    second = torch.load(again, weights_only=True)["state_dict"]
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_loss_that_is_not_finite_stops_the_run(call, small, tmp_path):
    stopped = call("pretrain", *small, "--epochs", 2, "--lr", 1e30, "--out", tmp_path / "run")
    assert stopped.exit_code == 1
    assert "not finite" in stopped.stderr
