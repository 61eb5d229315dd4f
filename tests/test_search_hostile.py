"""Search where data are hostile: crowds of copies, blanks, lone rows, replaced files, damaged indexes, no FAISS."""

import hashlib
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tissuary.store import Store
from tissuary.store.errors import MissingDependencyError, StoreError
from tissuary.store.files.features import write_features
from tissuary.store.files.lock import slide_lock
from tissuary.store.files.schema import features_path
from tissuary.store.search.exact import search_exact, unit_rows
from tissuary.store.search.flat import FaissFlat, Groups, NumpyFlat
from tissuary.store.search.lookup import open_index, update_index
from tissuary.store.search.record import BuildOptions

KEY = "toy@20x"
SLIDES = {"a1": ("A", 25), "b1": ("B", 28), "c2": ("unknown:c2", 20)}


@pytest.fixture
def store(make_store):
    return make_store(SLIDES)


def with_features(store, rows, *, key="near@20x", fingerprint="near"):
    """Add features of given numbers to the slides of a store: `rows` by slide."""
    for slide, values in rows.items():
        header = replace(store.header(KEY, slide), fingerprint=fingerprint)
        path = features_path(store.path, slide, key=key)
        path.unlink(missing_ok=True)
        with write_features(path, header, shape=values.shape, dtype=np.dtype("<f4")) as writer:
            writer.append(values.astype(np.float32))
    return Store(store.path)


def index_folder(store, key=KEY):
    return store.path / "indexes" / f"spots.{key}"


@pytest.mark.parametrize("kind", ["exact", "ivf"])
def test_a_patch_is_not_its_own_neighbour_among_copies_of_it(make_store, kind):
    small = make_store({"a1": ("A", 60), "b1": ("B", 60)}, n_genes=5)
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(60, 6)), rng.normal(size=(60, 6))
    a[10:50], b[:5] = a[10], a[10]  # 45 copies on two slides
    store = with_features(small, {"a1": a, "b1": b})
    store.build_index("near@20x", options=BuildOptions(kind=kind))
    for patch in (10, 30, 49):
        hits = store.search("a1", patch, k=44, key="near@20x")
        found = [(hit.slide_id, hit.patch) for hit in hits]
        copies = [("a1", i) for i in range(10, 50) if i != patch] + [("b1", i) for i in range(5)]
        assert sorted(found) == copies
        assert max(hit.distance for hit in hits) < 1e-6
        if kind == "exact":
            assert found == copies  # ties by row
            ten = store.search("a1", patch, k=10, key="near@20x", exclude="slide")
            assert [(hit.slide_id, hit.patch) for hit in ten][:5] == [("b1", i) for i in range(5)]


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(2, 80), crowd=st.integers(1, 200), k=st.integers(1, 40), grouped=st.booleans(),
    inside=st.booleans(), held=st.sampled_from([1, 50, 10_000]), seed=st.integers(0, 10**6),
)  # fmt: skip
def test_crowds_are_searched_in_pieces_and_equal_queries_once(n, crowd, k, grouped, inside, held, seed):
    """However few candidates are held at a time, the answer is that of brute force with ties by row."""
    rng = np.random.default_rng(seed)
    base = unit_rows(rng.normal(size=(n + crowd, 4)))
    base[rng.permutation(n + crowd)[:crowd]] = base[0]
    own = np.append(rng.integers(0, n + crowd, size=9), -1) if inside else None
    queries = base[np.maximum(own, 0)] if inside else base[rng.integers(0, n + crowd, size=10)]
    groups = Groups(rng.integers(0, 4, size=n + crowd), rng.integers(0, 5, size=10)) if grouped else None
    scores = (base.astype(float)[None] * queries.astype(float)[:, None]).sum(2)
    if groups is not None:
        scores[groups.queries[:, None] == groups.rows[None]] = -np.inf
    if own is not None:
        scores[np.flatnonzero(own >= 0), own[own >= 0]] = -np.inf
    best = np.argsort(-scores, axis=1, kind="stable")[:, : min(k, n + crowd)]
    value = np.take_along_axis(scores, best, axis=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tissuary.store.search.exact.CANDIDATES", held)
        patch.setattr("tissuary.store.search.exact.SCORED_BYTES", 8 * held)
        for index in (FaissFlat(base), NumpyFlat(base)):
            got, found = search_exact(index, queries, k, groups=groups, own=own)
            np.testing.assert_array_equal(found, np.where(np.isneginf(value), -1, best))
            np.testing.assert_array_equal(got, value)


def test_dimensions_that_do_not_vary_count_for_nothing(store):
    rng = np.random.default_rng(1)
    rows = {slide: rng.normal(size=(n, 6)) for slide, (_, n) in SLIDES.items()}
    with_features(store, rows)
    dull = {slide: np.concatenate([values, np.full((len(values), 3), 1e4)], axis=1) for slide, values in rows.items()}
    both = with_features(store, dull, key="dull@20x")
    for within in ("cohort", "slide"):
        hits = []
        for key in ("near@20x", "dull@20x"):
            both.build_index(key, standardised=within)
            hits.append(both.search("b1", 3, k=20, key=key, exclude="patient"))
        assert [(h.slide_id, h.patch) for h in hits[0]] == [(h.slide_id, h.patch) for h in hits[1]]
        np.testing.assert_allclose([h.distance for h in hits[0]], [h.distance for h in hits[1]], atol=1e-6)


@pytest.mark.parametrize("kind", ["exact", "ivf"])
def test_a_lone_patch_is_found_and_says_when_it_has_no_direction(make_store, caplog, kind):
    store = make_store({"a1": ("A", 30), "b1": ("B", 1)}, n_genes=5)
    store.build_index(KEY, options=BuildOptions(kind=kind))
    assert {hit.slide_id for hit in store.search("b1", 0, k=30, key=KEY)} == {"a1"}
    assert "b1" in {hit.slide_id for hit in store.search("a1", 4, k=30, key=KEY)}
    assert "zero in every dimension" not in caplog.text
    store.build_index(KEY, standardised="slide", options=BuildOptions(kind=kind))
    hits = store.search("b1", 0, k=4, key=KEY)
    assert [hit.distance for hit in hits] == [1.0] * 4
    assert "1 of 1 patches (the first: b1:0) are zero in every dimension once standardised" in caplog.text


@pytest.mark.parametrize("kind", ["exact", "ivf"])
def test_a_store_of_one_patch_has_no_look_alikes(make_store, kind):
    store = make_store({"a1": ("A", 1)}, n_genes=5)
    index = store.build_index(KEY, options=BuildOptions(kind=kind))
    assert store.search("a1", 0, key=KEY) == ()
    assert store.search_slide("a1", key=KEY).frame().shape == (0, 9)
    assert index.record.ivf is None or index.record.ivf.recall == {"none": 1.0, "slide": 1.0, "patient": 1.0}


@pytest.mark.parametrize("kind", ["exact", "ivf"])
def test_where_all_are_of_one_patient_nothing_is_left(make_store, kind):
    store = make_store({"a1": ("A", 20), "a2": ("A", 25)}, n_genes=5)
    store.build_index(KEY, options=BuildOptions(kind=kind))
    assert store.search("a1", 0, key=KEY, exclude="patient") == ()
    assert len(store.search("a1", 0, k=99, key=KEY, exclude="slide")) == 25
    assert not store.search_slide("a1", key=KEY, exclude="patient").neighbours.mask.any()


def test_patients_who_are_unknown_are_warned_about(store, caplog):
    store.build_index(KEY)
    store.search("a1", 0, key=KEY, exclude="slide")
    assert "unknown" not in caplog.text
    store.search("a1", 0, key=KEY, exclude="patient")
    assert "the patient of 1 of 3 slides is unknown (c2): they may be of the query's own" in caplog.text
    store.search_slide("c2", key=KEY, exclude="patient")
    assert "slide c2: its patient is unknown, so only the slide itself can be left out" in caplog.text


def test_a_slide_that_came_is_found_once_it_is_indexed(store, make_store):
    store.build_index(KEY)
    grown = make_store({"d1": ("D", 30)}, seed=5)
    with pytest.raises(StoreError, match=r"covers 3 slides, the store now 4 \(1 new\): run `tissuary index"):
        grown.search("a1", 0, key=KEY)
    grown.build_index(KEY)
    assert "d1" in {hit.slide_id for hit in grown.search("a1", 0, k=60, key=KEY)}
    assert len(grown.search("d1", 3, key=KEY, exclude="patient")) == 10


@pytest.mark.parametrize("kind", ["exact", "ivf"])
def test_replaced_features_of_the_same_fingerprint_are_noticed(store, kind):
    rng = np.random.default_rng(2)
    rows = {slide: rng.normal(size=(n, 6)) for slide, (_, n) in SLIDES.items()}
    options = BuildOptions(kind=kind)
    with_features(store, rows).build_index("near@20x", options=options)
    same = with_features(store, {"b1": rows["b1"]})  # written again: another time, the same content
    assert len(same.search("a1", 0, key="near@20x")) == 10
    other = with_features(store, {"b1": rows["b1"][::-1].copy()})
    with pytest.raises(StoreError, match="features of b1 were replaced since near@20x was indexed: run `tissuary ind"):
        other.search("a1", 0, key="near@20x")
    built = update_index(other, "near@20x", patches="spots", standardised="cohort", options=options)
    assert (built.done, built.why) == ("built", "features of b1 changed")
    assert len(other.search("a1", 0, key="near@20x")) == 10


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
@pytest.mark.parametrize(("kind", "what"), [("exact", "vectors-*"), ("ivf", "vectors-*"), ("exact", "rows-*")])
def test_a_damaged_index_file_is_refused_and_built_anew(store, kind, what, damage):
    options = BuildOptions(kind=kind)
    store.build_index(KEY, options=options)
    hits = store.search("a1", 3, key=KEY)
    path = next(index_folder(store).glob(what))
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 3] ^= 4
    path.unlink()
    if damage != "gone":
        path.write_bytes(raw if damage == "flip" else raw[: len(raw) // 2])
    with pytest.raises(StoreError, match="is missing or not what was written: run `tissuary index` again"):
        Store(store.path).search("a1", 3, key=KEY)
    built = update_index(Store(store.path), KEY, patches="spots", standardised="cohort", options=options)
    assert built.done == "built"
    assert "is missing or not what was written" in built.why
    assert Store(store.path).search("a1", 3, key=KEY) == hits


def rewritten(folder, change):
    """Change the record of an index and seal it again, as a forger would."""
    path = folder / "index.json"
    meta = json.loads(path.read_text())
    change(meta)
    meta["digest"] = "0" * 64
    raw = json.dumps(meta, indent=1)
    path.write_text(raw.replace('"digest": "' + "0" * 64, '"digest": "' + hashlib.sha256(raw.encode()).hexdigest()))


def test_an_index_that_names_files_elsewhere_or_has_other_fields_is_refused(store, tmp_path):
    store.build_index(KEY)
    rewritten(index_folder(store), lambda meta: None)
    assert len(Store(store.path).search("a1", 0, key=KEY)) == 10  # the seal is right
    outside = tmp_path / "outside.npz"
    outside.write_bytes(b"secret")
    digest = hashlib.sha256(b"secret").hexdigest()

    def elsewhere(meta):
        meta["sha256"]["../../../outside.npz"], meta["files"]["rows"] = digest, "../../../outside.npz"

    rewritten(index_folder(store), elsewhere)
    with pytest.raises(StoreError, match=r"index\.json is not what was written: run `tissuary index` again"):
        Store(store.path).search("a1", 0, key=KEY)
    store.build_index(KEY)
    rewritten(index_folder(store), lambda meta: meta["record"].update(colour="red"))
    with pytest.raises(StoreError, match=r"was written by another version \(colour\): run `tissuary index` again"):
        Store(store.path).search("a1", 0, key=KEY)


def test_two_jobs_do_not_write_one_index(store):
    with (
        slide_lock(store.path, f"index of spots.{KEY}"),
        pytest.raises(StoreError, match=f"another job is writing slide index of spots.{KEY} .process"),
    ):
        store.build_index(KEY)
    store.build_index(KEY)
    with slide_lock(store.path, f"index of spots.{KEY}"):
        store.build_index(KEY)  # nothing is to be written


def test_without_faiss_an_exact_index_answers_alike(store, monkeypatch):
    store.build_index(KEY)
    hits = store.search("b1", 3, key=KEY, exclude="slide")
    whole = store.search_slide("b1", key=KEY, exclude="patient")
    monkeypatch.setitem(sys.modules, "faiss", None)
    bare = Store(store.path)
    assert bare.search("b1", 3, key=KEY, exclude="slide") == hits
    assert type(open_index(bare, KEY, patches="spots").flat) is NumpyFlat
    np.testing.assert_array_equal(bare.search_slide("b1", key=KEY, exclude="patient").row, whole.row)
    bare.build_index(KEY, options=BuildOptions(rebuild=True))
    assert bare.search("b1", 3, key=KEY, exclude="slide") == hits
    with pytest.raises(MissingDependencyError, match=r"inverted lists need FAISS: pip install 'tissuary\[cpu\]'"):
        bare.build_index(KEY, options=BuildOptions(kind="ivf"))


def test_without_faiss_inverted_lists_say_what_they_miss_and_exact_needs_none(store, monkeypatch):
    store.build_index(KEY)
    hits = store.search("b1", 3, key=KEY, exclude="slide")
    store.build_index(KEY, options=BuildOptions(kind="ivf"))
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingDependencyError, match=r"reading inverted lists needs FAISS: .* search with `--exact`"):
        Store(store.path).search("b1", 3, key=KEY)
    exact = Store(store.path).search("b1", 3, key=KEY, exclude="slide", exact=True)
    assert [(hit.slide_id, hit.patch) for hit in exact] == [(hit.slide_id, hit.patch) for hit in hits]
    np.testing.assert_allclose([hit.distance for hit in exact], [hit.distance for hit in hits], atol=1e-6)


def test_exact_overrules_lists_that_look_at_too_little(make_store):
    store = make_store({"a1": ("A", 500), "b1": ("B", 500)}, dim=16, n_genes=5)
    store.build_index(KEY)
    truth = store.search_slide("a1", key=KEY, exclude="slide")
    store.build_index(KEY, options=BuildOptions(kind="ivf", recall=0.05))
    rough = store.search_slide("a1", key=KEY, exclude="slide")
    exact = store.search_slide("a1", key=KEY, exclude="slide", exact=True)
    assert (rough.neighbours.index != truth.neighbours.index).mean() > 0.1
    np.testing.assert_array_equal(exact.neighbours.index, truth.neighbours.index)
    assert len(store.search("a1", 0, key=KEY, exact=True)) == 10
