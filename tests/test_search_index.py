"""An index over time: slides added, gone and changed; batch search; mixing; its files and their digests."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from tissuary.store import Store
from tissuary.store.errors import StoreError
from tissuary.store.search.build import SHIFTED
from tissuary.store.search.files import read_meta
from tissuary.store.search.lookup import open_index, update_index
from tissuary.store.search.record import BuildOptions, mixing, sample_rows

KEY = "toy@20x"
SLIDES = {"a1": ("A", 25), "b1": ("B", 28), "c2": ("unknown:c2", 20)}


def update(store, *, standardised="slide", **options):
    return update_index(store, KEY, patches="spots", standardised=standardised, options=BuildOptions(**options))


@pytest.fixture
def store(make_store):
    return make_store(SLIDES)


def test_adding_slides_is_exact_where_slides_are_standardised_apart(store, make_store):
    first = update(store)
    assert (first.done, first.added, first.why) == ("built", ("a1", "b1", "c2"), "")
    assert update(Store(store.path)).done == "unchanged"
    grown = make_store({"b0": ("B", 30)}, seed=5)
    added = update(grown)
    assert (added.done, added.added) == ("added to", ("b0",))
    assert added.index.record.slide_ids == ("a1", "b1", "c2", "b0")  # what was there keeps its place
    queries = [("a1", 3, None), ("b0", 7, "patient"), ("b1", 2, "slide")]
    hits = [grown.search(slide, row, k=30, key=KEY, exclude=out) for slide, row, out in queries]
    assert {hit.slide_id for hit in hits[0]} == {"a1", "b1", "c2", "b0"}
    assert {hit.slide_id for hit in hits[1]} == {"a1", "c2"}
    again = update(grown, rebuild=True)
    assert (again.done, again.why) == ("built", "a rebuild was asked for")
    assert again.index.record.slide_ids == ("a1", "b0", "b1", "c2")
    assert [grown.search(slide, row, k=30, key=KEY, exclude=out) for slide, row, out in queries] == hits


def test_added_slides_get_the_statistics_of_the_cohort_that_was_there(store, make_store, caplog):
    first = update(store, standardised="cohort").index
    grown = make_store({"d1": ("D", 30)}, seed=5)
    index = update(grown, standardised="cohort").index
    assert index.record.statistics_from == ("a1", "b1", "c2")
    old = np.concatenate([np.asarray(store.features(KEY, slide), dtype=np.float64) for slide in ("a1", "b1", "c2")])
    new = (np.asarray(grown.features(KEY, "d1"), dtype=np.float64) - old.mean(0)) / old.std(0)
    np.testing.assert_array_equal(index.flat.vectors(np.arange(73)), first.flat.vectors(np.arange(73)))
    wanted = new / np.linalg.norm(new, axis=1, keepdims=True)
    np.testing.assert_allclose(index.flat.vectors(np.arange(73, 103)), wanted, atol=1e-5)
    away = np.sqrt((new.mean(0) ** 2).mean())
    assert away > SHIFTED
    assert f"slide d1 lies {away:.2f} standard deviations from the 3 slides" in caplog.text
    assert update(grown, standardised="cohort", rebuild=True).index.record.statistics_from == ("a1", "b1", "c2", "d1")


def test_slides_that_went_or_changed_and_other_settings_need_an_index_built_anew(store):
    update(store)
    assert update(store, standardised="cohort").why == "its standardised was slide, now cohort"
    assert update(store, standardised="cohort", metric="ip").why == "its metric was cosine, now ip"
    assert update(store, standardised="cohort", metric="ip", kind="ivf").why == "its kind was exact, now ivf"
    assert "its recall target" in update(store, standardised="cohort", metric="ip", kind="ivf", recall=0.5).why
    update(store)
    (store.path / "features" / "spots" / KEY / "b1.h5").unlink()
    again = update(Store(store.path))
    assert (again.why, again.index.record.slide_ids) == ("1 of its slides are gone", ("a1", "c2"))


def test_the_inner_product_of_standardised_features_keeps_lengths(store):
    update(store, standardised="cohort", metric="ip")
    rows = np.concatenate([np.asarray(store.features(KEY, slide), dtype=np.float64) for slide in SLIDES])
    rows = (rows - rows.mean(0)) / rows.std(0)
    score = rows @ rows[25 + 4]  # b1, patch 4
    score[25 + 4] = -np.inf
    best = np.argsort(-score)[:12]
    hits = store.search("b1", 4, k=12, key=KEY)
    owner = [(slide, i) for slide, (_, n) in SLIDES.items() for i in range(n)]
    assert [(hit.slide_id, hit.patch) for hit in hits] == [owner[i] for i in best]
    np.testing.assert_allclose([hit.distance for hit in hits], -score[best], rtol=1e-5)
    longest = open_index(store, KEY, patches="spots").record.longest
    assert longest == pytest.approx(np.linalg.norm(rows, axis=1).max(), rel=1e-5)


@pytest.mark.parametrize("exclude", [None, "slide", "patient"])
@pytest.mark.parametrize("kind", ["exact", "ivf"])
def test_a_whole_slide_gets_what_its_patches_get_one_by_one(store, exclude, kind):
    update(store, kind=kind)
    found = store.search_slide("b1", k=60, key=KEY, exclude=exclude)
    assert found.neighbours.index.shape == (28, 60)
    assert found.neighbours.mask.sum(axis=1).tolist() == [{None: 60}.get(exclude, 45)] * 28
    assert np.isinf(found.neighbours.distance[~found.neighbours.mask]).all()
    frame = found.frame()
    assert frame.columns[:3] == ["slide_id", "patch", "rank"]
    for patch in (0, 13, 27):
        hits = [asdict(hit) for hit in store.search("b1", patch, k=60, key=KEY, exclude=exclude)]
        rows = frame.filter(frame["patch"] == patch).to_dicts()
        assert [
            (r["rank"], r["neighbour_slide_id"], r["neighbour_patient_id"], r["neighbour_patch"]) for r in rows
        ] == [(h["rank"], h["slide_id"], h["patient_id"], h["patch"]) for h in hits]
        for name in ("x_um", "y_um", "distance"):
            np.testing.assert_allclose([r[name] for r in rows], [h[name] for h in hits], rtol=1e-6, atol=1e-6)


def test_mixing_counts_own_neighbours_against_chance():
    """Two slides of one patient and one of another, by hand."""
    slide = np.array([0, 0, 0, 1, 1, 2])
    neighbours = np.array([[1, 2], [0, 3], [4, 5], [3, -1]])
    report = mixing(neighbours, np.array([0, 1, 3, 5]), slide=slide, slide_ids=["a", "b", "c"], patient_ids=list("PPQ"))
    assert [(one.name, one.rows, one.own) for one in report.slides] == [("a", 3, 0.75), ("b", 2, 0.5), ("c", 1, 0.0)]
    np.testing.assert_allclose([one.expected for one in report.slides], [2 / 5, 1 / 5, 0])
    assert [(one.name, one.rows) for one in report.patients] == [("P", 5), ("Q", 1)]
    assert report.patients[0].own == pytest.approx((1 + 1 + 0.5) / 3)
    assert report.patients[0].expected == pytest.approx(4 / 5)
    assert report.slide.own == pytest.approx((3 * 0.75 + 2 * 0.5) / 6)
    assert report.slide.expected == pytest.approx((3 * 0.4 + 2 * 0.2) / 6)
    assert report.slides[0].separation == pytest.approx(0.35 / 0.6)


def test_a_batch_effect_is_seen_and_goes_with_standardisation_within_slides(make_store):
    """Slides of `make_store` differ by shift and scale only: the whole cohort's statistics leave that in."""
    store = make_store({f"s{i}": (f"P{i // 2}", 150) for i in range(6)})
    seen = update(store, standardised="cohort").index.record.mixing
    gone = update(store, standardised="slide").index.record.mixing
    assert seen.slide.expected == gone.slide.expected == pytest.approx(149 / 899)
    assert seen.slide.separation > 0.3
    assert abs(gone.slide.separation) < 0.03
    assert [one.name for one in gone.patients] == ["P0", "P1", "P2"]
    assert open_index(store, KEY, patches="spots").record.mixing == gone  # it travels with the index


def test_samples_reach_every_slide():
    slide = np.repeat([0, 1, 2], [1000, 3, 40])
    rows = sample_rows(slide, 100)
    assert np.bincount(slide[rows]).tolist() == [96, 3, 4]
    assert (np.diff(rows) > 0).all()


def test_an_open_index_is_read_again_when_its_files_change(store):
    update(store)
    one = open_index(store, KEY, patches="spots")
    assert open_index(store, KEY, patches="spots") is one
    update(store, standardised="cohort")
    assert open_index(store, KEY, patches="spots").record.standardised == "cohort"


@pytest.mark.parametrize("where", np.linspace(0.02, 0.98, 25))
def test_a_flipped_byte_of_index_json_is_found(store, where):
    update(store)
    path = store.path / "indexes" / f"spots.{KEY}" / "index.json"
    raw = bytearray(path.read_bytes())
    raw[int(where * len(raw))] ^= 1
    path.write_bytes(bytes(raw))
    with pytest.raises(StoreError, match="run `tissuary index` again"):
        Store(store.path).search("a1", 0, key=KEY)


def test_an_index_of_the_first_version_is_refused_and_replaced(store):
    update(store)
    folder = store.path / "indexes" / f"spots.{KEY}"
    meta = json.loads((folder / "index.json").read_text())
    meta["encoding-version"] = "1"
    (folder / "index.json").write_text(json.dumps(meta))
    with pytest.raises(StoreError, match="tissuary-index version 1; wanted tissuary-index version 2: run"):
        store.search("a1", 0, key=KEY)
    assert "version 1; wanted" in update(store).why
    assert read_meta(folder)["record"]["kind"] == "exact"
    assert len(list(folder.iterdir())) == 3  # the files of the old one are gone
