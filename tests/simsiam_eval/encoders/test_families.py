"""The key rules of every checkpoint family."""

import pytest

from simsiam_eval.encoders.families import FAMILIES
from simsiam_eval.encoders.recognition import match_state_dict, trunk_shapes

R18 = dict(trunk_shapes("resnet18", "imagenet"))
SIMSIAM_HEADS = {
    "encoder.fc.0.weight": (512, 512),
    "encoder.fc.1.weight": (512,),
    "encoder.fc.3.weight": (512, 512),
    "encoder.fc.4.weight": (512,),
    "encoder.fc.6.weight": (2048, 512),
    "encoder.fc.6.bias": (2048,),
    "encoder.fc.7.running_mean": (2048,),
    "predictor.0.weight": (256, 2048),
    "predictor.1.weight": (256,),
    "predictor.3.weight": (2048, 256),
}
MOCO_OTHER_KEYS = {
    "encoder_q.fc.0.weight": (512, 512),
    "encoder_q.fc.2.weight": (128, 512),
    "queue": (128, 65536),
    "queue_ptr": (1,),
    **{f"encoder_k.{key}": shape for key, shape in R18.items()},
}
MOCO_V3_OTHER_KEYS = {
    "base_encoder.fc.0.weight": (4096, 512),
    "base_encoder.fc.3.weight": (256, 4096),
    "predictor.0.weight": (4096, 256),
    "predictor.3.weight": (256, 4096),
    **{f"momentum_encoder.{key}": shape for key, shape in R18.items()},
}
# family: (trunk prefix, shapes of the other keys, projector widths, predictor widths)
CASES = {
    "simsiam": ("encoder.", SIMSIAM_HEADS, [512, 512, 512, 2048], [2048, 256, 2048]),
    "torchvision": ("", {"fc.weight": (1000, 512), "fc.bias": (1000,)}, None, None),
    "moco": ("encoder_q.", MOCO_OTHER_KEYS, [512, 512, 128], None),
    "moco-v3": ("base_encoder.", MOCO_V3_OTHER_KEYS, [512, 4096, 256], [256, 4096, 256]),
    "dino": ("backbone.", {"head.mlp.0.weight": (2048, 512), "head.last_layer.weight_g": (60000, 1)}, None, None),
}


def test_every_family_has_a_case():
    assert [family.name for family in FAMILIES] == list(CASES)


@pytest.mark.parametrize("wrapper", ["", "module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("name", CASES)
def test_family(name, wrapper):
    prefix, other_keys, projector, predictor = CASES[name]
    loaded = {f"{wrapper}{prefix}{key}": key for key in R18}
    shapes = {key: R18[trunk_key] for key, trunk_key in loaded.items()}
    skipped = {f"{wrapper}{key}": shape for key, shape in other_keys.items()}
    match = match_state_dict({**skipped, **shapes}, "file")
    assert (match.family.name, match.arch, match.stem) == (name, "resnet18", "imagenet")
    assert match.loaded == loaded
    assert match.skipped.keys() == skipped.keys()
    assert all(reason and "not a known part" not in reason for reason in match.skipped.values())
    assert (match.projector, match.predictor) == (projector, predictor)


def test_wrapper_inside_the_key():
    assert match_state_dict({f"encoder._orig_mod.{key}": s for key, s in R18.items()}, "f").family.name == "simsiam"


def test_backbone_alone():
    match = match_state_dict(R18, "file")
    assert match.family.name == "torchvision"
    assert match.skipped == {}
