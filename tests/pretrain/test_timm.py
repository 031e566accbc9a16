"""SimSiam on networks of timm."""

import shutil

import numpy as np
import pytest
import torch

from pretrain.model import SimSiam
from pretrain.run import pretrain
from pretrain.settings import PretrainSettings
from simsiam_eval.encoders.checkpoint import load_encoder
from simsiam_eval.encoders.choice import EncoderChoice
from simsiam_eval.errors import UsageError

timm = pytest.importorskip("timm")


def settings(images, out, **changed):
    values = dict(
        preset="cifar10", data=str(images), val=str(images), arch="timm:test_resnet", image_size=32, epochs=2,
        batch_size=16, dim=16, pred_dim=8, projector_hidden=16, health_every=0, knn_every=1, knn_k=5, keep=0,
        checkpoint_every="1 epochs", tensorboard=False, device="cpu", out=out,
    )  # fmt: skip
    return PretrainSettings(**values | changed)


@pytest.mark.parametrize("arch", ["timm:test_resnet", "timm:test_vit"])
def test_features_are_those_of_timm(arch):
    model = SimSiam(arch, dim=16, pred_dim=8, image_size=32).eval()
    images = torch.randn(4, 3, 32, 32)
    reference = timm.create_model(
        arch.removeprefix("timm:"), num_classes=0, img_size=32 if "vit" in arch else None
    ).eval()
    reference.load_state_dict({k: v for k, v in model.encoder.state_dict().items() if not k.startswith("fc.")})
    with torch.no_grad():
        outputs = model(images, images)
        assert torch.equal(outputs.features, reference(images))
        assert torch.equal(outputs.z1, model.encoder.fc(outputs.features))


def test_a_run_can_be_loaded_and_resumed(images, tmp_path):
    result = pretrain(settings(images, tmp_path / "whole"))
    assert 0 <= result.metrics["knn_top1"] <= 1
    last = tmp_path / "whole" / "checkpoint_last.pth.tar"
    encoder, report = load_encoder(last)
    assert (report.arch, report.family, report.stem, report.epoch) == ("timm:test_resnet", "simsiam", None, 2)
    assert report.feature_width == encoder.width == 96
    assert set(report.skipped.values()) == {"the projector", "the predictor"}
    assert (report.projector, report.predictor) == ([96, 16, 16], [16, 8, 16])
    for option in ({"branch": "teacher"}, {"stem_padding": 2}, {"arch": "resnet18"}, {"channel_order": "bgr"}):
        with pytest.raises(UsageError, match="--"):
            load_encoder(EncoderChoice(str(last), **option))
    weights = torch.load(last, weights_only=True)["state_dict"]
    for name, value in encoder.trunk.state_dict().items():
        assert torch.equal(value, weights[f"module.encoder.{name}"])

    resumed = tmp_path / "resumed"
    resumed.mkdir()
    shutil.copy(tmp_path / "whole" / "checkpoint_0000.pth.tar", resumed / "checkpoint_last.pth.tar")
    pretrain(settings(images, resumed))
    again = torch.load(resumed / "checkpoint_last.pth.tar", weights_only=True)["state_dict"]
    assert all(np.array_equal(value, again[name]) for name, value in weights.items())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"arch": "vit_tiny"}, "must be one of resnet18, .*, or timm:NAME, got 'vit_tiny'"),
        ({"stem": "imagenet"}, "stem cannot be used with .*arch timm:test_resnet"),
    ],
)
def test_settings_that_do_not_fit(images, tmp_path, changed, message):
    with pytest.raises(UsageError, match=message):
        settings(images, tmp_path, **changed)


def test_unknown_networks_are_rejected(images, tmp_path):
    with pytest.raises(UsageError, match="timm has no network 'test_resne'"):
        pretrain(settings(images, tmp_path, arch="timm:test_resne"))
