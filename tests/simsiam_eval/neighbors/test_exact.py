"""The neighbors and their vote against brute force in NumPy float64."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from simsiam_eval.errors import DataError
from simsiam_eval.neighbors import exact as neighbors
from simsiam_eval.neighbors.exact import search, search_blocks


def brute_force_similarities(bank, queries):
    def unit(rows):
        lengths = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
        return rows / np.where(lengths == 0, 1, lengths)

    return unit(queries) @ unit(bank).T


@pytest.mark.parametrize("k", [1, 7, 60, 500])  # 60 is all of them, 500 more than there are
def test_search_against_brute_force(k):
    rng = np.random.default_rng(2)
    bank, queries = rng.normal(size=(60, 5)), rng.normal(size=(40, 5))
    similarities, rows = search(bank, queries, k)
    expected = brute_force_similarities(bank, queries)
    assert similarities.shape == rows.shape == (40, min(k, 60))
    np.testing.assert_array_equal(rows, np.argsort(-expected, axis=1)[:, :k])
    np.testing.assert_allclose(similarities, np.take_along_axis(expected, rows, axis=1), atol=1e-6)


@st.composite
def searches(draw):
    """A bank and queries (None: leave-one-out) without rounding: small whole numbers, and so with many ties."""
    width = draw(st.integers(1, 4))
    rows = st.lists(st.lists(st.integers(-3, 3), min_size=width, max_size=width), min_size=1, max_size=40)
    bank = np.array(draw(rows), dtype=np.float32)
    queries = draw(st.none() | rows.map(lambda found: np.array(found, dtype=np.float32)))
    return bank, queries, draw(st.integers(1, 50)), draw(st.sampled_from(["cosine", "l2"]))


@settings(max_examples=150, deadline=None)
@given(searches(), st.integers(1, 7), st.integers(1, 50))
def test_any_search_in_any_blocks_is_brute_force(case, some, many):
    bank, queries, k, metric = case
    asked = bank if queries is None else queries
    if metric == "l2":
        expected = -((asked[:, None].astype(float) - bank[None]) ** 2).sum(2) / 2
    else:
        expected = brute_force_similarities(bank, asked)
    if queries is None:
        np.fill_diagonal(expected, -np.inf)
    k_used = min(k, len(bank) - (queries is None))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbors, "_BLOCK", {"cpu": (some, many)})
        patch.setattr(neighbors, "_CHUNK", 4 * some * bank.shape[1])  # several chunks of queries
        similarities, rows = search(bank, queries, k, metric)
    assert similarities.shape == rows.shape == (len(asked), k_used)
    np.testing.assert_allclose(similarities, -np.sort(-expected, axis=1)[:, :k_used], atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(expected, rows, axis=1), similarities, atol=1e-5)
    assert all(len(set(found)) == k_used for found in rows.tolist())
    if metric == "l2":  # nothing is rounded: of equal distances the lower row goes first
        np.testing.assert_array_equal(rows, np.argsort(-expected, axis=1, kind="stable")[:, :k_used])


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_exact_copies_come_in_the_order_of_their_rows_whatever_k(monkeypatch, metric):
    monkeypatch.setattr(neighbors, "_BLOCK", {"cpu": (16, 512)})  # copies within and across blocks
    rng = np.random.default_rng(6)
    bank, queries = rng.normal(size=(10, 8))[rng.integers(0, 10, 2000)], rng.normal(size=(30, 8))
    similarities, rows = search(bank, queries, 2000, metric)
    same = np.diff(similarities, axis=1) == 0
    assert same.mean() > 0.9
    assert (np.diff(rows, axis=1)[same] > 0).all()
    for k in (1, 2, 5, 20, 199, 300):
        np.testing.assert_array_equal(search(bank, queries, k, metric)[1], rows[:, :k])


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("rows", [1, 2, 5, 127, 128, 129, 600])
def test_equal_rows_are_found_in_their_order(monkeypatch, rows, metric):
    monkeypatch.setattr(neighbors, "_BLOCK", {"cpu": (3, 256)})
    bank = np.tile(np.float32([1, 2, 3]), (rows, 1))
    for k in {1, min(3, rows), rows}:
        assert search(bank, bank[:1], k, metric)[1].tolist() == [list(range(k))]
    others = [row for row in range(rows) if row != rows // 2]
    assert search(bank, None, rows, metric)[1][rows // 2].tolist() == others


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_a_bank_of_many_blocks_and_chunks(monkeypatch, metric):
    rng = np.random.default_rng(3)
    bank, queries = rng.normal(size=(1000, 6)), rng.normal(size=(50, 6))
    whole = search(bank, queries, 30, metric)
    monkeypatch.setattr(neighbors, "_BLOCK", {"cpu": (16, 128)})
    monkeypatch.setattr(neighbors, "_CHUNK", 4 * 6 * 256)
    np.testing.assert_array_equal(search(bank, queries, 30, metric)[1], whole[1])
    blocks = list(search_blocks(bank, queries, 30, metric))
    assert len(blocks) > 1
    assert [one[0].start for one in blocks[1:]] == [one[0].stop for one in blocks[:-1]]


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("rows", [2049, 6145])
def test_copies_in_a_block_that_would_be_of_one_row_are_equal_too(metric, rows):
    """A library may multiply a single row by another kernel, with another rounding."""
    rng = np.random.default_rng(9)
    bank = np.tile(rng.normal(size=(1, 128)).astype(np.float32), (rows, 1))
    assert (search(bank, rng.normal(size=(200, 128)).astype(np.float32), 1, metric)[1] == 0).all()


def test_copies_in_a_chunk_that_would_be_of_one_row_are_equal_too(monkeypatch):
    monkeypatch.setattr(neighbors, "_CHUNK", 4 * 128 * 500)
    rng = np.random.default_rng(9)
    bank = np.tile(rng.normal(size=(1, 128)).astype(np.float32), (1001, 1))
    assert (search(bank, rng.normal(size=(100, 128)).astype(np.float32), 1)[1] == 0).all()


def test_rows_too_long_for_float32_have_a_cosine_and_no_distance():
    bank = np.array([[1.6e19, 0], [-1.6e19, 0]], np.float32)
    assert search(bank, bank, 2)[0].tolist() == [[1, -1], [1, -1]]
    with pytest.raises(DataError, match="too long"):
        search(bank, bank, 2, "l2")


def test_distances_that_float32_cannot_hold_are_rejected():
    bank = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    with pytest.raises(DataError, match="too small for l2 in float32"):
        search(1e-25 * bank, None, 3, "l2")
    assert np.isfinite(search(np.ones((5, 4), np.float32), None, 3, "l2")[0]).all()  # all the same, which is no matter


def test_rows_backwards():
    bank = np.random.default_rng(2).normal(size=(50, 4)).astype(np.float32)
    for metric in ("cosine", "l2"):
        assert (search(bank[::-1], bank, 1, metric)[1][:, 0] == np.arange(49, -1, -1)).all()


def test_l2_far_from_the_origin_keeps_its_digits():
    rng = np.random.default_rng(6)
    bank, queries = (rng.normal(size=(rows, 8)) + 1000 for rows in (200, 20))
    similarities, rows = search(bank.astype(np.float32), queries.astype(np.float32), 10, "l2")
    exact = -((queries.astype(np.float32)[:, None].astype(float) - bank.astype(np.float32)[None]) ** 2).sum(2) / 2
    np.testing.assert_array_equal(rows, np.argsort(-exact, axis=1)[:, :10])
    np.testing.assert_allclose(similarities, np.take_along_axis(exact, rows, axis=1), atol=1e-4)


def test_scikit_learn_finds_the_same():
    from sklearn.neighbors import NearestNeighbors

    rng = np.random.default_rng(7)
    bank, queries = rng.normal(size=(300, 8)), rng.normal(size=(30, 8))
    for metric, theirs in (("cosine", "cosine"), ("l2", "euclidean")):
        expected = NearestNeighbors(n_neighbors=12, metric=theirs).fit(bank).kneighbors(queries)[1]
        np.testing.assert_array_equal(search(bank, queries, 12, metric)[1], expected)


def test_one_image_has_no_neighbor_but_itself():
    one = np.ones((1, 3), dtype=np.float32)
    assert search(one, None, 5)[1].shape == (1, 0)
    assert search(one, one, 5)[1].tolist() == [[0]]
    assert search(one, np.empty((0, 3)), 5)[1].shape == (0, 1)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["bank", "queries"])
def test_rows_that_are_not_finite_are_rejected(bad, where):
    sets = {"bank": np.ones((3, 2)), "queries": np.ones((3, 2))}
    sets[where][1, 0] = bad
    with pytest.raises(DataError, match="finite"):
        search(sets["bank"], sets["queries"], 1)


def test_leave_one_out_against_brute_force():
    bank = np.random.default_rng(4).normal(size=(30, 6))
    similarities, rows = search(bank, None, 9)
    expected = brute_force_similarities(bank, bank)
    np.fill_diagonal(expected, -np.inf)
    np.testing.assert_array_equal(rows, np.argsort(-expected, axis=1)[:, :9])
    np.testing.assert_allclose(similarities, np.take_along_axis(expected, rows, axis=1), atol=1e-6)


@pytest.mark.parametrize("k", [1, 2, 3, 4, 11, 50])
def test_leave_one_out_among_exact_copies(k):
    rng = np.random.default_rng(5)
    bank = np.concatenate([np.repeat(rng.normal(size=(1, 4)), 7, axis=0), rng.normal(size=(5, 4))])
    similarities, rows = search(bank, None, k)
    expected = brute_force_similarities(bank, bank)
    np.fill_diagonal(expected, -np.inf)
    assert rows.shape == (12, min(k, 11))
    for own, found in enumerate(rows.tolist()):
        assert own not in found
        assert len(set(found)) == len(found)
    np.testing.assert_allclose(similarities, -np.sort(-expected, axis=1)[:, : rows.shape[1]], atol=1e-6)


def test_a_zero_vector_has_similarity_zero_to_all():
    bank = np.array([[1.0, 0.0], [0.0, 0.0], [-1.0, 0.0]])
    similarities, rows = search(bank, np.array([[2.0, 0.0], [0.0, 0.0]]), 3)
    assert rows[0].tolist() == [0, 1, 2]
    assert similarities.tolist() == [[1, 0, -1], [0, 0, 0]]
    assert sorted(rows[1].tolist()) == [0, 1, 2]


@pytest.mark.parametrize(
    ("bank", "queries", "k"),
    [
        (np.ones((3, 2)), np.ones((3, 2)), 0),
        (np.ones((0, 2)), np.ones((3, 2)), 1),
        (np.ones((3, 2)), np.ones((3, 4)), 1),
    ],
)
def test_impossible_searches_are_rejected(bank, queries, k):
    with pytest.raises(ValueError, match="cannot search"):
        search(bank, queries, k)
