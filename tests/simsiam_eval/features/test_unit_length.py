import numpy as np
import pytest
import torch

from simsiam_eval.errors import DataError
from simsiam_eval.features.unit_length import l2_normalized, unit_length


@pytest.mark.parametrize("scale", [1e-36, 1e-26, 1e-19, 1e-12, 1.0, 1e12, 1e19, 1e36])
def test_any_length_that_float32_holds_is_made_one(scale):
    rows = np.random.default_rng(0).normal(size=(20, 7))
    expected = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    given = (rows * scale).astype(np.float32)
    kept = given.copy()
    np.testing.assert_allclose(l2_normalized(given), expected, atol=3e-7)
    np.testing.assert_array_equal(given, kept)
    room = torch.empty(20, 7)
    assert unit_length(torch.from_numpy(given), room).data_ptr() == room.data_ptr()
    np.testing.assert_allclose(room.numpy(), expected, atol=3e-7)


def test_rows_of_every_kind_in_one_block_and_of_views():
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0], [3e-30, 4e-30], [3e30, 4e30], [0.6, 0.8], [1e-40, 0.0]])
    expected = torch.tensor([[0.6, 0.8], [0, 0], [0.6, 0.8], [0.6, 0.8], [0.6, 0.8], [1, 0]])
    assert torch.allclose(unit_length(rows), expected, atol=1e-6)
    assert torch.allclose(unit_length(rows.view(3, 2, 2)), expected.view(3, 2, 2), atol=1e-6)


def test_rows_of_length_one_are_given_back():
    rows = torch.eye(3)
    assert unit_length(rows) is rows


def test_arrays_that_cannot_be_written_and_of_other_types():
    rows = np.array([[3.0, 4.0], [0.0, 0.0]])
    rows.flags.writeable = False
    assert np.array_equal(l2_normalized(rows), np.array([[0.6, 0.8], [0, 0]], "float32"))
    assert np.array_equal(l2_normalized(rows.astype(np.float16)), np.array([[0.6, 0.8], [0, 0]], "float32"))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_rejected(value):
    with pytest.raises(DataError, match="not finite"):
        l2_normalized(np.array([[1.0, 2.0], [value, 1.0]]))
