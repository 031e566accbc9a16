import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from simsiam_eval.errors import DataError
from simsiam_eval.neighbors import suspects
from simsiam_eval.neighbors.approximate import build_index
from simsiam_eval.neighbors.suspects import label_suspects, neighbor_suspects, only_images, outliers


@pytest.fixture(scope="module")
def digits():
    features, labels = load_digits(return_X_y=True)
    return features[:600].astype(np.float32), labels[:600].astype(np.int64)


def brute_force(features, labels, k, temperature):
    """Margins as docs/suspects.md defines them, image by image."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    margins = np.full(len(features), np.nan)
    for row in np.flatnonzero(labels >= 0):
        others = np.array([other for other in np.flatnonzero(labels >= 0) if other != row])
        if (labels[others] != labels[row]).all():
            continue
        similarity = unit[others] @ unit[row]
        near = np.argsort(-similarity, kind="stable")[:k]
        weights = np.exp(similarity[near] / temperature)
        share = {
            label: weights[labels[others[near]] == label].sum() / weights.sum() for label in set(labels[labels >= 0])
        }
        margins[row] = share[labels[row]] - max(value for label, value in share.items() if label != labels[row])
    return margins


def test_margins_are_those_of_the_definition(digits):
    features, labels = digits[0][:120], digits[1][:120].copy()
    labels[:7], labels[7] = -1, 50
    found = label_suspects(features, labels, 5, 0.1)
    np.testing.assert_allclose(found.margin, brute_force(features, labels, 5, 0.1), atol=1e-5)
    assert np.isnan(found.margin[:8]).all() and (found.suggested[:8] == -1).all()
    assert len(found.order()) == 112 and not np.isin(np.arange(8), found.order()).any()


def test_planted_wrong_labels_come_first(digits):
    features, labels = digits
    rows = np.random.default_rng(0).choice(len(labels), 30, replace=False)
    given = labels.copy()
    given[rows] = (labels[rows] + 3) % 10
    found = label_suspects(features, given)
    first = found.order()[:30]
    assert np.isin(first, rows).mean() > 0.9
    assert (found.suggested[np.intersect1d(first, rows)] == labels[np.intersect1d(first, rows)]).mean() > 0.9
    assert found.count == (found.margin < 0).sum()


def test_equal_margins_rank_by_the_similarity_of_the_neighbors():
    features = np.array([[1, 0, 0], [1, 0, 0.01], [0, 1, 0], [0, 1, 0.01], [1, 0, 0.3], [1, -0.02, 0]])
    found = label_suspects(features, [0, 0, 1, 1, 1, 1], k=1)
    assert found.margin.tolist() == [1, 1, 1, 1, -1, -1]
    assert found.order()[:2].tolist() == [5, 4]


def test_one_search_finds_the_same(digits):
    features, labels = digits
    together = neighbor_suspects(features, labels, k=7, outlier_k=3, threshold=0.97)
    apart, far = label_suspects(features, labels, 7), outliers(features, labels, 3)
    np.testing.assert_array_equal(together.labels.margin, apart.margin)
    np.testing.assert_array_equal(together.labels.suggested, apart.suggested)
    np.testing.assert_array_equal(together.outliers.distance, far.distance)
    np.testing.assert_array_equal(together.outliers.class_ratio, far.class_ratio)
    partly = labels.copy()
    partly[::5] = -1
    mixed = neighbor_suspects(features, partly, k=7)
    np.testing.assert_array_equal(mixed.labels.margin, label_suspects(features, partly, 7).margin)
    assert len(mixed.outliers.order()) == len(features)


def test_blocks_do_not_change_anything(digits, monkeypatch):
    features, labels = digits
    whole = neighbor_suspects(features, labels)
    monkeypatch.setattr(suspects, "_ENTRIES", 100)
    monkeypatch.setattr("simsiam_eval.neighbors.exact._CHUNK", 1 << 14)
    blocks = neighbor_suspects(features, labels)
    np.testing.assert_allclose(blocks.labels.margin, whole.labels.margin, atol=1e-5)
    np.testing.assert_array_equal(blocks.nearest, whole.nearest)


def test_distances_and_ratios(digits):
    features, labels = digits
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    found = outliers(features, labels, k=4)
    np.testing.assert_allclose(found.distance, 1 - np.sort(similarity)[:, -4], atol=1e-5)
    of_class = labels == 3
    within = 1 - np.sort(similarity[np.ix_(of_class, of_class)])[:, -4]
    np.testing.assert_allclose(found.class_distance[of_class], within, atol=1e-5)
    np.testing.assert_allclose(found.class_ratio[of_class], within / np.median(within), rtol=1e-3)


def test_a_foreign_image_is_the_outlier_of_its_class(digits):
    features, labels = digits
    keep = (labels != 7) | (np.cumsum(labels == 7) <= 5)
    given = np.where(labels[keep] == 7, 0, labels[keep])
    found = outliers(features[keep], given)
    in_class = [row for row in found.class_order() if given[row] == 0]
    assert (labels[keep][in_class[:5]] == 7).all()


def test_small_classes_and_few_images():
    features = np.eye(6, dtype=np.float32) + 0.1
    found = outliers(features, [0, 0, 0, 1, 1, 2], k=50)
    assert np.isnan(found.class_ratio).tolist() == [False] * 3 + [True] * 3
    assert np.isnan(found.class_distance).tolist() == [False] * 5 + [True]
    assert not np.isnan(found.distance).any()
    assert only_images(np.array([0, 0, 1, -1])).tolist() == [False, False, True, False]
    assert np.isnan(label_suspects(features, [0, 0, 0, 1, 1, 2], k=50).margin).tolist() == [False] * 5 + [True]


def test_near_duplicates_and_their_labels():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(30, 16)).astype(np.float32)
    features[5], features[9], features[20] = features[2], 2 * features[2], features[11]
    labels = np.arange(30) % 2
    labels[[2, 5, 9]], labels[[11, 20]] = (0, 0, 1), 1
    found = neighbor_suspects(features, labels, threshold=0.999)
    assert sorted(map(sorted, found.groups)) == [[2, 5, 9], [11, 20]]
    assert sorted(found.conflict_order()) == [2, 5, 9]
    assert found.conflict[2] == 9 and found.conflict[9] in (2, 5)
    assert found.nearest[20] == 11 and found.similarity[20] == pytest.approx(1)


def test_an_index_of_all_lists_finds_the_same(digits):
    features, labels = digits
    exact = neighbor_suspects(features, labels)
    index = build_index(features, "Flat")
    approximate = neighbor_suspects(features, labels, index=index)
    np.testing.assert_allclose(approximate.labels.margin, exact.labels.margin, atol=1e-4)
    with pytest.raises(ValueError, match="without a label"):
        neighbor_suspects(features, np.where(labels == 0, -1, labels), index=index)


def test_without_labels(digits):
    found = neighbor_suspects(torch.from_numpy(digits[0]))
    assert found.labels is None and np.isnan(found.outliers.class_ratio).all()


def test_what_cannot_be_judged(digits):
    features, labels = digits
    with pytest.raises(ValueError, match="at least two classes"):
        label_suspects(features, np.zeros(len(labels)))
    with pytest.raises(ValueError, match="need as many labels"):
        label_suspects(features, labels[:-1])
    broken = features.copy()
    broken[3, 3] = np.nan
    with pytest.raises(DataError, match="not finite"):
        label_suspects(broken, labels)
