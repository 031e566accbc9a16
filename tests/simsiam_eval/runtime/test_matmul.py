import pytest
import torch

from simsiam_eval.runtime import matmul


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("onednn", [False, True])
@pytest.mark.parametrize(("m", "k", "n"), [(1, 1, 1), (130, 33, 70), (3, 500, 1)])
def test_it_is_the_product(monkeypatch, onednn, transposed, m, k, n):
    if not onednn:
        monkeypatch.setattr(matmul, "_onednn_multiplies", lambda: False)
    a, b = torch.randn(m, k), torch.randn(k, n).T if transposed else torch.randn(n, k)
    torch.testing.assert_close(matmul.times_transposed(a, b), (a.double() @ b.T.double()).float(), rtol=1e-4, atol=1e-4)


def test_a_torch_without_the_operator_multiplies_too(monkeypatch):
    monkeypatch.setattr(torch.ops, "mkldnn", object())
    assert not matmul._onednn_multiplies.__wrapped__()
