import numpy as np
import pytest
import torch

from simsiam_eval.neighbors import recall as measured
from simsiam_eval.neighbors.approximate import build_index
from simsiam_eval.neighbors.recall import exact_sample, index_quality


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_of_equally_near_rows_any_is_a_neighbor(metric):
    rng = np.random.default_rng(0)
    same, copies = np.full((600, 8), 3.0), np.repeat(rng.normal(size=(20, 8)), 30, axis=0)
    for bank in (same, rng.permutation(copies)):
        index = build_index(bank, "Flat", metric)
        assert index_quality(index, bank, exact_sample(bank, None, 10, metric, 200)).recall == 1
        assert index_quality(index, bank, exact_sample(bank, bank[:50], 10, metric)).recall == 1


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_a_row_that_is_less_near_is_none(metric):
    bank = np.array([[1, 0], [1, 0.1], [1, 0.2], [1, 0.3]])
    exact = exact_sample(bank, bank[:1], 2, metric)
    assert exact.rows.tolist() == [[0, 1]]

    class Wrong:
        factory, exact, index = "Wrong", False, None

        def search(self, queries, k, query_rows):
            return None, np.array([[0, 2]])

        def size(self):
            return 1

    assert index_quality(Wrong(), bank, exact).recall == 0.5


def test_a_speed_is_the_median_of_warm_runs(monkeypatch):
    clock, runs = [0.0], []
    monkeypatch.setattr(measured.time, "perf_counter", lambda: clock[0])

    def work(seconds):
        runs.append(1)
        clock[0] += seconds[len(runs) - 1]
        return len(runs)

    assert measured._timed(lambda: work([0.9, 0.1, 0.2, 0.3, 0.1, 0.2])) == (6, pytest.approx(0.2))
    runs.clear()
    assert measured._timed(lambda: work([1.5])) == (1, pytest.approx(1.5))


def test_exact_search_is_timed_on_the_device_of_the_command(monkeypatch):
    asked, search = [], measured.search
    monkeypatch.setattr(measured, "search", lambda *given: asked.append(given[4]) or search(*given[:4]))
    bank = np.random.default_rng(0).normal(size=(40, 4))
    exact = exact_sample(bank, None, 3, device=torch.device("meta"))
    assert set(asked) == {torch.device("meta")}
    assert index_quality(build_index(bank, "Flat"), bank, exact).exact_device == "meta"
