"""The synthetic cohort: the same seed gives the same cohort, and its stated truth is true."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import anndata
import numpy as np
import openslide
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tissuary.featurize.slides.metadata import is_synthetic
from tissuary.store.errors import CohortError
from tissuary.store.files.slide import SYNTHETIC_SOFTWARE, SlideRecord, read_slide, write_slide
from tissuary.synthetic import CohortSpec, write_cohort, write_spec
from tissuary.synthetic.fields import MAP_UM, ring_means, smooth_field
from tissuary.synthetic.pyramid import write_pyramid
from tissuary.synthetic.tissue import LATENTS, array_centers_um, context, grow_tissue, local_morphology, spots_on_tissue

SPEC = CohortSpec(patients=2, slides_per_patient=1, seed=3, spots_per_side=6, n_genes=80)
SLIDES = ("P01-S1", "P02-S1")
INFILTRATE, NESTS = LATENTS.index("infiltrate"), LATENTS.index("nests")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return write_spec(tmp_path_factory.mktemp("cohort"), SPEC, workers=2).parent


def read_counts(cohort: Path, slide: str) -> anndata.AnnData:
    return anndata.read_h5ad(cohort / "counts" / f"{slide}.h5ad")


def read_truth(cohort: Path, slide: str) -> dict[str, np.ndarray]:
    with np.load(cohort / "truth" / f"{slide}.npz") as truth:
        return dict(truth)


def test_manifest_names_slides_patients_scale_and_files_that_exist(cohort):
    with (cohort / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["slide_id", "patient_id", "image", "mpp", "pitch_um", "counts", "spots"]
    assert [(row["slide_id"], row["patient_id"]) for row in rows] == [("P01-S1", "P01"), ("P02-S1", "P02")]
    assert all(float(row["mpp"]) == 0.5 and float(row["pitch_um"]) == 200 and row["spots"] == "" for row in rows)
    assert all((cohort / row[column]).is_file() for row in rows for column in ("image", "counts"))


def test_the_same_seed_gives_the_same_cohort_for_any_number_of_workers(cohort, tmp_path):
    again = write_spec(tmp_path, SPEC, workers=1).parent
    assert (again / "manifest.csv").read_bytes() == (cohort / "manifest.csv").read_bytes()
    for slide in SLIDES:
        image = Path("images") / f"{slide}.tif"
        assert (again / image).read_bytes() == (cohort / image).read_bytes()
        ours, theirs = read_counts(cohort, slide), read_counts(again, slide)
        np.testing.assert_array_equal(ours.X.toarray(), theirs.X.toarray())
        np.testing.assert_array_equal(ours.obsm["spatial"], theirs.obsm["spatial"])
        for name, value in read_truth(cohort, slide).items():
            np.testing.assert_array_equal(value, read_truth(again, slide)[name])


def test_another_seed_and_another_slide_give_another_section(tmp_path):
    size = {"patients": 1, "spots_per_side": 3, "n_genes": 10}
    one = write_cohort(tmp_path / "one", slides_per_patient=2, seed=0, **size).parent
    other = write_cohort(tmp_path / "other", slides_per_patient=1, seed=1, **size).parent
    first = (one / "images/P01-S1.tif").read_bytes()
    assert first != (one / "images/P01-S2.tif").read_bytes()
    assert first != (other / "images/P01-S1.tif").read_bytes()
    assert not np.array_equal(read_counts(one, "P01-S1").X.toarray(), read_counts(one, "P01-S2").X.toarray())


def test_openslide_reads_a_pyramid_with_its_scale(cohort):
    with openslide.OpenSlide(cohort / "images" / "P01-S1.tif") as slide:
        assert slide.properties["openslide.vendor"] == "generic-tiff"
        assert float(slide.properties["openslide.mpp-x"]) == float(slide.properties["openslide.mpp-y"]) == 0.5
        # Five steps of 200 um and 300 um on each side make 1,600 um.
        assert slide.level_dimensions == ((3200, 3200), (1600, 1600), (800, 800))


def test_a_pyramid_keeps_the_colours_and_halves_odd_sides(tmp_path):
    rgb = np.empty((601, 1203, 3), dtype=np.uint8)
    rgb[:] = (200, 120, 170)
    write_pyramid(tmp_path / "flat.tif", rgb, mpp=0.25)
    with openslide.OpenSlide(tmp_path / "flat.tif") as slide:
        assert float(slide.properties["openslide.mpp-x"]) == 0.25
        assert slide.level_dimensions == ((1203, 601), (602, 301))
        for level, (width, height) in enumerate(slide.level_dimensions):
            region = np.asarray(slide.read_region((0, 0), level, (width, height)))[..., :3]
            assert np.abs(region.astype(int) - (200, 120, 170)).max() <= 2


def test_spots_are_named_by_the_array_and_lie_on_tissue(cohort):
    for slide in SLIDES:
        table = read_counts(cohort, slide)
        row, column = table.obs["array_row"].to_numpy(), table.obs["array_col"].to_numpy()
        assert list(table.obs_names) == [f"{x}x{y}" for x, y in zip(column, row, strict=True)]
        np.testing.assert_array_equal(table.obsm["spatial"], 600 + 400 * np.stack([column, row], axis=1))
        assert 28 <= table.n_obs <= 36
        with openslide.OpenSlide(cohort / "images" / f"{slide}.tif") as image:
            corner = np.asarray(image.read_region((0, 0), 0, (60, 60)))[..., :3].mean()
            for x, y in table.obsm["spatial"].astype(int):
                spot = np.asarray(image.read_region((x - 100, y - 100), 0, (200, 200)))[..., :3]
                assert spot.mean() < corner - 15


def test_the_picture_shows_the_latent_that_the_truth_states(cohort):
    agreements = []
    for slide in SLIDES:
        truth, table = read_truth(cohort, slide), read_counts(cohort, slide)
        assert list(truth["barcode"]) == list(table.obs_names)
        with openslide.OpenSlide(cohort / "images" / f"{slide}.tif") as image:
            patches = [
                np.asarray(image.read_region((x - 112, y - 112), 0, (224, 224)))[..., 0]
                for x, y in table.obsm["spatial"].astype(int)
            ]
        # Only haematoxylin absorbs red strongly.
        red = [np.log(patch + 1.0).mean() for patch in patches]
        agreements.append(-np.corrcoef(red, truth["morphology"][:, NESTS])[0, 1])
    assert min(agreements) > 0.6


def test_counts_follow_the_stated_negative_binomial(cohort):
    counts = np.concatenate([read_counts(cohort, slide).X.toarray() for slide in SLIDES])
    truth = [read_truth(cohort, slide) for slide in SLIDES]
    mean = np.concatenate([t["mean"] for t in truth]).astype(np.float64)
    assert list(truth[0]["genes"]) == list(read_counts(cohort, SLIDES[0]).var_names)
    z = (counts - mean) / np.sqrt(mean + truth[0]["dispersion"] * mean**2)
    # 5,000 values of variance 1: standard errors of 0.014 for the mean and some 0.03 for the square.
    assert z.size > 4000
    assert abs(z.mean()) < 0.07
    assert 0.85 < (z**2).mean() < 1.15
    # A Poisson law would have 1 here: phi of 0.12 at means above 50 makes it 7 and more.
    assert ((counts - mean) ** 2 / mean)[mean > 50].mean() > 4
    assert 3000 < np.median(counts.sum(axis=1)) < 8000


def test_explainable_variance_is_that_of_the_noise_free_target(cohort):
    truth, counts = read_truth(cohort, "P02-S1"), read_counts(cohort, "P02-S1").X.toarray()
    target = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))
    clean = np.log1p(1e4 * truth["mean"] / truth["depth"][:, None])
    np.testing.assert_allclose(truth["explainable"], clean.var(axis=0) / target.var(axis=0), rtol=1e-4)
    by_group = [truth["explainable"][truth["group"] == group].mean() for group in range(3)]
    assert min(by_group[:2]) > 0.15 > 0.05 > by_group[2]


def test_expected_counts_have_the_stated_effects_and_no_other(cohort):
    truth = read_truth(cohort, "P01-S1")
    log_mean = np.log(truth["mean"].astype(np.float64))
    partner = truth["morphology"][:, NESTS]
    effect = truth["morphology"] @ truth["local"].T + np.outer(truth["context"] * partner, truth["interaction"])
    rest = log_mean - effect
    # What is left is a level per spot (depth, softmax) and a level per gene (base, patient, slide).
    rest = rest - rest.mean(axis=0) - rest.mean(axis=1, keepdims=True) + rest.mean()
    assert np.abs(rest).max() < 1e-5


@pytest.fixture(scope="module")
def sections():
    """Local morphology and context of six full-size sections, which are never drawn."""
    centers, _ = array_centers_um(12, 200.0)
    found = []
    for seed in range(6):
        tissue = grow_tissue(np.random.default_rng(seed), side_um=2800.0, centers_um=centers)
        kept = centers[spots_on_tissue(tissue, centers)]
        found.append((kept, local_morphology(tissue, kept), context(tissue, kept)))
    return found


def test_the_surroundings_cannot_be_read_from_the_spot(sections):
    own = [np.corrcoef(morphology[:, INFILTRATE], around)[0, 1] for _, morphology, around in sections]
    assert abs(np.mean(own)) < 0.15
    assert np.max(np.abs(own)) < 0.5


def test_the_surroundings_can_be_read_from_the_spots_around(sections):
    agreements = []
    for centers, morphology, around in sections:
        distance = np.linalg.norm(centers[:, None] - centers, axis=2)
        ring = (distance >= 320) & (distance <= 620)
        agreements.append(np.corrcoef(ring @ morphology[:, INFILTRATE] / ring.sum(axis=1), around)[0, 1])
    assert np.mean(agreements) > 0.7


def test_sections_keep_enough_spots_and_latents_are_distinct(sections):
    assert min(len(centers) for centers, _, _ in sections) >= 120
    correlation = np.mean([np.corrcoef(morphology.T) for _, morphology, _ in sections], axis=0)
    assert np.abs(correlation - np.eye(len(LATENTS))).max() < 0.2


def test_a_field_has_the_stated_variance_and_correlation():
    fields = [smooth_field(np.random.default_rng(seed), (300, 300), sigma_um=40.0) for seed in range(6)]
    steps = round(80 / MAP_UM)  # two sigma: the correlation is 1/e
    assert np.mean([f.var() for f in fields]) == pytest.approx(1, abs=0.1)
    assert np.mean([(f[:, steps:] * f[:, :-steps]).mean() for f in fields]) == pytest.approx(np.exp(-1), abs=0.08)


@settings(max_examples=30, deadline=None)
@given(st.floats(300, 500), st.floats(300, 500), st.floats(0, 150), st.floats(20, 100))
def test_the_mean_of_a_plane_over_a_ring_is_its_value_at_the_centre(x, y, inner, width):
    middle = (np.arange(200) + 0.5) * MAP_UM
    plane = (middle[None, :] + 3 * middle[:, None])[None]
    inside = np.ones((200, 200), dtype=bool)
    mean = ring_means(plane, inside, np.array([[x, y]]), inner_um=inner, outer_um=inner + width)
    assert mean[0, 0] == pytest.approx(x + 3 * y, abs=4 * MAP_UM)


def test_too_small_a_cohort_is_refused(tmp_path):
    with pytest.raises(CohortError, match=r"spots_per_side=1 cannot be made: give 3 or more"):
        write_cohort(tmp_path, spots_per_side=1)


def test_a_synthetic_picture_says_so_and_the_slide_file_too(tmp_path):
    rgb = np.full((300, 300, 3), 200, dtype=np.uint8)
    drawn, scanned, photo = (tmp_path / name for name in ("drawn.tif", "scanned.tif", "photo.png"))
    write_pyramid(drawn, rgb, mpp=0.5, software=SYNTHETIC_SOFTWARE)
    write_pyramid(scanned, rgb, mpp=0.5, software="a scanner")
    photo.write_bytes(b"\x89PNG\r\n\x1a\n")
    renamed = drawn.rename(tmp_path / "tumour.tif")
    assert [is_synthetic(path) for path in (renamed, scanned, photo, tmp_path)] == [True, False, False, False]

    record = SlideRecord("s", "P", 300, 300, 0.5, "manifest", {}, "tumour.tif", "0", "tests", synthetic=True)
    for one in (record, dataclasses.replace(record, slide_id="t", synthetic=False)):
        write_slide(tmp_path / f"{one.slide_id}.h5", one, thumbnail=rgb)
        assert read_slide(tmp_path / f"{one.slide_id}.h5") == one
