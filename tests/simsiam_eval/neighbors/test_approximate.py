import numpy as np
import pytest

from simsiam_eval.errors import DataError, UsageError
from simsiam_eval.neighbors.approximate import build_index, cached_index, load_index
from simsiam_eval.neighbors.exact import search
from simsiam_eval.neighbors.recall import exact_sample, index_quality


@pytest.fixture(scope="module")
def bank():
    """Fifty clusters: what an index can find its way in."""
    rng = np.random.default_rng(0)
    return (rng.normal(size=(50, 16))[rng.integers(0, 50, 3000)] + rng.normal(0, 0.3, (3000, 16))).astype(np.float32)


@pytest.fixture(scope="module")
def queries(bank):
    rng = np.random.default_rng(1)
    return bank[rng.integers(0, 3000, 100)] + rng.normal(0, 0.2, (100, 16)).astype(np.float32)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("factory", ["Flat", "IVF16,Flat", "HNSW16", "OPQ8,IVF8,PQ8x4", "SQfp16", "SQ8"])
def test_recall_is_that_counted_by_hand_and_survives_the_disk(bank, queries, tmp_path, factory, metric):
    index = build_index(bank, factory, metric)
    index.set_parameters("nprobe=4" if "IVF" in factory else None, 10)
    similarities, rows = index.search(queries, 10)
    exact_similarities, exact = search(bank, queries, 10, metric)
    shared = sum(len(set(one) & set(two)) for one, two in zip(rows.tolist(), exact.tolist(), strict=True))
    quality = index_quality(index, bank, exact_sample(bank, queries, 10, metric))
    assert quality.recall == shared / exact.size
    assert quality.recall > (0.2 if "PQ" in factory else 0.9)
    if factory == "Flat":
        assert index.exact
        np.testing.assert_array_equal(rows, exact)
        np.testing.assert_allclose(similarities, exact_similarities, atol=1e-4)
    path = tmp_path / "an.index"
    index.save(path)
    assert path.stat().st_size == quality.bytes == index.size()
    mapped = load_index(path, factory, metric)
    mapped.set_parameters("nprobe=4" if "IVF" in factory else None, 10)
    np.testing.assert_array_equal(mapped.search(queries, 10)[1], rows)


def test_fewer_found_than_asked_are_minus_one_with_no_similarity(bank, queries):
    index = build_index(bank, "IVF64,Flat")
    index.set_parameters("nprobe=1", 2000)
    similarities, rows = index.search(queries, 2000)
    assert (rows == -1).any()
    assert np.isneginf(similarities[rows == -1]).all()
    assert np.isfinite(similarities[rows >= 0]).all()
    assert index_quality(index, bank, exact_sample(bank, queries, 2000)).recall == (rows >= 0).mean()


def test_no_row_is_its_own_neighbor_found_or_not(bank):
    index = build_index(bank, "IVF64,PQ4x4")
    rows = np.concatenate([found for _, _, found in index.search_blocks(bank, 5, leave_one_out=True)])
    assert rows.shape == (3000, 5)
    assert not (rows == np.arange(3000)[:, None]).any()
    assert 0 < index_quality(index, bank, exact_sample(bank, None, 5, sample=200)).recall < 1
    assert index_quality(build_index(bank, "Flat"), bank, exact_sample(bank, None, 5, sample=200)).recall == 1


def test_a_trained_index_is_used_again_for_the_same_rows_only(bank, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("SIMSIAM_EVAL_CACHE", str(tmp_path))
    first = cached_index(bank, "IVF16,Flat", "cosine", 0).search(bank[:9], 5)[1]
    again = cached_index(bank, "IVF16,Flat", "cosine", 0).search(bank[:9], 5)[1]
    np.testing.assert_array_equal(first, again)
    assert [("training" in line, "using the cached" in line) for line in capsys.readouterr().err.splitlines()] == [
        (True, False),
        (False, True),
    ]
    cached_index(bank + 1, "IVF16,Flat", "cosine", 0)
    assert len(list((tmp_path / "indexes").iterdir())) == 2


def test_a_damaged_index_of_the_cache_is_made_again(bank, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("SIMSIAM_EVAL_CACHE", str(tmp_path))
    whole = cached_index(bank, "IVF16,Flat", "cosine", 0).search(bank[:9], 5)[1]
    (path,) = (tmp_path / "indexes").iterdir()
    path.write_bytes(path.read_bytes()[:-100])
    np.testing.assert_array_equal(cached_index(bank, "IVF16,Flat", "cosine", 0).search(bank[:9], 5)[1], whole)
    assert "damaged, building it again" in capsys.readouterr().err
    cached_index(bank, "IVF16,Flat", "cosine", 0)
    assert "using the cached" in capsys.readouterr().err


def test_what_it_is_searched_with_is_returned(bank):
    assert build_index(bank, "Flat").set_parameters(None, 5) == ""
    assert build_index(bank, "HNSW8").set_parameters(None, 100) == "efSearch=100"
    index = build_index(bank, "IVF8,Flat")
    assert index.set_parameters(None, 5) == "nprobe=16"
    assert index.set_parameters("nprobe=3", 5) == "nprobe=3"


def test_what_faiss_cannot_make_is_one_sentence(bank, tmp_path):
    with pytest.raises(UsageError, match=r"not a FAISS factory string.*could not parse index string IVFx"):
        build_index(bank, "IVFx")
    with pytest.raises(UsageError, match="multiple of the number of subquantizers"):
        build_index(bank, "PQ7")
    with pytest.raises(DataError, match="use a smaller index"):
        build_index(bank[:10], "IVF64,Flat")
    with pytest.raises(UsageError, match=r"Rows cannot be added to --index .*IDMap,Flat.*use add_with_ids"):
        build_index(bank, "IDMap,Flat")
    for factory, parameters in (("IVF8,Flat", "nprobe=0"), ("IVF8,Flat", "nprobe=-1"), ("HNSW8", "efSearch=0")):
        with pytest.raises(UsageError, match="must be at least 1"):
            build_index(bank, factory).set_parameters(parameters, 1)
    for parameters in ("nprobe=1=2", "nprobe=x", "nprobe", "=1"):
        with pytest.raises(UsageError, match="cannot be used with IVF8,Flat"):
            build_index(bank, "IVF8,Flat").set_parameters(parameters, 1)
    with pytest.raises(UsageError, match="k_base >= k"):  # what FAISS rejects only when it searches
        build_index(bank, "IVF8,PQ4x4,RFlat").set_parameters("k_factor_rf=0", 1)
    with pytest.raises(UsageError, match="cannot be used with HNSW16"):
        build_index(bank, "HNSW16").set_parameters("nonsense=3", 1)
    (tmp_path / "no.index").write_bytes(b"hello, I am no index")
    with pytest.raises(DataError, match="not a FAISS index"):
        load_index(tmp_path / "no.index", "Flat", "cosine")
    with pytest.raises(DataError, match="does not exist"):
        load_index(tmp_path / "nowhere", "Flat", "cosine")


@pytest.mark.parametrize("factory", ["PQ4x99", "IVF4,PQ4x24"])
def test_codes_for_which_training_would_not_end_are_rejected(factory):
    with pytest.raises(UsageError, match="expected at most 16"):
        build_index(np.zeros((9, 8), np.float32), factory)


@pytest.mark.parametrize("factory", ["HNSW0", "HNSW1", "IVF0,Flat", "PQ8x0", "RR0,Flat", "IVF4_HNSW0,Flat"])
def test_sizes_with_which_faiss_crashes_are_rejected(bank, factory):
    with pytest.raises(UsageError, match="is too small a size"):
        build_index(bank, factory)


@pytest.mark.parametrize("factory", ["HNSW10", "IVF10,Flat", "HNSW16", "PCA10,Flat"])
def test_sizes_that_contain_these_digits_are_accepted(bank, factory):
    assert build_index(bank, factory).index.ntotal == len(bank)


def test_too_little_memory_is_one_sentence(bank):
    with pytest.raises(UsageError, match=r"Rows cannot be added to --index 'HNSW999999999': std::bad_alloc"):
        build_index(bank, "HNSW999999999")


def test_an_invalid_string_is_rejected_before_training_is_announced(capsys):
    with pytest.raises(UsageError, match="not a FAISS factory string"):
        cached_index(np.ones((3, 4), dtype=np.float32), "Foo", "cosine", 0)
    assert capsys.readouterr().err == ""
