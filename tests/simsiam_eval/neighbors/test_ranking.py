"""Every metric against brute force: a sorted list and loops; scikit-learn's average precision as second opinion."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from sklearn.metrics import average_precision_score

from simsiam_eval.neighbors import exact as neighbors
from simsiam_eval.neighbors.exact import similarity_blocks
from simsiam_eval.neighbors.ranking import retrieval_metrics, score_queries


def brute_force(similarities, names, name, own, ks):
    """(average precision, R-precision, 1 / first rank, hits) of one query, None where nothing is relevant."""
    ranked = sorted((-value, names[at] == name) for at, value in enumerate(similarities.tolist()) if at != own)
    right = [found for _, found in ranked]  # of equals the wrong ones first
    relevant = sum(right)
    if not relevant:
        return None
    precisions = [sum(right[: at + 1]) / (at + 1) for at in range(len(right)) if right[at]]
    return (
        sum(precisions) / relevant,
        sum(right[:relevant]) / relevant,
        1 / (right.index(True) + 1),
        [sum(right[:k]) for k in ks],
    )


def brute_force_similarities(bank, queries, metric):
    if metric == "l2":
        return -((queries[:, None].astype(float) - bank[None]) ** 2).sum(2) / 2
    lengths = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(bank, axis=1)
    return queries.astype(float) @ bank.T / np.where(lengths > 0, lengths, 1)


@settings(max_examples=100, deadline=None)
@given(st.data(), st.sampled_from(["cosine", "l2"]), st.booleans())
def test_any_ranking_is_brute_force(data, metric, own):
    width = data.draw(st.integers(1, 3))
    row = st.lists(st.integers(-2, 2), min_size=width, max_size=width)
    bank = np.array(data.draw(st.lists(row, min_size=1, max_size=15)), dtype=np.float32)
    queries = bank if own else np.array(data.draw(st.lists(row, min_size=1, max_size=6)), dtype=np.float32)
    label = st.integers(0, 3)
    names = np.array(data.draw(st.lists(label, min_size=len(bank), max_size=len(bank))))
    asked = names if own else np.array(data.draw(st.lists(label, min_size=len(queries), max_size=len(queries))))
    ks = (1, 3, 20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbors, "_CHUNK", data.draw(st.sampled_from([1, 64, 1 << 20])))
        scores = score_queries(bank, names, None if own else queries, asked, ks, metric)
        every = np.arange(len(queries))
        blocks = similarity_blocks(bank, None if own else queries, every, metric)
        similarities = np.concatenate([block for _, block in blocks])
    there = brute_force_similarities(bank, queries, metric)
    if own:
        np.fill_diagonal(there, -np.inf)
    np.testing.assert_allclose(similarities, there, atol=1e-5)
    # From the similarities as they were computed: rounding decides which of them are equal.
    expected = {
        at: brute_force(similarities[at], names, asked[at], at if own else None, ks) for at in range(len(queries))
    }
    assert scores.queries.tolist() == [at for at, found in expected.items() if found is not None]
    for place, at in enumerate(scores.queries.tolist()):
        precision, r_precision, reciprocal, hits = expected[at]
        assert scores.average_precision[place] == pytest.approx(precision)
        assert scores.r_precision[place] == pytest.approx(r_precision)
        assert scores.reciprocal_rank[place] == pytest.approx(reciprocal)
        assert scores.hits[place].tolist() == hits


def test_average_precision_is_scikit_learns():
    rng = np.random.default_rng(0)
    bank, queries = rng.normal(size=(200, 6)), rng.normal(size=(20, 6))
    names, asked = rng.integers(0, 5, 200), rng.integers(0, 5, 20)
    scores = score_queries(bank, names, queries, asked, (1,), "l2")
    for at in range(20):
        distance = np.linalg.norm(bank - queries[at], axis=1)
        assert scores.average_precision[at] == pytest.approx(average_precision_score(names == asked[at], -distance))


def test_features_that_are_all_the_same_find_nothing():
    names = np.array([0, 0, 1, 1, 1, 1])
    scores = score_queries(np.ones((6, 2)), names, None, None, (1,))
    assert scores.hits[:, 0].tolist() == [0] * 6
    assert scores.reciprocal_rank[0] == 1 / 5


def test_some_queries_only():
    rng = np.random.default_rng(1)
    bank, names = rng.normal(size=(30, 4)), rng.integers(0, 3, 30)
    every = score_queries(bank, names, None, None, (1, 5))
    some = score_queries(bank, names, None, None, (1, 5), rows=np.array([3, 17]))
    np.testing.assert_allclose(some.average_precision, every.average_precision[[3, 17]])
    assert some.queries.tolist() == [3, 17]


ROWS = np.random.default_rng(0).normal(size=(30, 4))
LABELS = np.random.default_rng(1).integers(0, 3, 30)


def test_labels_are_of_any_kind():
    expected = retrieval_metrics(ROWS[:20], LABELS[:20], ROWS[20:], LABELS[20:], ks=5)
    for kind in (np.array(["ant", "bee", "cat"]), np.array([0.5, 1.5, 2.5]), np.array(["x", "y", "z"], dtype=object)):
        labels = kind[LABELS]
        assert retrieval_metrics(ROWS[:20], labels[:20], ROWS[20:], labels[20:], ks=[5]) == expected
    # A query label that the gallery lacks must not shift the numbering.
    names = np.array(["ant", "bee", "cat"])[LABELS]
    queries, query_names = np.vstack([ROWS[20:], ROWS[:1]]), [*names[20:], "aardvark"]
    more = retrieval_metrics(ROWS[:20], names[:20], queries, query_names, ks=5)
    assert more == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ks": 0}, "ks must be one or several positive integers, got 0"),
        ({"ks": ()}, "ks must be one or several positive integers"),
        ({"ks": [1.5]}, "ks must be one or several positive integers"),
        ({"ks": True}, "ks must be one or several positive integers"),
        ({"metric": "cos"}, "metric must be one of cosine, l2, got 'cos'"),
        ({"queries": ROWS}, "queries requires query_labels"),
        ({"query_labels": LABELS}, "query_labels requires queries"),
        ({"queries": ROWS[:, :2], "query_labels": LABELS}, "queries has 2 features per row and gallery 4"),
        ({"queries": ROWS[:0], "query_labels": []}, "queries must have shape"),
        ({"queries": ROWS, "query_labels": LABELS[:3]}, r"query_labels must have shape \(30,\)"),
        ({"queries": ROWS, "query_labels": ["a"] * 30}, "gallery_labels and query_labels must be of one kind"),
        ({"gallery": ROWS * np.nan}, "gallery must be finite"),
        ({"gallery_labels": LABELS[:3]}, r"gallery_labels must have shape \(30,\)"),
        ({"gallery_labels": LABELS * np.nan}, "gallery_labels must not contain NaN"),
    ],
)
def test_a_wrong_argument_is_named(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        retrieval_metrics(**{"gallery": ROWS, "gallery_labels": LABELS} | arguments)
