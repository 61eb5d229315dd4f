"""What a featurization can be asked for beyond spots and vectors: tokens, sub-tiles, nested grids, plans, pictures."""

import fcntl
import json
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from tissuary.benchmarks.kill import TINY
from tissuary.featurize import FeaturizeOptions, featurize
from tissuary.featurize.backbones.build import build_encoder
from tissuary.featurize.backbones.encoder import Encoder
from tissuary.featurize.backbones.registry import get_record
from tissuary.featurize.dry_run import dry_run
from tissuary.featurize.patches.field import plan_field, read_patch
from tissuary.featurize.patches.views import View, resolve_view
from tissuary.featurize.slides.open import open_slide
from tissuary.store import Store
from tissuary.store.errors import BackboneError, CohortError, InvalidNameError, ScaleError, StoreError
from tissuary.store.files.schema import features_path, qc_path
from tissuary.synthetic.cohort import write_cohort


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return write_cohort(tmp_path_factory.mktemp("cohort"), patients=1, slides_per_patient=1, spots_per_side=4)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A record file of a network that costs nothing, and its encoder."""
    path = tmp_path_factory.mktemp("record") / "tiny.json"
    path.write_text(json.dumps(TINY))
    return path, build_encoder(get_record(path), weights="random")


def image_of(cohort):
    return next((cohort.parent / "images").glob("*.tif"))


def test_tokens_are_stored_beside_the_vectors(cohort, tiny, tmp_path):
    path, encoder = tiny
    options = FeaturizeOptions(
        views=("20x",), backbones=(str(path),), weights={"tiny": "random"}, tokens=("2x2", "4x4")
    )
    report = featurize(cohort, tmp_path / "s", options=options)
    slide_id, n = report.done[0].slide_id, report.done[0].patches
    store = Store(tmp_path / "s")
    tokens = {grid: store.features(f"tiny+random0@20x.grid{grid}", slide_id) for grid in ("2x2", "4x4")}
    assert (tokens["2x2"].shape, tokens["4x4"].shape) == ((n, 4, 64), (n, 16, 64))
    fine = tokens["4x4"].reshape(n, 2, 2, 2, 2, 64).astype(np.float32)  # (n, row, in row, column, in column, d)
    np.testing.assert_allclose(tokens["2x2"].reshape(n, 2, 2, 64), fine.mean(axis=(2, 4)), rtol=2e-3, atol=2e-3)
    with open_slide(image_of(cohort)) as slide:
        field = plan_field(slide, resolve_view("20x", slide_mpp=0.5, input_px=64), mpp=0.5)
        patch = read_patch(slide, field, store.patches(slide_id).center_px[3])
    alone = encoder.tokens(torch.from_numpy(patch.copy()).permute(2, 0, 1)[None])[0].numpy()  # (16, 64)
    np.testing.assert_allclose(tokens["4x4"][3], alone, rtol=5e-3, atol=5e-3)
    prints = {
        store.header(f"tiny+random0@20x{layout}", slide_id).fingerprint for layout in ("", ".grid2x2", ".grid4x4")
    }
    assert len(prints) == 3
    assert featurize(cohort, tmp_path / "s", options=options).done[0].written == 0


def test_token_grids_that_a_backbone_lacks_are_refused_before_anything_is_read(cohort, tiny, tmp_path):
    given = {"views": ("20x",), "backbones": (str(tiny[0]),), "weights": {"tiny": "random"}}
    with pytest.raises(BackboneError, match=r"backbone tiny\+random0 has 4x4 tokens, not 9x9"):
        featurize(cohort, tmp_path / "s", options=FeaturizeOptions(**given, tokens=("9x9",)))
    with pytest.raises(CohortError, match="wanted ROWSxCOLUMNS, such as 7x7"):
        FeaturizeOptions(tokens=("7",))
    assert not (tmp_path / "s").exists()


def test_the_aligned_layout_cuts_one_region_three_ways(cohort, tmp_path):
    report = featurize(cohort, tmp_path / "s", options=FeaturizeOptions(layout="aligned"))
    slide_id, n = report.done[0].slide_id, report.done[0].patches
    store = Store(tmp_path / "s")
    keys = ("stain-texture@5x", "stain-texture@10x.tiles2x2", "stain-texture@20x.tiles4x4")
    assert [store.features(key, slide_id).shape for key in keys] == [(n, 314), (n, 4, 314), (n, 16, 314)]
    assert store.header("haematoxylin@5x", slide_id).fov_um == 448.0
    encoder = build_encoder(get_record("stain-texture"))
    centers = store.patches(slide_id).center_px
    with open_slide(image_of(cohort)) as slide:
        inside = next(
            i
            for i, c in enumerate(centers)
            if (c > 460).all() and (c < np.array([slide.width, slide.height]) - 460).all()
        )
        field = plan_field(slide, resolve_view("20x", slide_mpp=0.5, input_px=224), mpp=0.5)
        for row, column in ((0, 0), (1, 3), (3, 2)):
            # Sub-tile (row, column) is a 20x patch of its own: 224 px, 1.5 tiles from the centre at most.
            offset = (np.array([column, row]) - 1.5) * 224
            patch = read_patch(slide, field, centers[inside] + offset)
            alone = encoder.encode(torch.from_numpy(patch.copy()).permute(2, 0, 1)[None])[0].numpy()
            stored = store.features("stain-texture@20x.tiles4x4", slide_id)[inside, row * 4 + column]
            np.testing.assert_allclose(stored, alone, rtol=2e-3, atol=2e-3)
    with pytest.raises(InvalidNameError, match="rows and columns must be equal"):
        FeaturizeOptions(views=("20x.tiles4x2",))


def test_sub_tiles_of_a_cropping_transform_keep_their_margins(cohort, tiny, tmp_path):
    path = tmp_path / "cropping.json"
    path.write_text(json.dumps(TINY | {"key": "cropping", "crop_from_px": 72}))
    options = FeaturizeOptions(
        views=("112um-0.5.tiles2x2", "112um-0.5"), backbones=(str(path),), weights={"cropping": "random"}
    )
    report = featurize(cohort, tmp_path / "s", options=options)
    store, slide_id = Store(tmp_path / "s"), report.done[0].slide_id
    encoder = build_encoder(get_record(path), weights="random")
    center = store.patches(slide_id).center_px[len(store.patches(slide_id)) // 2]
    with open_slide(image_of(cohort)) as slide:
        field = plan_field(slide, View("v", 112.0 * 72 / 64, 0.5), mpp=0.5)  # 252 px for the 224 px that are kept
        patch = read_patch(slide, field, center + np.array([-112.0, 112.0]))  # lower left
    alone = encoder.encode(torch.from_numpy(patch.copy()).permute(2, 0, 1)[None])[0].numpy()
    stored = store.features("cropping+random0@112um-0.5.tiles2x2", slide_id)[len(store.patches(slide_id)) // 2, 2]
    np.testing.assert_allclose(stored, alone, rtol=5e-3, atol=5e-3)


def test_grids_nest_and_know_their_parents(cohort, tiny, tmp_path):
    options = FeaturizeOptions(
        views=("20x",), patches="both", grid_um=(112.0, 224.0, 100.0), min_tissue=0.3,
        backbones=(str(tiny[0]),), weights={"tiny": "random"},
    )  # fmt: skip
    report = featurize(cohort, tmp_path / "s", options=options)
    slide_id = report.done[0].slide_id
    store = Store(tmp_path / "s")
    fine, coarse = (store.patches(slide_id, patches=f"grid-{um}um-tissue0.3") for um in (112, 224))
    assert coarse.parent is None
    assert store.patches(slide_id, patches="grid-100um-tissue0.3").parent is None  # nests in neither
    assert (fine.parent >= 0).sum() > 10
    for row in range(len(fine)):
        if fine.parent[row] >= 0:
            assert (np.abs(fine.center_px[row] - coarse.center_px[fine.parent[row]]) < 224).all()
            assert (fine.array[row] // 2 == coarse.array[fine.parent[row]]).all()
        else:
            assert not (fine.array[row] // 2 == coarse.array).all(axis=1).any()
    assert len(store.patches(slide_id)) == report.done[0].patches - sum(
        len(store.patches(slide_id, patches=f"grid-{um}um-tissue0.3")) for um in (100, 112, 224)
    )


def test_parents_of_another_grid_are_not_taken_for_those_asked_for(cohort, tiny, tmp_path):
    options = FeaturizeOptions(
        views=("20x",), patches="grid", grid_um=(112.0, 448.0), backbones=(str(tiny[0]),), weights={"tiny": "random"}
    )
    slide_id = featurize(cohort, tmp_path / "s", options=options).done[0].slide_id
    assert Store(tmp_path / "s").patches(slide_id, patches="grid-112um").parent_set == "grid-448um"
    assert featurize(cohort, tmp_path / "s", options=replace(options, grid_um=(112.0,))).done[0].written == 0
    with pytest.raises(StoreError, match="has its parents in grid-448um, now they would be in grid-224um"):
        featurize(cohort, tmp_path / "s", options=replace(options, grid_um=(112.0, 224.0)))


def test_a_file_that_cannot_be_opened_now_is_not_thrown_away(cohort, tiny, tmp_path):
    options = FeaturizeOptions(views=("20x",), backbones=(str(tiny[0]),), weights={"tiny": "random"})
    slide_id = featurize(cohort, tmp_path / "s", options=options).done[0].slide_id
    path = features_path(tmp_path / "s", slide_id, key="tiny+random0@20x")
    before = path.read_bytes()
    with path.open("rb+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # as another process that writes an HDF5 file holds it
        with pytest.raises(StoreError, match="cannot be opened now"):
            featurize(cohort, tmp_path / "s", options=options)
    assert path.read_bytes() == before
    with h5py.File(path, "r+") as file:
        file.attrs["encoding-version"] = "2"
    with pytest.raises(StoreError, match="A newer version needs a newer tissuary"):
        featurize(cohort, tmp_path / "s", options=options)
    assert path.exists()


def test_a_slide_that_fails_under_openslide_costs_only_itself(cohort, tiny, tmp_path, monkeypatch):
    from tissuary.featurize.slides.openslide_ import OpenSlideSlide

    monkeypatch.setattr("tissuary.featurize.one_slide.open_slide", OpenSlideSlide)
    given = {"backbones": (str(tiny[0]),), "weights": {"tiny": "random"}, "batch": 4, "views": ("20x", "5x")}
    options = FeaturizeOptions(patches="grid", overlap_um=72.0, **given)
    real = Encoder.encode

    def broken(self, patches):
        found = real(self, patches).clone()
        return found * torch.nan if self.record.key.startswith("tiny") else found

    monkeypatch.setattr(Encoder, "encode", broken)
    with pytest.raises(StoreError, match="NaN or infinity"):  # and the process is still there to tell
        featurize(cohort, tmp_path / "s", options=options)


def test_a_picture_shows_where_was_looked(cohort, tiny, tmp_path):
    options = FeaturizeOptions(views=("20x",), backbones=(str(tiny[0]),), weights={"tiny": "random"})
    report = featurize(cohort, tmp_path / "s", options=options)
    with Image.open(qc_path(tmp_path / "s", report.done[0].slide_id)) as picture:
        assert picture.width > 1.5 * picture.height  # slide, tissue and spots side by side


def test_a_dry_run_says_what_the_run_then_does(cohort, tmp_path):
    options = FeaturizeOptions(views=("20x", "5x"), patches="both")
    plan = dry_run(cohort, tmp_path / "s", options=options)
    assert not (tmp_path / "s").exists()
    (slide,) = plan.slides
    assert slide.files == 6  # two views and the density, for spots and grid
    assert plan.seconds > 0
    assert set(plan.patches_per_second) == {"stain-texture@20x", "stain-texture@5x", "haematoxylin@20x"}
    report = featurize(cohort, tmp_path / "s", options=options)
    assert sum(slide.patches.values()) == report.done[0].patches
    assert report.done[0].written == slide.files
    size = sum(path.stat().st_size for path in (tmp_path / "s" / "features").rglob("*.h5"))
    assert slide.bytes == pytest.approx(size, rel=0.3)
    again = dry_run(cohort, tmp_path / "s", options=options)
    assert (again.slides[0].files, again.bytes, again.seconds) == (0, 0, 0.0)
    assert {path.name for path in (tmp_path / "s" / "features").rglob(".*")} == set()


def test_a_dry_run_names_the_slides_that_would_fail(cohort, tmp_path):
    plan = dry_run(cohort, tmp_path / "s", options=FeaturizeOptions(views=("28um-0.125",)))
    assert plan.slides == ()
    assert "up-sampled 4.00 times (limit 2)" in plan.refused[0][1]
    assert "--max-upsampling" in plan.refused[0][1]


def test_up_sampling_is_done_where_it_is_asked_for(cohort, tiny, tmp_path):
    options = FeaturizeOptions(views=("28um-0.125",), backbones=(str(tiny[0]),), weights={"tiny": "random"})
    with pytest.raises(ScaleError, match="--max-upsampling"):
        featurize(cohort, tmp_path / "s", options=options)
    report = featurize(cohort, tmp_path / "s", options=replace(options, max_upsampling=4.0))
    assert Store(tmp_path / "s").header("tiny+random0@28um-0.125", report.done[0].slide_id).upsampling == 4.0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"min_tissue": 1.5}, "smallest tissue fraction 1.5: wanted a number from 0 to 1"),
        ({"overlap_um": 112.0}, "overlap of 112 um: wanted 0 or more, and less than the tile's 112 um"),
        ({"grid_um": (0.0,)}, "grid tile in um 0.0: wanted a positive number"),
        ({"max_upsampling": 0.5}, "up-sampling limit 0.5: wanted a number from 1 to 64"),
        ({"patches": "spots", "grid_um": (224.0,)}, "only spots are asked for: say --patches both"),
        ({"views": ("20x.tiles2x2",), "tokens": ("7x7",)}, "every view has sub-tiles: leave --tokens out"),
        ({"batch": 0}, "batch 0: wanted 1 or more"),
        ({"readers": 0}, "readers 0: wanted 1 or more"),
        ({"precision": "fp8"}, "precision 'fp8': choose one of auto, fp32, fp16, bf16"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(given, message):
    with pytest.raises(CohortError, match=message):
        FeaturizeOptions(**given)


def test_the_stages_of_a_run_are_reported(cohort, tmp_path):
    report = featurize(cohort, tmp_path / "s", options=FeaturizeOptions(views=("20x",)))
    stages = {stage.name: stage for stage in report.stages.stages}
    assert stages["resample"].count == stages["forward"].count == report.done[0].patches
    assert stages["write"].count == 2 * report.done[0].patches
    assert stages["read"].count == stages["decode"].count > 0
    assert "is the limit" in report.stages.bottleneck


def test_patches_of_real_slides_have_their_exact_scale(real_data, tmp_path):
    options = FeaturizeOptions(views=("20x",))
    report = featurize(real_data / "slides" / "CMU-1-Small-Region.svs", tmp_path / "s", options=options)
    store, name = Store(tmp_path / "s"), "CMU-1-Small-Region"
    assert report.done[0].mpp == pytest.approx(0.499, abs=1e-6)
    header = store.header("stain-texture@20x", name, patches="grid-112um")
    assert (header.mpp, header.fov_um, header.upsampling) == (0.5, 112.0, 1.0)
    patches = store.patches(name, patches="grid-112um")
    with open_slide(real_data / "slides" / f"{name}.svs") as slide:
        whole = Image.fromarray(slide.read(0, 0, 0, slide.width, slide.height))
    half = 112.0 / 0.499 / 2  # 112.224 px: the field is a little wider than its 224 px
    encoder = build_encoder(get_record("stain-texture"))
    for row in (0, len(patches) // 2):
        x, y = patches.center_px[row]
        box = (x - half, y - half, x + half, y + half)
        if min(box) < 2 or box[2] > whole.width - 2 or box[3] > whole.height - 2:
            continue
        patch = np.asarray(whole.resize((224, 224), Image.Resampling.BILINEAR, box=box))
        alone = encoder.encode(torch.from_numpy(patch.copy()).permute(2, 0, 1)[None])[0].numpy()
        stored = store.features("stain-texture@20x", name, patches="grid-112um")[row]
        # PIL holds a box in single precision: a grey level differs here and there, and a percentile's bin with it.
        assert (np.abs(stored - alone) <= 5e-3 + 5e-3 * np.abs(alone)).mean() > 0.98
        np.testing.assert_allclose(stored, alone, atol=0.1)
