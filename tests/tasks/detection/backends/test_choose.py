"""Which backend is chosen, and what is said if it cannot be used."""

import importlib.util
from importlib.machinery import PathFinder

import pytest

from simsiam_eval.errors import UsageError
from tasks.detection.backends.choose import choose_backend
from tasks.detection.backends.detectron2.backend import Detectron2Backend
from tasks.detection.backends.detectron2.weights import unsupported_trunk


@pytest.fixture
def specs(monkeypatch):
    """Module name -> what importlib finds; every module not listed is there."""
    listed = {}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: listed.get(name, True))
    return listed


def test_missing_detectron2(specs):
    specs["detectron2"] = None
    assert choose_backend("auto", None).name == "torchvision"
    with pytest.raises(
        UsageError, match=r"pip install 'git\+https://github.com/facebookresearch/detectron2.git'"
    ) as error:
        choose_backend("detectron2", None)
    assert "\n" not in str(error.value)


def test_root_of_a_clone_is_not_the_package(specs, tmp_path):
    """Python finds the clone's root folder as a package, but there is nothing in it to import."""
    (tmp_path / "detectron2" / "detectron2").mkdir(parents=True)
    (tmp_path / "detectron2" / "detectron2" / "__init__.py").touch()
    specs["detectron2"] = PathFinder.find_spec("detectron2", [str(tmp_path)])
    assert specs["detectron2"] is not None
    assert "detectron2 is not installed" in Detectron2Backend().unavailable()
    specs["detectron2"] = PathFinder.find_spec("detectron2", [str(tmp_path / "detectron2")])
    assert Detectron2Backend().unavailable() is None


def test_missing_packages_are_named(specs, tmp_path):
    (tmp_path / "detectron2").mkdir()
    (tmp_path / "detectron2" / "__init__.py").touch()
    specs["detectron2"] = PathFinder.find_spec("detectron2", [str(tmp_path)])
    specs |= dict.fromkeys(("yacs", "fvcore", "cv2"))
    reason = Detectron2Backend().unavailable()
    assert "(fvcore, yacs, cv2)" in reason
    assert 'pip install "simsiam-eval[detectron2]"' in reason
    assert choose_backend("auto", None).name == "torchvision"


def test_what_detectron2_does_not_support(monkeypatch):
    monkeypatch.setattr(Detectron2Backend, "unavailable", lambda _: None)
    assert choose_backend("auto", None).name == "detectron2"
    for arch, stem, variant, says in (
        ("resnet50", "cifar", {}, "the 3x3 stem of CIFAR's ResNets"),
        ("resnet50", "imagenet", {"stem_padding": 2, "stride_in_1x1": True}, "padding 2 in the first convolution"),
        ("resnet10_x0_5", "imagenet", {}, "the architecture resnet10_x0_5"),
    ):
        unsupported = unsupported_trunk(arch, stem, variant)
        assert choose_backend("auto", unsupported).name == "torchvision"
        with pytest.raises(UsageError, match=f"cannot rebuild this encoder .{says}.; use --backend torchvision"):
            choose_backend("detectron2", unsupported)
    assert unsupported_trunk("resnet50", "imagenet", {"stride_in_1x1": True}) is None
    for name in ("auto", "detectron2"):
        with pytest.raises(UsageError, match="supports --precision bf16 on CUDA only"):
            choose_backend(name, None, bf16_on_cpu=True)
    assert choose_backend("torchvision", None, bf16_on_cpu=True).name == "torchvision"
