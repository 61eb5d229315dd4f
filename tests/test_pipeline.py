"""Featurization end to end: pixels of real files into a store, resumed, isolated, and refused when in doubt."""

import csv
from dataclasses import replace

import h5py
import numpy as np
import openslide
import pytest
import torch

from tissuary.featurize import FeaturizeOptions, featurize
from tissuary.featurize.backbones.build import build_encoder
from tissuary.featurize.backbones.registry import get_record
from tissuary.store import Store
from tissuary.store.errors import CohortError, FingerprintError, InvalidNameError, ScaleError, StoreError
from tissuary.store.files.features import read_features
from tissuary.synthetic.cohort import write_cohort

OPTIONS = FeaturizeOptions(views=("20x", "5x"))
FILES = "features/spots"


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return write_cohort(tmp_path_factory.mktemp("cohort"), patients=2, slides_per_patient=1, spots_per_side=4)


@pytest.fixture(scope="module")
def done(cohort, tmp_path_factory):
    root = tmp_path_factory.mktemp("stores") / "store"
    return root, featurize(cohort, root, options=OPTIONS)


def rewrite(manifest, folder, **changes):
    """The manifest with absolute paths and some cells of its first row changed."""
    rows = list(csv.DictReader(manifest.open()))
    for row in rows:
        for name in ("image", "counts", "spots"):
            if row.get(name):
                row[name] = str(manifest.parent / row[name])
    rows[0] |= changes
    path = folder / "changed.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def files_of(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in (root / FILES).rglob("*.h5")}


def test_every_slide_gets_the_documented_files(done):
    root, report = done
    assert not report.failed
    store = Store(root)
    assert store.keys() == ("haematoxylin@20x", "stain-texture@20x", "stain-texture@5x")
    for slide in report.done:
        assert (slide.mpp, slide.written) == (0.5, 3)
        n = len(store.patches(slide.slide_id))
        assert slide.patches == n > 5
        assert (root / "expression" / f"{slide.slide_id}.h5ad").exists()
        assert store.features("stain-texture@5x", slide.slide_id).shape == (n, get_record("stain-texture").dim)
    header = store.header("stain-texture@5x", report.done[0].slide_id)
    assert (header.mpp, header.fov_um, header.upsampling, header.precision) == (2.0, 448.0, 1.0, "fp32")
    assert header.record["licence"] == get_record("stain-texture").licence
    assert not list(root.rglob("*.partial-*"))


def test_features_are_the_encoders_on_the_pixels_that_openslide_shows(cohort, done):
    store = Store(done[0])
    slide_id = store.slide_ids[0]
    slide = openslide.OpenSlide(cohort.parent / "images" / f"{slide_id}.tif")
    centers = store.patches(slide_id).center_px
    inside = [i for i, c in enumerate(centers) if (c > 112).all() and (c < np.array(slide.dimensions) - 112).all()][:3]
    corners = np.round(centers[inside] - 112).astype(int)
    np.testing.assert_allclose(corners, centers[inside] - 112, atol=1e-9)  # whole pixels: nothing is resampled
    pixels = [np.asarray(slide.read_region(tuple(corner), 0, (224, 224)))[..., :3] for corner in corners.tolist()]
    batch = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
    expected = build_encoder(get_record("stain-texture")).encode(batch).numpy()
    np.testing.assert_allclose(store.features("stain-texture@20x", slide_id)[inside], expected, rtol=2e-3, atol=2e-3)


def test_a_second_run_writes_nothing_and_a_lost_file_is_made_again(cohort, done):
    root = done[0]
    before = files_of(root)
    assert [slide.written for slide in featurize(cohort, root, options=OPTIONS).done] == [0, 0]
    victim = next((root / FILES / "stain-texture@5x").glob("*.h5"))
    victim.unlink()
    assert sum(slide.written for slide in featurize(cohort, root, options=OPTIONS).done) == 1
    victim.write_bytes(victim.read_bytes()[:1000])  # truncated, as by a full disk
    assert sum(slide.written for slide in featurize(cohort, root, options=OPTIONS).done) == 1
    assert files_of(root) == before


def test_rows_do_not_depend_on_readers_and_hardly_on_the_batch(cohort, done, tmp_path):
    before = files_of(done[0])
    featurize(cohort, tmp_path / "a", options=replace(OPTIONS, readers=5))
    assert files_of(tmp_path / "a") == before
    featurize(cohort, tmp_path / "b", options=replace(OPTIONS, batch=7))
    for name in before:
        ours, theirs = read_features(done[0] / name).features, read_features(tmp_path / "b" / name).features
        np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=1e-3)


def test_one_bad_slide_costs_only_itself(cohort, tmp_path):
    broken = tmp_path / "broken.tif"
    broken.write_bytes(b"II*\0 this is no image")
    report = featurize(rewrite(cohort, tmp_path, image=str(broken)), tmp_path / "s", options=OPTIONS)
    assert [slide for slide, _ in report.failed] == ["P01-S1"]
    assert [slide.slide_id for slide in report.done] == ["P02-S1"]
    assert "broken.tif" in report.failed[0][1]
    assert Store(tmp_path / "s").slide_ids == ("P02-S1",)


def test_spots_outside_and_contradicting_scales_fail_that_slide(cohort, tmp_path):
    report = featurize(rewrite(cohort, tmp_path, mpp="0.7"), tmp_path / "s", options=OPTIONS)
    cause = dict(report.failed)["P01-S1"]
    assert "contradict one another by more than 5%" in cause
    assert all(candidate in cause for candidate in ("manifest 0.7", "metadata 0.5", "spot pitch 0.5"))


def test_the_first_cause_is_given_when_nothing_could_be_done(cohort, tmp_path):
    with pytest.raises(ScaleError, match="contradict") as caught:
        featurize(cohort, tmp_path / "s", options=replace(OPTIONS, mpp=0.9))
    assert "None of the 2 slides" in caught.value.__notes__[-1]
    assert caught.value.__notes__[0].startswith("P02-S1: ")
    with pytest.raises(ScaleError, match=r"would be up-sampled 4.00 times"):
        featurize(cohort, tmp_path / "s", options=FeaturizeOptions(views=("28um-0.125",)))
    assert not (tmp_path / "s").exists()


def test_zoom_is_exempt_from_the_limit_and_records_its_factor(cohort, tmp_path):
    featurize(cohort, tmp_path / "s", options=FeaturizeOptions(views=("28um-0.125",), layout="zoom"))
    assert Store(tmp_path / "s").header("stain-texture@28um-0.125", "P01-S1").upsampling == 4.0


def test_another_encoder_under_the_same_key_is_refused_and_kept_under_a_name(cohort, done, tmp_path):
    root = tmp_path / "s"
    featurize(cohort, root, options=replace(OPTIONS, views=("5x",)))
    for path in (root / FILES / "stain-texture@5x").glob("*.h5"):
        with h5py.File(path, "a") as file:
            file.attrs["fingerprint"] = "of another version"
    with pytest.raises(FingerprintError, match="Store it beside the other with `--as NAME`"):
        featurize(cohort, root, options=replace(OPTIONS, views=("5x",)))
    featurize(cohort, root, options=replace(OPTIONS, views=("5x",), name="mine"))
    assert {"mine@5x", "stain-texture@5x"} <= set(Store(root).keys())


def test_a_slide_that_changed_under_its_name_is_refused(cohort, done, tmp_path):
    with pytest.raises(CohortError, match="none"):
        featurize(cohort, tmp_path / "s", options=FeaturizeOptions(patches="none"))
    report = featurize(rewrite(cohort, tmp_path, patient_id="someone else"), done[0], options=OPTIONS)
    assert "is in the store with patient_id P01, the source now says someone else" in report.failed[0][1]


def test_a_read_only_place_is_named(cohort, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreError, match="cannot write"):
        featurize(cohort, tmp_path / "file" / "store", options=OPTIONS)


def test_plain_slides_get_a_grid_over_tissue(real_data, tmp_path):
    source = real_data / "slides" / "CMU-1-Small-Region.svs"
    report = featurize(source, tmp_path / "s", options=FeaturizeOptions(views=("20x",)))
    assert report.unknown_patients == ("CMU-1-Small-Region",)
    store = Store(tmp_path / "s")
    patches = store.patches("CMU-1-Small-Region", patches="grid-112um")
    cells = patches.center_px / (112 / 0.499) - 0.5
    np.testing.assert_allclose(cells, patches.array[:, ::-1], atol=1e-9)
    assert 20 < len(patches) <= 9 * 13
    features = store.features("stain-texture@20x", "CMU-1-Small-Region", patches="grid-112um")
    assert np.isfinite(features).all()
    assert store.slide("CMU-1-Small-Region").mpp_source == "metadata"


def test_a_slide_without_scale_is_refused_with_the_mend_then_runs(real_data, tmp_path):
    source = real_data / "slides" / "TCGA-CR-7395-01A-01-TS1.svs"
    with pytest.raises(ScaleError, match="--mpp X"):
        featurize(source, tmp_path / "s", options=FeaturizeOptions(views=("5x",)))
    report = featurize(source, tmp_path / "s", options=FeaturizeOptions(views=("5x",), mpp=0.5))
    assert report.done[0].mpp_source == "command line"


def test_a_real_network_goes_through_its_record_and_weights(real_data, cohort, tmp_path):
    record = real_data / "weights" / "mobilenetv2_035.json"
    featurize(
        cohort, tmp_path / "s", options=FeaturizeOptions(views=("20x",), backbones=(str(record), "stain-texture"))
    )
    store = Store(tmp_path / "s")
    assert store.features("mobilenetv2_035-in1k@20x", "P01-S1").shape[1] == 1280
    assert store.header("mobilenetv2_035-in1k@20x", "P01-S1").record["architecture_options"]["bn_eps"] == 0.001
    with pytest.raises(CohortError, match="one backbone at a time"):
        FeaturizeOptions(backbones=("a", "b"), name="c")


def test_features_of_another_scale_or_image_are_not_taken_for_complete(cohort, tmp_path):
    root = tmp_path / "s"
    featurize(cohort, root, options=OPTIONS)
    for path in (root / "slides").glob("*.h5"):
        path.unlink()
    manifest = rewrite(cohort, tmp_path, mpp="0.51", pitch_um="")  # within 5 % of the metadata
    report = featurize(manifest, root, options=OPTIONS)
    assert "made from another image, scale or set of patches than slide P01-S1 has now" in dict(report.failed)["P01-S1"]
    assert [slide.written for slide in report.done] == [0]
    with pytest.raises(StoreError, match="were made from another image or scale; featurize it again"):
        Store(root).table("stain-texture@20x")


def test_the_last_digits_of_a_fitted_scale_do_not_matter(cohort, done, tmp_path):
    manifest = rewrite(cohort, tmp_path, mpp=repr(0.5 * (1 + 1e-9)))
    assert not featurize(manifest, done[0], options=OPTIONS).failed


def test_a_slide_of_one_spot_needs_no_pitch_where_its_scale_is_known(cohort, tmp_path):
    import anndata

    counts = anndata.read_h5ad(cohort.parent / "counts" / "P01-S1.h5ad")[:1].copy()
    counts.write_h5ad(tmp_path / "one.h5ad")
    manifest = rewrite(cohort, tmp_path, counts=str(tmp_path / "one.h5ad"))
    report = featurize(manifest, tmp_path / "s", options=replace(OPTIONS, pitch_um=200.0))
    assert report.done[0].patches == 1


def test_two_backbones_of_one_name_and_reserved_names_are_refused(cohort, tmp_path):
    with pytest.raises(CohortError, match="two backbones are called stain-texture"):
        featurize(cohort, tmp_path / "s", options=FeaturizeOptions(backbones=("stain-texture", "stain-texture")))
    with pytest.raises(CohortError, match="is kept for the density control"):
        FeaturizeOptions(name="haematoxylin")
    with pytest.raises(InvalidNameError, match="does not read as"):
        FeaturizeOptions(name="a.b.c")
    assert not (tmp_path / "s").exists()


def test_what_a_killed_job_left_is_swept(cohort, done):
    root = done[0]
    import socket

    folder = root / FILES / "stain-texture@5x"
    dead = folder / f".x.h5.partial-{socket.gethostname()}~4194304~0123abcd"
    elsewhere = folder / ".x.h5.partial-another-host~1~0123abcd"
    dead.write_bytes(b"half")
    elsewhere.write_bytes(b"half")
    featurize(cohort, root, options=OPTIONS)
    assert not dead.exists()
    assert elsewhere.exists()
    elsewhere.unlink()


def test_a_slide_that_the_source_refuses_is_reported_with_the_failed(cohort, tmp_path):
    report = featurize(rewrite(cohort, tmp_path, slide_id="a/b"), tmp_path / "s", options=OPTIONS)
    assert [slide_id for slide_id, _ in report.failed] == ["a/b"]
    assert "cannot become a file name" in report.failed[0][1]
    assert len(report.done) == 1


def test_an_error_nobody_foresaw_costs_one_slide(cohort, tmp_path, monkeypatch):
    import tissuary.featurize.slide_plan as job

    real = job.read_thumbnail

    def sometimes(slide):
        if slide.width % 2 == 0 and not seen:
            seen.append(slide)
            raise RuntimeError("out of device memory")
        return real(slide)

    seen: list[object] = []
    monkeypatch.setattr(job, "read_thumbnail", sometimes)
    report = featurize(cohort, tmp_path / "s", options=OPTIONS)
    assert report.failed == (("P01-S1", "slide P01-S1: RuntimeError: out of device memory"),)
    assert len(report.done) == 1
