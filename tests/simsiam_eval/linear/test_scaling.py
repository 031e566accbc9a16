import pytest
import torch

from simsiam_eval.linear.scaling import Scaling


def test_standard_has_mean_0_and_deviation_1_over_the_training_rows_and_keeps_constants_finite():
    features = torch.randn(50, 4) * torch.tensor([1.0, 5, 0, 2]) + torch.tensor([0.0, 3, 7, -1])
    scaling = Scaling.fit("standard", features)
    scaled = scaling(features)
    torch.testing.assert_close(scaled.mean(dim=0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(scaled.std(dim=0, correction=0), torch.tensor([1.0, 1, 0, 1]), atol=1e-4, rtol=0)
    assert features[0, 2] == 7  # not changed in place
    torch.testing.assert_close(scaling(features[:3]), scaled[:3])


@pytest.mark.parametrize("size", [1e30, 1e-30])
def test_extreme_features_neither_overflow_nor_underflow(size):
    features = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    scaled = Scaling.fit("standard", size * features)(size * features)
    torch.testing.assert_close(scaled, Scaling.fit("standard", features)(features), atol=1e-5, rtol=1e-5)


def test_constant_features_are_only_centered():
    """Rounding of the mean must not become a tiny standard deviation to divide by."""
    features = torch.full((1000, 1), 0.1)
    assert Scaling.fit("standard", features)(torch.tensor([[0.3]])).item() == pytest.approx(0.2)
    features = torch.zeros(10_000, 1)
    features[5] = 1e-44  # its standard deviation underflows in float32
    assert Scaling.fit("standard", features)(features).isfinite().all()


def test_l2_has_unit_length_keeps_zero_rows_and_none_changes_nothing():
    features = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    assert Scaling.fit("l2", features)(features).tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [0, 0]]
    assert Scaling.fit("none", features)(features) is features
    with pytest.raises(ValueError, match="scaling must be one of none, l2, standard"):
        Scaling.fit("whiten", features)
