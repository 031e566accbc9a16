import numpy as np
import pytest
import torch

from simsiam_eval.errors import DataError
from simsiam_eval.features.unit_length import l2_normalized, unit_length


@pytest.mark.parametrize("scale", [1e-36, 1e-26, 1e-19, 1e-12, 1.0, 1e12, 1e19, 1e36])
def test_rows_of_any_float32_length_are_normalized(scale):
    rows = np.random.default_rng(0).normal(size=(20, 7))
    expected = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    scaled = (rows * scale).astype(np.float32)
    original = scaled.copy()
    np.testing.assert_allclose(l2_normalized(scaled), expected, atol=3e-7)
    np.testing.assert_array_equal(scaled, original)
    out = torch.empty(20, 7)
    assert unit_length(torch.from_numpy(scaled), out).data_ptr() == out.data_ptr()
    np.testing.assert_allclose(out.numpy(), expected, atol=3e-7)


def test_ordinary_extreme_and_zero_rows_can_be_mixed():
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0], [3e-30, 4e-30], [3e30, 4e30], [0.6, 0.8], [1e-40, 0.0]])
    expected = torch.tensor([[0.6, 0.8], [0, 0], [0.6, 0.8], [0.6, 0.8], [0.6, 0.8], [1, 0]])
    assert torch.allclose(unit_length(rows), expected, atol=1e-6)
    assert torch.allclose(unit_length(rows.view(3, 2, 2)), expected.view(3, 2, 2), atol=1e-6)


def test_normalized_rows_are_returned_unchanged():
    rows = torch.eye(3)
    assert unit_length(rows) is rows


def test_read_only_arrays_and_other_dtypes_are_accepted():
    rows = np.array([[3.0, 4.0], [0.0, 0.0]])
    rows.flags.writeable = False
    assert np.array_equal(l2_normalized(rows), np.array([[0.6, 0.8], [0, 0]], "float32"))
    assert np.array_equal(l2_normalized(rows.astype(np.float16)), np.array([[0.6, 0.8], [0, 0]], "float32"))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_rejected(value):
    with pytest.raises(DataError, match="not finite"):
        l2_normalized(np.array([[1.0, 2.0], [value, 1.0]]))
