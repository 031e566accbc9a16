import pytest
import torch

from simsiam_eval.linear.scaling import Scaling


def test_standard_has_mean_0_and_deviation_1_over_the_training_rows_and_a_constant_stays_finite():
    features = torch.randn(50, 4) * torch.tensor([1.0, 5, 0, 2]) + torch.tensor([0.0, 3, 7, -1])
    scaling = Scaling.fit("standard", features)
    scaled = scaling(features)
    torch.testing.assert_close(scaled.mean(dim=0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(scaled.std(dim=0, correction=0), torch.tensor([1.0, 1, 0, 1]), atol=1e-4, rtol=0)
    assert features[0, 2] == 7  # left as they were
    torch.testing.assert_close(scaling(features[:3]), scaled[:3])


@pytest.mark.parametrize("size", [1e30, 1e-30])
def test_squares_of_extreme_features_are_no_matter(size):
    features = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    scaled = Scaling.fit("standard", size * features)(size * features)
    torch.testing.assert_close(scaled, Scaling.fit("standard", features)(features), atol=1e-5, rtol=1e-5)


def test_a_constant_is_no_matter_of_rounding():
    """Of a mean that is rounded every row of a constant would deviate, and divide by next to nothing."""
    features = torch.full((1000, 1), 0.1)
    assert Scaling.fit("standard", features)(torch.tensor([[0.3]])).item() == pytest.approx(0.2)
    features = torch.zeros(10_000, 1)
    features[5] = 1e-44  # of a deviation that float32 does not have
    assert Scaling.fit("standard", features)(features).isfinite().all()


def test_l2_is_of_length_one_a_zero_row_stays_and_none_is_the_same():
    features = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    assert Scaling.fit("l2", features)(features).tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [0, 0]]
    assert Scaling.fit("none", features)(features) is features
    with pytest.raises(ValueError, match="no scaling"):
        Scaling.fit("whiten", features)
