"""The choice of an encoder, and the settings of commands that load one."""

import dataclasses
from pathlib import Path

import pytest
import torch

from simsiam_eval.commands.settings import setting
from simsiam_eval.encoders.architectures import TrunkVariant
from simsiam_eval.encoders.checkpoint import inspect_checkpoint, load_encoder
from simsiam_eval.encoders.choice import EncoderChoice
from simsiam_eval.encoders.encoder import build_trunk
from simsiam_eval.encoders.report import weights_sha256
from simsiam_eval.encoders.settings import CheckpointSettings
from simsiam_eval.errors import DataError, UsageError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(CheckpointSettings):
    checkpoint: str | None = setting(None, help="")
    out: Path | None = setting(None, output=True, help="")


@pytest.fixture(scope="module")
def trunk_file(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("trunk") / "cifar.pth"
    torch.save(build_trunk("resnet18", "cifar").state_dict(), path)
    return str(path)


def test_path_of_a_checkpoint():
    for text, path in (
        ("a/b#c.pth", "a/b#c.pth"), ("hf:model", "model"), ("timm:resnet50@a@b.pth", "a@b.pth"),
    ):  # fmt: skip
        assert EncoderChoice(text).path == Path(path)
    assert EncoderChoice("timm:resnet50").path is None
    assert EncoderChoice("hf:~/model").path == Path.home() / "model"


def test_settings_become_a_choice():
    settings = Settings(checkpoint="~/a.pth", branch="teacher", stem_pool=False, stem_padding=0)
    assert settings.given_encoder() == EncoderChoice(
        str(Path.home() / "a.pth"), branch="teacher", stem_pool=False, stem_padding=0
    )
    assert Settings().given_encoder() is None
    with pytest.raises(UsageError, match=r"^--stem-padding requires --checkpoint"):
        Settings(stem_padding=2)
    with pytest.raises(UsageError, match=r"^--stem-stride must be at least 1"):
        Settings(checkpoint="a.pth", stem_stride=0)


@pytest.mark.parametrize("prefix", ["", "hf:", "timm:resnet18@"])
def test_a_checkpoint_is_not_overwritten(tmp_path, prefix):
    file = tmp_path / "a:b#c.pth"  # not the options of an image source
    file.touch()
    with pytest.raises(UsageError, match=r"--out .* would overwrite the file of --checkpoint"):
        Settings(checkpoint=f"{prefix}{file}", out=file)
    with pytest.raises(UsageError, match="would overwrite the file of --checkpoint"):
        Settings(checkpoint=f"{prefix}{tmp_path / 'new'}", out=tmp_path / "new")
    Settings(checkpoint=f"{prefix}{file}", out=tmp_path / "other")


@pytest.mark.parametrize(
    ("options", "variant"),
    [
        ({}, {}),
        ({"stem_padding": 1, "stem_stride": 1, "stem_pool": False, "stride_in_1x1": False}, {}),
        ({"stem_padding": 2}, {"stem_padding": 2}),
        ({"stem_stride": 2, "stem_pool": True}, {"stem_stride": 2, "stem_pool": True}),
    ],
)
@torch.no_grad()
def test_options_make_another_encoder_of_the_same_weights(trunk_file, options, variant):
    encoder, report = load_encoder(EncoderChoice(trunk_file, **options))
    plain = inspect_checkpoint(trunk_file)
    assert report.variant == variant
    assert (report.weights_sha256 == plain.weights_sha256) == (not variant)
    assert report.weights_sha256 == weights_sha256(encoder.trunk.state_dict(), variant)
    expected = build_trunk("resnet18", "cifar").eval()
    expected.load_state_dict(torch.load(trunk_file))
    expected.conv1.padding, expected.conv1.stride = (
        (variant.get("stem_padding", 1),) * 2,
        (variant.get("stem_stride", 1),) * 2,
    )
    if variant.get("stem_pool"):
        expected.maxpool = torch.nn.MaxPool2d(3, 2, 1)
    images = torch.randn(2, 3, 17, 17, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(encoder(images), expected(images))
    if variant:
        assert not torch.allclose(encoder(images), load_encoder(trunk_file)[0](images), rtol=1e-2)


def test_stride_in_1x1_is_rejected_without_bottlenecks(trunk_file):
    with pytest.raises(UsageError, match="--stride-in-1x1 cannot be used with resnet18, which has no bottleneck"):
        inspect_checkpoint(EncoderChoice(trunk_file, stride_in_1x1=True))


def test_the_variant_in_our_own_metadata_is_read_and_may_be_overridden(trunk_file, tmp_path):
    state = torch.load(trunk_file)
    content = {"state_dict": state, "simsiam_eval": {"variant": {"stem_padding": 2}}}
    torch.save(content, tmp_path / "own.pth")
    encoder, report = load_encoder(tmp_path / "own.pth")
    assert report.variant == {"stem_padding": 2}
    assert encoder.variant == TrunkVariant(stem_padding=2)
    assert inspect_checkpoint(EncoderChoice(str(tmp_path / "own.pth"), stem_padding=1)).variant == {}
    content["simsiam_eval"]["variant"] = {"antialias": True}
    torch.save(content, tmp_path / "newer.pth")
    with pytest.raises(DataError, match=r"unknown variant of its trunk .*update simsiam-eval"):
        inspect_checkpoint(tmp_path / "newer.pth")


def test_options_that_a_library_decides_are_rejected():
    for option, value in (("--stem-padding", 2), ("--arch", "resnet50")):
        choice = EncoderChoice("timm:resnet18", **{option[2:].replace("-", "_"): value})
        with pytest.raises(UsageError, match=f"{option} cannot be used with timm:resnet18, whose library decides"):
            inspect_checkpoint(choice)


def test_the_hash_covers_what_decides_the_features(trunk_file):
    state = torch.load(trunk_file)
    computations = ({}, {"stem_padding": 2}, {"arch": "timm:resnet18"})
    assert len({weights_sha256(state, computation) for computation in computations}) == 3
