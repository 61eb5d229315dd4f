"""Exact search: against brute force in float64, with ties, exclusions and a stored standardisation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tissuary.store import Store
from tissuary.store.errors import FingerprintError, StoreError
from tissuary.store.search.exact import search_exact, unit_rows
from tissuary.store.search.flat import FaissFlat, Groups, NumpyFlat
from tissuary.store.search.gpu import TorchFlat

KEY = "toy@20x"


@pytest.fixture
def store(make_store):
    return make_store({"a1": ("A", 25), "a2": ("A", 30), "b1": ("B", 28), "c1": ("unknown:c1", 20)})


def standardised_unit_vectors(store):
    """The same vectors, made from the files with numpy alone."""
    slides = ["a1", "a2", "b1", "c1"]
    rows = np.concatenate([np.asarray(store.features(KEY, slide), dtype=np.float64) for slide in slides])
    rows = (rows - rows.mean(0)) / rows.std(0)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    owner = [(slide, i) for slide in slides for i in range(len(store.features(KEY, slide)))]
    return rows, owner


@pytest.mark.parametrize("exclude", [None, "slide", "patient"])
@pytest.mark.parametrize("query", [("a1", 0), ("a2", 17), ("b1", 27)])
def test_hits_are_those_of_brute_force(store, exclude, query):
    store.build_index(KEY)
    rows, owner = standardised_unit_vectors(store)
    patient = {"a1": "A", "a2": "A", "b1": "B", "c1": "unknown:c1"}
    keep = {
        None: [who != query for who in owner],
        "slide": [who[0] != query[0] for who in owner],
        "patient": [patient[who[0]] != patient[query[0]] for who in owner],
    }[exclude]
    score = np.where(keep, rows @ rows[owner.index(query)], -np.inf)
    best = np.argsort(-score, kind="stable")[:10]
    hits = store.search(*query, k=10, key=KEY, exclude=exclude)
    assert [(hit.slide_id, hit.patch) for hit in hits] == [owner[i] for i in best]
    np.testing.assert_allclose([hit.distance for hit in hits], 1 - score[best], atol=1e-6)
    assert [hit.rank for hit in hits] == list(range(1, 11))


def test_exclusion_happens_inside_so_that_k_hits_come_back(store):
    store.build_index(KEY)
    hits = store.search("a1", 3, k=48, key=KEY, exclude="patient")
    assert len(hits) == 48
    assert {hit.patient_id for hit in hits} == {"B", "unknown:c1"}
    assert len(store.search("a1", 3, k=1000, key=KEY)) == 25 + 30 + 28 + 20 - 1


def test_standardisation_within_slides_is_kept_in_the_index(store):
    store.build_index(KEY, standardised="slide")
    a1, b1 = (np.asarray(store.features(KEY, slide), dtype=np.float64) for slide in ("a1", "b1"))
    query = ((a1 - a1.mean(0)) / a1.std(0))[4]
    others = (b1 - b1.mean(0)) / b1.std(0)
    cosine = others @ query / np.linalg.norm(others, axis=1) / np.linalg.norm(query)
    hits = [hit for hit in store.search("a1", 4, k=78, key=KEY, exclude="patient") if hit.slide_id == "b1"]
    assert [hit.patch for hit in hits] == np.argsort(-cosine, kind="stable").tolist()


def brute_force(base, queries, k, *, groups=None, own=None):
    """Rows and scores in float64, ties by row; -1 and -inf where there are fewer."""
    scores = (base.astype(float)[None] * queries.astype(float)[:, None]).sum(2)  # (m, n)
    if groups is not None:
        scores[groups.queries[:, None] == groups.rows[None]] = -np.inf
    if own is not None:
        scores[np.flatnonzero(own >= 0), own[own >= 0]] = -np.inf
    k = min(k, len(base))
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    scores = np.take_along_axis(scores, best, axis=1)
    return scores, np.where(np.isneginf(scores), -1, best)


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(1, 60), copies=st.integers(1, 30), k=st.integers(1, 25), groups=st.integers(1, 6),
    excluded=st.booleans(), in_it=st.booleans(), seed=st.integers(0, 10**6),
)  # fmt: skip
def test_exact_is_brute_force_with_ties_by_row(n, copies, k, groups, excluded, in_it, seed):
    rng = np.random.default_rng(seed)
    distinct = unit_rows(rng.normal(size=(n, 5)))
    base = distinct[rng.integers(0, n, size=n + copies)]  # many rows are equal
    own = rng.integers(0, len(base), size=4) if in_it else None
    queries = base[own] if in_it else unit_rows(rng.normal(size=(4, 5)))
    left_out = Groups(rng.integers(0, groups, size=len(base)), rng.integers(0, groups + 1, size=4))
    left_out = left_out if excluded else None
    scores, rows = brute_force(base, queries, k, groups=left_out, own=own)
    for index in (FaissFlat(base), NumpyFlat(base), TorchFlat(base, device="cpu")):
        got, found = search_exact(index, queries, k, groups=left_out, own=own)
        np.testing.assert_array_equal(found, rows)
        np.testing.assert_array_equal(got, scores)


def test_many_blocks_and_batches_give_what_brute_force_gives(monkeypatch):
    """Batches that FAISS takes, blocks of rows and queries that do not divide evenly, and rows in ascending order."""
    monkeypatch.setattr("tissuary.store.search.flat.BLOCK_ROWS", 100)
    monkeypatch.setattr("tissuary.store.search.flat.BLOCK_QUERIES", 64)
    rng = np.random.default_rng(1)
    base = unit_rows(rng.normal(size=(1010, 16)) + 1)
    queries = unit_rows(rng.normal(size=(150, 16)) + 1)
    base = base[np.argsort(base @ queries[0])]  # every block beats the one before
    groups = Groups(np.arange(1010) // 37, rng.integers(0, 30, size=150))
    for index in (FaissFlat(base), NumpyFlat(base)):
        for left_out in (None, groups):
            found = search_exact(index, queries, 12, groups=left_out)[1]
            np.testing.assert_array_equal(found, brute_force(base, queries, 12, groups=left_out)[1])


def test_vectors_that_differ_below_fp32_are_told_apart():
    """More near-copies than the first look fetches, in an order that fp32 cannot see."""
    rng = np.random.default_rng(2)
    one = rng.normal(size=64)
    base = unit_rows(one + 1e-7 * rng.normal(size=(400, 64)))
    queries = unit_rows(one[None] + 0.2 * rng.normal(size=(3, 64)))
    _, rows = brute_force(base, queries, 5)
    for index in (FaissFlat(base), NumpyFlat(base), TorchFlat(base, device="cpu")):
        np.testing.assert_array_equal(search_exact(index, queries, 5)[1], rows)


def test_an_index_older_than_the_store_is_refused(store):
    store.build_index(KEY)
    (store.path / "features" / "spots" / KEY / "a2.h5").unlink()
    with pytest.raises(StoreError, match="covers 4 slides, the store now 3"):
        Store(store.path).search("a1", 0, key=KEY)


def test_an_index_that_knows_other_patients_is_refused(store):
    """Or `--exclude patient` would leave out the wrong slides."""
    from dataclasses import replace

    from tissuary.store.files.schema import slide_path
    from tissuary.store.files.slide import read_slide, write_slide

    store.build_index(KEY)
    path = slide_path(store.path, "b1")
    record = read_slide(path)
    path.unlink()
    write_slide(path, replace(record, patient_id="A"), thumbnail=np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(StoreError, match="patients or um/px of slides changed"):
        Store(store.path).search("a1", 0, key=KEY, exclude="patient")


def test_a_foreign_file_among_the_features_does_not_stop_a_search(store, caplog):
    (store.path / "features" / "spots" / KEY / "zz.h5").write_bytes(b"foreign")
    again = Store(store.path)
    again.build_index(KEY)
    assert len(again.search("a1", 0, key=KEY)) == 10
    assert "zz.h5 is not a whole HDF5 file" in caplog.text


def test_a_query_of_zeros_and_a_k_beyond_the_store_are_answered():
    base = unit_rows(np.random.default_rng(0).normal(size=(30, 4)))
    groups = Groups(np.arange(30) // 5, np.array([0]))
    scores, rows = search_exact(NumpyFlat(base), np.zeros((1, 4), np.float32), 3, groups=groups, own=np.array([6]))
    assert rows.tolist() == [[5, 7, 8]]
    assert scores.tolist() == [[0.0, 0.0, 0.0]]
    assert search_exact(NumpyFlat(base), base[:1], 10**12)[1].shape == (1, 30)


def test_a_damaged_index_is_refused(store):
    store.build_index(KEY)
    path = next((store.path / "indexes" / f"spots.{KEY}").glob("rows-*.npz"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(StoreError, match="not what was written: run `tissuary index` again"):
        store.search("a1", 0, key=KEY)


def test_features_of_another_encoder_are_refused(store, make_store):
    store.build_index(KEY)
    import h5py

    for path in (store.path / "features" / "spots" / KEY).glob("*.h5"):
        with h5py.File(path, "a") as file:
            file.attrs["fingerprint"] = "other"
    with pytest.raises(FingerprintError, match="made from other features"):
        Store(store.path).search("a1", 0, key=KEY)


def test_the_only_index_needs_no_key(store):
    with pytest.raises(StoreError, match=r"no features on 'spots' are indexed \(indexes: none\): run `tissuary index"):
        store.search("a1", 0)
    store.build_index(KEY)
    assert store.search("a1", 0) == store.search("a1", 0, key=KEY)
    store.build_index("haematoxylin@20x")  # the control is not what a search is for
    assert store.search("a1", 0) == store.search("a1", 0, key=KEY)


def test_bad_questions_are_answered(store, caplog):
    with pytest.raises(StoreError, match="there is no index"):
        store.search("a1", 0, key=KEY)
    store.build_index(KEY)
    with pytest.raises(StoreError, match="has patches 0 to 24, not 25"):
        store.search("a1", 25, key=KEY)
    with pytest.raises(StoreError, match="is not in the index"):
        store.search("zz", 0, key=KEY)
    with pytest.raises(StoreError, match="choose patient or slide"):
        store.search("a1", 0, key=KEY, exclude="cohort")
    with pytest.raises(StoreError, match="choose cohort, slide or none"):
        store.build_index(KEY, standardised="patient")
    store.search("c1", 0, key=KEY, exclude="patient")
    assert "its patient is unknown" in caplog.text
