"""Pretraining that starts from another encoder."""

import pytest
import torch

from simsiam_eval.encoders.checkpoint import load_encoder
from simsiam_eval.encoders.encoder import build_trunk


@pytest.fixture
def init(tmp_path):
    torch.manual_seed(0)
    torch.save(build_trunk("resnet18", "cifar").state_dict(), tmp_path / "init.pth")
    return tmp_path / "init.pth"


@pytest.fixture
def short(photos):
    """Options of a run of two steps per epoch."""
    return ("--preset", "digits", "--image-size", 8, "--data", photos, "--batch-size", 20, "--workers", 0)


def test_the_encoder_is_taken_over_with_its_variant_and_recorded(record, call, short, init, tmp_path):
    command = ["pretrain", *short, "--epochs", 0, "--out", tmp_path / "run", "--init", init, "--stem-padding", 2]
    made = record(*command)
    source, report = load_encoder(init)
    encoder, own = load_encoder(made["files"]["checkpoint"])
    for name, value in source.trunk.named_parameters():  # the running statistics are estimated again
        torch.testing.assert_close(value, encoder.trunk.get_parameter(name))
    assert own.variant == {"stem_padding": 2}
    assert encoder.trunk.conv1.padding == (2, 2)
    recorded = made["provenance"]["init"]
    assert recorded["path"] == str(init)
    assert recorded["weights_sha256"] != report.weights_sha256  # of the variant
    assert own.metadata["init"] == recorded
    init.unlink()  # a resumed run does not need it
    again = call(*command)
    assert again.exit_code == 0, again.output
    assert "this run is finished" in again.stderr
    other = call(*command[:-2], "--stem-padding", 1)
    assert "with --stem-padding 2, not 1" in other.stderr


def test_training_starts_from_it(record, short, init, tmp_path):
    """Both runs draw the same projector and predictor, so that only the encoder differs."""
    from_init, random = (
        record("pretrain", *short, "--epochs", 1, "--out", tmp_path / name, *options)
        for name, options in (("init", ["--init", init]), ("random", []))
    )
    assert from_init["metrics"]["loss"] != random["metrics"]["loss"]
    assert "init" not in random["provenance"]
    assert load_encoder(random["files"]["checkpoint"])[1].variant == {}


def test_another_architecture_is_rejected(call, short, init, tmp_path):
    result = call("pretrain", *short, "--out", tmp_path / "run", "--init", init, "--arch", "resnet34")
    assert result.exit_code == 2
    assert "is resnet18 (cifar stem), but the run trains resnet34 (cifar stem)" in result.stderr
    result = call("pretrain", *short, "--out", tmp_path / "run", "--stem-padding", 2)
    assert "--stem-padding requires --init" in result.stderr
