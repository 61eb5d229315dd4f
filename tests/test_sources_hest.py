"""HEST-1k with and without its slides: facts, HEST's own patch convention, and pre-cut patches byte by byte."""

import h5py
import numpy as np
import pytest

from tissuary.featurize.dry_run import dry_run
from tissuary.featurize.options import FeaturizeOptions
from tissuary.featurize.pipeline import featurize
from tissuary.featurize.setup import build_encoders
from tissuary.featurize.slides.open import open_slide
from tissuary.featurize.sources.load import detect, load_cohort
from tissuary.featurize.sources.spots import read_spots
from tissuary.store import Store
from tissuary.store.errors import CohortError, FingerprintError, ScaleError, SlideError
from tissuary.store.files.expression import read_expression
from tissuary.store.files.schema import expression_path
from tissuary.tests.source_files import (
    ARRAY,
    BARCODES,
    CENTERS,
    COUNTS,
    h5ad,
    hest_corners,
    hest_csv,
    hest_facts,
    hest_json,
    hest_patches,
    tiff,
)

OPTIONS = FeaturizeOptions(views=("20x",), batch=4, readers=2)


def hest_root(root):
    """H1 with everything, H2 without patient and JSON, H3 without its slide."""
    tiff(root / "wsis/H1.tif")
    tiff(root / "wsis/H2.tif")
    for name in ("H1", "H2", "H3"):
        h5ad(root / f"st/{name}.h5ad")
        hest_patches(root / f"patches/{name}.h5")
    facts = [
        hest_facts("H1", patient="Patient 1", pixel_size_um_embedded=0.25),
        hest_facts("H2", pixel_size_um_estimated=0.51),
        hest_facts("H3", patient="Patient 3"),
    ]
    hest_csv(root, *facts)
    hest_json(root, facts[0])
    return root


def encoded(pixels):
    """What the encoder makes of patches (n, 224, 224, 3), without any reading."""
    import torch

    from tissuary.featurize.forward import forward

    encoder = build_encoders(OPTIONS)["stain-texture"]
    patches = torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2)
    return forward(encoder, patches, grids=(), threads=1, batch=4)[None].numpy()


def test_hest_into_a_store(tmp_path, caplog):
    root = hest_root(tmp_path / "in")
    cohort = load_cohort(root)
    assert cohort.source == "hest: the folder holds wsis and st/*.h5ad"
    assert [(s.slide_id, s.patient_id, s.mpp, s.pitch_um) for s in cohort.samples] == [
        ("H1", "Patient 1", 0.5, 100),
        ("H2", "unknown:H2", 0.51, 100),  # of the CSV
        ("H3", "Patient 3", 0.5, 100),
    ]
    assert [s.image.relative_to(root).as_posix() for s in cohort.samples] == [
        "wsis/H1.tif",
        "wsis/H2.tif",
        "patches/H3.h5",
    ]
    report = featurize(root, tmp_path / "store", options=OPTIONS)
    assert report.unknown_patients == ("H2",)
    ((failed, why),) = report.failed  # patches that were cut before have a fingerprint of their own
    assert (failed, "one key holds one encoder. Store it beside the other with `--as NAME`" in why) == ("H3", True)
    featurize(root / "patches/H3.h5", tmp_path / "patches", options=OPTIONS)
    for name, mpp, folder in (("H1", 0.5, "store"), ("H2", 0.51, "store"), ("H3", 0.5, "patches")):
        store = Store(tmp_path / folder)
        place, slide = store.patches(name), store.slide(name)
        assert place.barcode.tolist() == BARCODES
        np.testing.assert_array_equal(place.center_px, CENTERS)  # of the counts, not of the cut corners
        np.testing.assert_array_equal(place.array, ARRAY)
        np.testing.assert_array_equal(read_expression(expression_path(store.path, name)).counts.toarray(), COUNTS)
        assert (slide.mpp, slide.mpp_source) == (mpp, "HEST metadata")
        assert slide.mpp_candidates == pytest.approx(
            {"HEST metadata": mpp, "metadata": 0.5, "spot pitch": 100 / np.hypot(100, 173.205)}
        )


@pytest.mark.parametrize(("mpp", "side"), [(0.5, 224), (0.69, 162), (0.25, 448), (3.24, 35)])
def test_corners_of_112_um_patches(tmp_path, mpp, side):
    """112 um at 0.5 um/px: the corner is cut to whole pixels, towards zero, and lies outside the slide at a border."""
    center = np.array([[5.0, 3000.75], [900.9, 20.2], [4000.0, 4001.5]])
    hest_patches(tmp_path / "P.h5", mpp=mpp, center=center, barcode=["a", "b", "c"])
    with open_slide(tmp_path / "P.h5") as slide:
        assert slide.side_src_px == side
        assert slide.corner_px[0].tolist() == [int(5 - side // 2), int(3000.75 - side // 2)]
        assert slide.corner_px[0, 0] < 0
        np.testing.assert_array_equal(slide.corner_px, np.trunc(center - side // 2))
        assert np.abs(slide.center_px - center).max() <= 1.5
        assert slide.metadata_mpp == mpp
        assert (slide.width, slide.height) == tuple((slide.corner_px.max(axis=0) + side).tolist())


def test_the_corners_of_hest_itself(real_data):
    """Of a file that HEST wrote: `int(centre - side // 2)` of spots in whole pixels, to the pixel."""
    spots = read_spots(real_data / "her2st/data/ST-spotfiles/C2_selection.tsv")
    with open_slide(real_data / "foreign/hest/C2_patches.h5") as slide:
        row = {name: i for i, name in enumerate(spots.barcode.tolist())}
        center = spots.center_px[[row[name] for name in slide.barcode.tolist()]]
        np.testing.assert_array_equal(slide.corner_px, hest_corners(np.rint(center), 162))
        assert (slide.side_src_px, slide.side_px, slide.metadata_mpp) == (162, 224, 0.69)
        # The pixels lie where the corners say: cut there from the slide and enlarged, they are HEST's own.
        with open_slide(next((real_data / "her2st/data/ST-imgs/C/C2").iterdir())) as whole:
            from PIL import Image

            for number, (x, y) in enumerate(slide.corner_px.tolist()):
                cut = Image.fromarray(whole.read(0, x, y, 162, 162)).resize((224, 224), Image.Resampling.BILINEAR)
                off = np.abs(np.asarray(cut).astype(int) - slide.patch(number))
                assert off.mean() < 1.0, number  # another resampling, the same place
                moved = np.abs(np.asarray(cut)[:, 3:].astype(int) - slide.patch(number)[:, :-3])
                assert moved.mean() > 3 * off.mean()


def test_patches_go_through_byte_by_byte(tmp_path):
    img = hest_patches(tmp_path / "in/patches/P1.h5")
    report = featurize(tmp_path / "in", tmp_path / "store", options=OPTIONS)
    assert report.source == "hest-patches: the folder holds patches/P1.h5 with pixels of patches"
    assert report.unknown_patients == ("P1",)
    store = Store(tmp_path / "store")
    assert store.features("stain-texture@20x", "P1").tobytes() == encoded(img).astype(np.float16).tobytes()
    place, slide = store.patches("P1"), store.slide("P1")
    assert place.barcode.tolist() == BARCODES
    np.testing.assert_array_equal(place.center_px, hest_corners(CENTERS, 224) + 112.0)
    assert (slide.mpp, slide.mpp_source) == (0.5, "metadata")
    assert not expression_path(store.path, "P1").exists()  # there are spots, and nothing was counted
    header = store.header("stain-texture@20x", "P1")
    assert (header.fov_um, header.mpp, header.upsampling) == (112, 0.5, 1)


def test_rows_follow_the_spots_and_spots_without_a_patch_are_left_out(tmp_path):
    order = [2, 0, 3]
    root = tmp_path / "in"
    img = hest_patches(root / "patches/P1.h5", center=CENTERS[order], barcode=[BARCODES[i] for i in order])
    h5ad(root / "adata/P1.h5ad")  # HEST-bench keeps its counts there
    assert detect(root) == ("hest", "the folder holds patches/P1.h5 with pixels of patches, and adata/*.h5ad")
    featurize(root, tmp_path / "store", options=OPTIONS, format="hest-patches")
    store = Store(tmp_path / "store")
    assert store.patches("P1").barcode.tolist() == [BARCODES[i] for i in (0, 2, 3)]
    np.testing.assert_array_equal(
        read_expression(expression_path(store.path, "P1")).counts.toarray(), COUNTS[[0, 2, 3]]
    )
    wanted = encoded(img[[1, 0, 2]]).astype(np.float16)
    assert store.features("stain-texture@20x", "P1").tobytes() == wanted.tobytes()


def test_patches_hold_one_view(tmp_path):
    hest_patches(tmp_path / "in/P1.h5", mpp=0.69)
    source, store = tmp_path / "in/P1.h5", tmp_path / "store"
    with pytest.raises(ScaleError, match=r"hold one view, here 111\.8um-0\.499 .*no slide to cut 10x from"):
        featurize(source, store, options=FeaturizeOptions(views=("20x", "10x")))
    with pytest.raises(ScaleError, match="no slide to cut native from"):
        featurize(source, store, options=FeaturizeOptions(views=("native",)))
    with pytest.raises(CohortError, match="only patches are there, and no grid can be cut"):
        featurize(source, store, options=FeaturizeOptions(patches="both"))
    plan = dry_run(source, store, options=FeaturizeOptions(batch=4))
    assert plan.slides[0].patches == {"spots": 4}
    featurize(source, store, options=FeaturizeOptions(batch=4))  # of the default layout the one view that is there
    found = Store(store)
    assert found.header("stain-texture@20x", "P1").upsampling == pytest.approx(1.38)  # HEST enlarged them
    assert sorted(path.name for path in (store / "features/spots").iterdir()) == [
        "haematoxylin@20x",
        "stain-texture@20x",
    ]
    with pytest.raises(ScaleError, match=r"metadata 0\.69"):
        featurize(source, tmp_path / "other", options=FeaturizeOptions(mpp=0.5))


def test_patches_of_another_size_are_resampled_whole(tmp_path):
    """256 px over the same 112 um (as in files of early 2024): a flat patch stays flat, to its border."""
    img = np.broadcast_to(np.array([[[[180, 90, 140]]]], dtype=np.uint8), (4, 256, 256, 3))
    hest_patches(tmp_path / "P1.h5", img=img, target=256)
    with h5py.File(tmp_path / "P1.h5", "r+") as file:
        for name in ("img", "coords"):
            file[name].attrs["patch_size_src"] = 224
    featurize(tmp_path, tmp_path / "store", options=OPTIONS)
    wanted = encoded(img[:, :224, :224]).astype(np.float16)
    assert Store(tmp_path / "store").features("stain-texture@20x", "P1").tobytes() == wanted.tobytes()


def test_features_of_patches_are_told_from_those_of_the_slide(tmp_path):
    hest_patches(tmp_path / "cut/H3.h5")
    h5ad(tmp_path / "whole/H1.h5ad")
    tiff(tmp_path / "whole/H1.tif")
    featurize(tmp_path / "cut", tmp_path / "a", options=OPTIONS)
    featurize(tmp_path / "whole", tmp_path / "b", options=OPTIONS)
    cut, read = (
        Store(tmp_path / name).header("stain-texture@20x", slide) for name, slide in (("a", "H3"), ("b", "H1"))
    )
    assert cut.fingerprint != read.fingerprint
    with pytest.raises(FingerprintError):
        target = tmp_path / "a/features/spots/stain-texture@20x/H1.h5"
        target.write_bytes((tmp_path / "b/features/spots/stain-texture@20x/H1.h5").read_bytes())
        for kind in ("slides", "patches/spots"):
            for path in (tmp_path / "b" / kind).glob("H1.*"):
                (tmp_path / "a" / kind / path.name).write_bytes(path.read_bytes())
        Store(tmp_path / "a").table("stain-texture@20x", expression=False)


def test_the_picture_shows_patches_in_their_places(tmp_path):
    img = np.zeros((4, 224, 224, 3), dtype=np.uint8) + np.array([10, 60, 110, 160], dtype=np.uint8)[:, None, None, None]
    far = CENTERS * 4
    hest_patches(tmp_path / "P.h5", center=far, img=img)
    with open_slide(tmp_path / "P.h5") as slide:
        assert slide.read(0, 0, 0, 50, 50).min() == 255
        x, y = slide.corner_px[1].tolist()
        there = slide.read(0, x - 1, y - 1, 226, 226)
        assert (there[1:-1, 1:-1] == 60).all()
        assert (there[0] == 255).all()
        small = slide.read(1, 0, 0, *slide.level_dimensions[1])
        at = (far / slide.level_downsamples[1]).astype(int)
        assert [small[y, x, 0] for x, y in at] == [10, 60, 110, 160]


class TestRefusals:
    def test_a_spot_beside_its_patch(self, tmp_path):
        h5ad(tmp_path / "st/P1.h5ad", center=CENTERS + 3)
        # The worst lies at y = 486.705, and the middle of its patch at int(483.705 - 112) + 112 = 483.
        hest_patches(tmp_path / "patches/P1.h5")
        (sample,) = load_cohort(tmp_path).samples
        with pytest.raises(CohortError, match=r"spot AAAT-1 .* lies 3\.7 px from the middle of its patch"):
            sample.read_measured()

    def test_other_barcodes(self, tmp_path):
        h5ad(tmp_path / "st/P1.h5ad", barcode=["a", "b", "c", "d"])
        hest_patches(tmp_path / "patches/P1.h5")
        with pytest.raises(CohortError, match=r"none of its 4 spots \(AAAC-1, ...\) is among the 4 rows"):
            load_cohort(tmp_path).samples[0].read_measured()

    def test_counts_without_pixels_cost_their_own_slide(self, tmp_path):
        root = hest_root(tmp_path)
        (root / "wsis/H2.tif").unlink()
        (root / "patches/H2.h5").unlink()
        cohort = load_cohort(root)
        assert [s.slide_id for s in cohort.samples] == ["H1", "H3"]
        assert "has neither an image in wsis nor patches/H2.h5" in cohort.refused[0][1]

    def test_metadata(self, tmp_path):
        root = hest_root(tmp_path)
        (root / "metadata/H1.json").write_text("{")
        hest_json(root, hest_facts("H2", pixel_size_um_estimated="fine"))
        causes = dict(load_cohort(root).refused)
        assert "H1.json cannot be read as JSON" in causes["H1"]
        assert "H2.json: pixel_size_um_estimated is 'fine'; wanted a positive number" in causes["H2"]
        (root / "HEST_v1_1_0.csv").write_text("name\nH1\n")
        with pytest.raises(CohortError, match=r"HEST_v1_1_0\.csv cannot be read .*a column id"):
            load_cohort(root)
        with pytest.raises(CohortError, match=r"neither st/.*so it is not HEST-1k"):
            load_cohort(tmp_path / "wsis", format="hest")
        with pytest.raises(CohortError, match=r"holds no patches/\*\.h5"):
            load_cohort(tmp_path / "wsis", format="hest-patches")

    def test_one_name_of_a_patient_in_two_studies_is_said(self, tmp_path, caplog):
        for name in ("A", "B"):
            tiff(tmp_path / f"wsis/{name}.tif")
            h5ad(tmp_path / f"st/{name}.h5ad")
        hest_csv(tmp_path, *(hest_facts(n, patient="Patient 1", dataset_title=f"Study {n}") for n in "AB"))
        assert [s.patient_id for s in load_cohort(tmp_path).samples] == ["Patient 1"] * 2
        assert "patient 'Patient 1' is named by 2 studies and taken for one person" in caplog.text

    @pytest.mark.parametrize(
        ("spoil", "message"),
        [
            (lambda file: file.pop("coords"), "holds no 'coords': HEST wrote such files before August 2024"),
            (
                lambda file: file["img"].attrs.pop("patch_size_src"),
                "does not say how many level-0 pixels a patch spans",
            ),
            (lambda file: file["barcode"].__setitem__(0, file["barcode"][1]), "4 coordinates and 3 names"),
            (lambda file: file["img"].resize(3, axis=0), "holds 3 patches and 4 names"),
        ],
    )
    def test_files_of_patches(self, tmp_path, spoil, message):
        hest_patches(tmp_path / "P.h5", on=("img",))
        with h5py.File(tmp_path / "P.h5", "r+") as file:
            spoil(file)
        with pytest.raises(SlideError, match=message):
            open_slide(tmp_path / "P.h5")

    def test_links_to_other_files_are_not_followed(self, tmp_path):
        hest_patches(tmp_path / "far.h5")
        hest_patches(tmp_path / "P.h5")
        with h5py.File(tmp_path / "P.h5", "r+") as file:
            del file["img"]
            file["img"] = h5py.ExternalLink("far.h5", "img")
        with pytest.raises(SlideError, match="links to other files are not followed"):
            open_slide(tmp_path / "P.h5")
