"""SimSiam's parts: names and shapes, BN, parameter groups."""

import copy

import pytest
import torch
import torchvision

from pretrain.model import SimSiam, parameter_groups


@pytest.fixture(scope="module")
def small():
    """Built once, to be copied: drawing a trunk's weights takes longer than the tests."""
    torch.manual_seed(5)
    return SimSiam("resnet18", "cifar", dim=12, pred_dim=5, projector_hidden=16)


def norm_shapes(name, width, affine=True):
    shapes = {f"{name}.{key}": (width,) for key in ("running_mean", "running_var", *(("weight", "bias") * affine))}
    return shapes | {f"{name}.num_batches_tracked": ()}


def reference_shapes(arch, width):
    with torch.device("meta"):
        resnet = getattr(torchvision.models, arch)()
    shapes = {f"encoder.{key}": tuple(value.shape) for key, value in resnet.state_dict().items() if key[:3] != "fc."}
    shapes |= {"encoder.fc.0.weight": (width, width), "encoder.fc.3.weight": (width, width)}
    shapes |= {"encoder.fc.6.weight": (2048, width), "encoder.fc.6.bias": (2048,)}
    shapes |= norm_shapes("encoder.fc.1", width) | norm_shapes("encoder.fc.4", width)
    shapes |= norm_shapes("encoder.fc.7", 2048, affine=False) | norm_shapes("predictor.1", 512)
    shapes |= {"predictor.0.weight": (512, 2048), "predictor.3.weight": (2048, 512), "predictor.3.bias": (2048,)}
    return shapes


@pytest.mark.parametrize(("arch", "width"), [("resnet18", 512), ("resnet50", 2048)])
def test_state_dict_has_the_references_keys_and_shapes(arch, width):
    with torch.device("meta"):
        model = SimSiam(arch)
    assert {key: tuple(value.shape) for key, value in model.state_dict().items()} == reference_shapes(arch, width)


def test_only_the_last_projector_bias_is_frozen_and_residual_branches_start_at_zero(small):
    assert [name for name, value in small.named_parameters() if not value.requires_grad] == ["encoder.fc.6.bias"]
    assert not small.encoder.layer3[1].bn2.weight.any()
    assert small.encoder.layer3[1].bn1.weight.all()


def test_the_cifar_projector_has_two_layers():
    with torch.device("meta"):
        model = SimSiam("resnet18", "cifar", projector_layers=2, projector_hidden=2048)
    shapes = {key: tuple(value.shape) for key, value in model.encoder.fc.state_dict().items()}
    expected = {"0.weight": (2048, 512), "3.weight": (2048, 2048), "3.bias": (2048,)}
    assert shapes == expected | norm_shapes("1", 2048) | norm_shapes("4", 2048, affine=False)


def test_each_view_has_its_own_batch_statistics(small):
    model = copy.deepcopy(small).train()
    torch.manual_seed(0)
    view1, view2 = torch.randn(4, 3, 8, 8), 5 * torch.randn(4, 3, 8, 8) + 3
    p1, p2, z1, z2, features = model(view1, view2)
    torch.testing.assert_close(model.encoder.fc(features), z1)
    for p, z, view in ((p1, z1, view1), (p2, z2, view2)):
        torch.testing.assert_close(z, model.encoder(view))
        torch.testing.assert_close(p, model.predictor(z))
        torch.testing.assert_close(z.mean(dim=0), torch.zeros(12), atol=1e-5, rtol=0)
    assert int(model.encoder.bn1.num_batches_tracked) == 4  # two in the forward pass, two below


@pytest.mark.parametrize("fix_pred_lr", [False, True])
def test_every_parameter_is_in_one_group_and_only_the_predictor_keeps_its_lr(fix_pred_lr):
    with torch.device("meta"):
        model = SimSiam("resnet18", "cifar", dim=8, pred_dim=4)
    groups = parameter_groups(model, "constant" if fix_pred_lr else "cosine")
    assert sorted(id(value) for group in groups for value in group["params"]) == sorted(map(id, model.parameters()))
    fixed = {id(value) for group in groups if group.get("fix_lr") for value in group["params"]}
    assert fixed == ({id(value) for value in model.predictor.parameters()} if fix_pred_lr else set())


def kinds(sequence):
    return [type(step).__name__ for step in sequence]


@pytest.mark.parametrize(
    ("norms", "projector", "predictor"),
    [
        ("none", ["Linear", "ReLU", "Linear"], ["Linear", "ReLU", "Linear"]),
        ("hidden", ["Linear", "BatchNorm1d", "ReLU", "Linear"], ["Linear", "BatchNorm1d", "ReLU", "Linear"]),
        ("all", ["Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d"],
         ["Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d"]),
    ],
)  # fmt: skip
def test_norms_of_the_heads(norms, projector, predictor):
    with torch.device("meta"):
        model = SimSiam("resnet18", projector_layers=2, projector_bn=norms, predictor_bn=norms)
    assert kinds(model.encoder.fc) == projector
    assert kinds(model.predictor) == predictor
    for head in (model.encoder.fc, model.predictor):
        for linear, following in zip(head, [*list(head)[1:], None], strict=True):
            if isinstance(linear, torch.nn.Linear) and head[-1] is not following and linear is not head[-1]:
                assert (linear.bias is None) == isinstance(following, torch.nn.BatchNorm1d)


def test_a_head_without_norm_trains_its_bias():
    with torch.device("meta"):
        model = SimSiam("resnet18", projector_bn="hidden")
    assert all(value.requires_grad for value in model.parameters())


def test_without_a_predictor_p_is_z_and_a_fixed_one_is_not_trained(small):
    with torch.device("meta"):
        none = SimSiam("resnet18", predictor="none")
        fixed = SimSiam("resnet18", predictor="fixed")
    z = torch.randn(3, 2048)
    assert none.predictor(z) is z
    assert not any(value.requires_grad for value in fixed.predictor.parameters())
    assert [key for key in none.state_dict() if key.startswith("predictor.")] == []
    assert all(value.requires_grad for value in fixed.encoder.layer1.parameters())


def test_it_compiles_to_one_graph(small):
    """A break would leave each block to itself, the last ones uncompiled, as torch 2.11 did where sets were compared; later
    ones compile that too. (The eager backend needs no C++ compiler.)"""
    views = torch.randn(2, 4, 3, 16, 16)
    expected = copy.deepcopy(small)(*views)
    found = torch.compile(copy.deepcopy(small), backend="eager", fullgraph=True)(*views)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
