"""How messages name settings."""

import pytest

from simsiam_eval.errors import DataError, spelled, spelled_as


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("--batch-size must be at least 1.", "batch_size must be at least 1."),
        ("-C and -k (--sweep-k, --no-strict).", "c and k (sweep_k, strict=False)."),
        ("Run `torchrun --nproc-per-node 2`.", "Run `torchrun --nproc-per-node 2`."),
        ("must be -1 or below, a-b, x--y, a -- b", "must be -1 or below, a-b, x--y, a -- b"),
    ],
)
def test_options_are_arguments_in_python(message, shown):
    with spelled_as("arguments"):
        assert spelled(message) == str(DataError(message)) == shown
        with spelled_as("options"):
            assert str(DataError(message)) == message
