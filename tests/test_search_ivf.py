"""Inverted lists: set for a recall that is measured, exclusion that still gives k, distances of the stored vectors."""

from dataclasses import replace

import numpy as np
import pytest

from tissuary.store import Store
from tissuary.store.errors import StoreError
from tissuary.store.files.features import write_features
from tissuary.store.files.schema import features_path
from tissuary.store.search.build import least_nprobe, lower_bound, recall_of
from tissuary.store.search.ivf import lists_for
from tissuary.store.search.lookup import open_index
from tissuary.store.search.record import BuildOptions, sample_rows
from tissuary.store.search.search import nearest_rows

KEY = "toy@20x"
IVF = BuildOptions(kind="ivf")


@pytest.fixture
def store(make_store):
    slides = {"a1": ("A", 700), "a2": ("A", 600), "b1": ("B", 650), "c1": ("C", 500)}
    return make_store(slides, dim=16, n_genes=5)


def brute_force(store, *, within="cohort"):
    """Cosines (n, n) of the features in the files, slide by slide in their order, and the slide of each row."""
    parts = [np.asarray(store.features(KEY, slide), dtype=np.float64) for slide in ("a1", "a2", "b1", "c1")]
    rows = np.concatenate(parts)
    if within == "cohort":
        rows = (rows - rows.mean(0)) / rows.std(0)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows @ rows.T, np.repeat(np.arange(4), [len(part) for part in parts])


@pytest.mark.parametrize("exclude", [None, "slide", "patient"])
def test_the_recall_asked_for_is_delivered_on_other_queries(store, exclude):
    made = store.build_index(KEY, options=IVF).record.ivf
    name = exclude or "none"
    assert made.nlist == lists_for(2450) == 62
    assert made.recall[name] >= 0.99
    assert 1 <= made.nprobe[name] <= made.nlist
    index = open_index(Store(store.path), KEY, patches="spots")
    fresh = np.setdiff1d(np.arange(len(index)), sample_rows(index.slide, 1024, least=1))[::2]
    cosine, slide = brute_force(store)
    group = np.array([0, 0, 1, 2])[slide] if exclude == "patient" else slide
    cosine[np.diag_indices(len(cosine))] = -np.inf
    if exclude:
        cosine[group[:, None] == group[None]] = -np.inf
    best = np.argsort(-cosine[fresh], axis=1, kind="stable")[:, :10]
    scores, rows = nearest_rows(index, fresh, 10, exclude=exclude)
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(rows, best, strict=True)])
    assert recall >= 0.985
    np.testing.assert_allclose(scores, np.take_along_axis(cosine[fresh], rows, axis=1), atol=1e-5)  # not those of fp16
    if not exclude:
        assert made.nprobe["none"] < made.nlist  # it did not come by looking everywhere


def test_k_hits_come_back_where_the_nearest_lists_hold_only_the_excluded(store):
    store.build_index(KEY, options=BuildOptions(kind="ivf", recall=0.2))
    index = open_index(store, KEY, patches="spots")
    assert index.record.ivf.nprobe["patient"] <= 4
    hits = store.search("a1", 3, k=1150, key=KEY, exclude="patient")
    assert len(hits) == 1150 == len({(hit.slide_id, hit.patch) for hit in hits})
    assert {hit.slide_id for hit in hits} == {"b1", "c1"}
    assert len(store.search("a1", 3, k=5000, key=KEY)) == 2449


def test_an_inverted_index_answers_as_an_exact_one_when_all_lists_are_looked_at(store):
    store.build_index(KEY)
    exact = store.search_slide("b1", k=7, key=KEY, exclude="slide")
    store.build_index(KEY, options=BuildOptions(kind="ivf", recall=1.0))
    index = open_index(store, KEY, patches="spots")
    whole = index.record.ivf.nprobe["slide"] == index.record.ivf.nlist
    found = store.search_slide("b1", k=7, key=KEY, exclude="slide")
    same = (found.neighbours.index == exact.neighbours.index).mean()
    assert same == 1.0 if whole else same >= 0.99
    np.testing.assert_array_equal(nearest_rows(index, index.rows_of(2), 7, exclude="slide", exact=True)[1],
                                  exact.neighbours.index)  # fmt: skip


def test_slides_are_added_and_the_setting_is_measured_again(make_store, caplog):
    small = make_store({"a1": ("A", 400), "b1": ("B", 450)}, dim=6, n_genes=5)
    small.build_index(KEY, standardised="slide", options=IVF)
    first = open_index(small, KEY, patches="spots").record.ivf
    make_store({"c1": ("C", 900)}, dim=6, n_genes=5, seed=1)
    grown = Store(small.path)
    index = grown.build_index(KEY, standardised="slide", options=IVF)
    assert len(index) == 1750 == index.ivf.index.ntotal
    assert index.record.ivf.nlist == first.nlist
    assert index.record.ivf.trained_rows == 850
    assert "more than doubled since its lists were laid out" in caplog.text
    assert {hit.slide_id for hit in grown.search("a1", 0, k=20, key=KEY, exclude="slide")} == {"b1", "c1"}


def test_an_index_that_is_too_coarse_says_so(make_store, caplog):
    """fp16 codes of rows that differ by less than fp16 resolves: even all lists do not give the nearest."""
    store = make_store({"a1": ("A", 600)}, dim=8, n_genes=5)
    rows = 1 + 1e-3 * np.random.default_rng(0).normal(size=(600, 8)).astype(np.float32)
    header = replace(store.header(KEY, "a1"), fingerprint="near")
    with write_features(features_path(store.path, "a1", key="near@20x"), header, shape=rows.shape) as writer:
        writer.append(rows)
    assert store.features("near@20x", "a1").dtype == np.float32
    made = store.build_index("near@20x", standardised="none", options=IVF).record.ivf
    assert made.recall["none"] < 0.99
    assert made.nprobe["none"] == made.nlist
    assert "below the 0.9900 asked for" in caplog.text
    assert "features are not standardised" in caplog.text


def test_a_recall_that_is_no_share_is_refused(store):
    with pytest.raises(StoreError, match="recall 99: give a share above 0"):
        store.build_index(KEY, options=BuildOptions(kind="ivf", recall=99))
    with pytest.raises(StoreError, match="kind of index 'pq': choose auto, exact or ivf"):
        store.build_index(KEY, options=BuildOptions(kind="pq"))
    with pytest.raises(StoreError, match="metric 'l2': choose cosine or ip"):
        store.build_index(KEY, options=BuildOptions(metric="l2"))


@pytest.mark.parametrize(("n", "lists"), [(0, 1), (50, 1), (1000, 25), (200_000, 2048), (1_000_000, 4096)])
def test_lists_grow_with_the_root_of_the_rows(n, lists):
    assert lists_for(n) == lists


def test_recall_counts_ties_and_missing_neighbours():
    truth = np.array([[0.9, 0.8, 0.7], [0.9, 0.8, -np.inf], [-np.inf] * 3])
    found = np.array([[0.9, 0.7, 0.6], [0.9, 0.1, -np.inf], [-np.inf] * 3])
    np.testing.assert_allclose(recall_of(found, truth), [2 / 3, 1 / 2, 1])
    np.testing.assert_allclose(recall_of(np.array([[0.9, 0.7, 0.7]]), truth[:1]), [1.0])  # a copy of the last one
    assert lower_bound(np.array([1.0, 1.0])) == 1.0
    assert lower_bound(np.array([1.0, 0.5])) == pytest.approx(0.75 - 1.645 * 0.25 / np.sqrt(2))


@pytest.mark.parametrize(("nlist", "needed"), [(1, 1), (64, 1), (64, 7), (64, 16), (64, 64), (100, 93), (64, 1000)])
def test_the_least_number_of_lists_is_found(nlist, needed):
    asked = []

    def bound(nprobe):
        asked.append(nprobe)
        return float(nprobe >= needed)

    found = least_nprobe(bound, nlist, 0.99)
    assert min(needed, nlist) <= found <= max(min(needed, nlist) + found // 16, 1)
    assert max(asked, default=0) <= nlist
