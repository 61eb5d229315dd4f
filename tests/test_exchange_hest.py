"""HEST patches and HEST-bench embeddings into a store, beside spots that tissuary itself made."""

import re

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tissuary.store import Store
from tissuary.tests.foreign_files import (
    bring,
    contents,
    corners,
    growing,
    hest_embeddings,
    hest_names,
    hest_patches,
    only,
    record_of,
    refusal,
    run_command,
    vectors,
)

KEY = "toynet@111.8um-0.499"
SAID = {"encoder": "toynet"}


@pytest.fixture
def root(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def source(tmp_path):
    return tmp_path / "hest"


@pytest.mark.parametrize("on", [("img",), ("coords",), ("img", "coords")])
def test_scale_is_read_from_whichever_dataset_carries_it(source, root, on):
    """hestcore 1.0.4 has the attributes on `img`, newer ones on `coords` too; 162 px of 0.69 um are 111.78 um."""
    values = vectors(12)
    hest_patches(source / "patches" / "C2.h5", corners(), hest_names(), on=on)
    hest_embeddings(source / "toynet" / "C2.h5", corners(), hest_names(), values)
    done = only(bring(source, root, "hest", **SAID))
    assert (done.key, done.patches, done.mpp, done.mpp_source) == (KEY, "spots", 0.69, "HEST file")
    assert done.declared == ("encoder=toynet",)
    store = Store(root)
    assert store.features(KEY, "C2").tobytes() == values.tobytes()
    place = store.patches("C2")
    np.testing.assert_array_equal(place.center_px, corners() + 81.0)
    assert place.barcode.tolist() == hest_names()
    assert place.array is None  # barcodes are names; nothing is read out of them
    header = store.header(KEY, "C2")
    assert (header.fov_um, header.mpp) == (pytest.approx(162 * 0.69), pytest.approx(162 * 0.69 / 224))
    assert record_of(header)["details"]["pixel_size"] == 0.69


def test_rows_are_matched_by_barcode_to_spots_that_tissuary_made(make_store, source):
    """HEST rows come in their own order, and their centres up to a pixel and a half beside the spots."""
    store = make_store({"a1": ("A", 9)})
    before, place = contents(store.path), store.patches("a1")
    turned = np.random.default_rng(0).permutation(9)
    cut = np.floor(place.center_px[turned] - 81).astype(np.int64)  # what `int(center - side / 2)` does
    values = vectors(9)
    hest_patches(source / "patches" / "a1.h5", cut, place.barcode[turned], pixel_size=0.5)
    hest_embeddings(source / "toynet" / "a1.h5", cut, place.barcode[turned], values)
    done = only(bring(source, store.path, "hest", **SAID))
    assert done.notes == ("rows were put into the order of the store's patch set",)
    assert (done.mpp_source, done.patient_id) == ("store", "A")
    back = Store(store.path)
    inverse = np.argsort(turned)
    assert back.features(done.key, "a1").tobytes() == values[inverse].tobytes()
    assert back.patches("a1").digest == place.digest
    assert before.items() <= contents(store.path).items()
    assert back.table(["toy@20x", done.key]).features(done.key).shape == (9, 6)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=20)
@given(side=st.integers(40, 400), x=st.floats(0, 5000), y=st.floats(0, 5000))
def test_a_centre_comes_back_within_the_rounding(tmp_path_factory, side, x, y):
    """hestcore cuts at `int(center - side // 2)`; the centre of those pixels lies at most 1.5 px beside the spot."""
    base = tmp_path_factory.mktemp("rounding")
    corner = np.trunc(np.array([[x, y]]) - side // 2).astype(np.int64)  # may be negative at a border
    hest_patches(base / "patches" / "s.h5", corner, ["1x1"], side=side)
    only(bring(base, base / "store", "hest"))
    found = Store(base / "store").patches("s").center_px
    assert np.abs(found - [[x, y]]).max() <= 1.5
    np.testing.assert_array_equal(found, corner + side / 2)


@pytest.mark.parametrize(
    ("said", "match"),
    [
        ({}, r"does not say which encoder made its features \(its folder is named 'toynet'\).*--encoder NAME"),
        ({**SAID, "mpp": 0.25}, "um/px contradict one another by more than 5%: declared 0.25, HEST file 0.69"),
        ({**SAID, "patch_px": 224.0}, "declared are patches of 224 level-0 px, HEST says 162: leave out --patch-px"),
        ({**SAID, "view": "224um-1"}, "view 224um-1 has 224 um a side, the patches have 111.8"),
    ],
)
def test_what_is_not_declared_or_contradicts_is_refused(source, root, said, match):
    hest_patches(source / "patches" / "C2.h5", corners(), hest_names())
    hest_embeddings(source / "toynet" / "C2.h5", corners(), hest_names(), vectors(12))
    assert re.search(match, refusal(bring(source, root, "hest", **said)))
    assert not root.exists()


def test_embeddings_alone_need_their_patches_or_what_these_would_say(source, root, tmp_path):
    path = hest_embeddings(source / "toynet" / "C2.h5", corners(), hest_names(), vectors(12))
    assert "HEST does not say um/px" in refusal(bring(path, root, "hest", **SAID))
    assert "give the folder of the patches files with --coords DIR" in refusal(
        bring(path, root, "hest", **SAID, mpp=0.69)
    )
    hest_patches(tmp_path / "elsewhere" / "C2.h5", corners(), hest_names())
    assert only(bring(path, root, "hest", coords=tmp_path / "elsewhere", **SAID)).key == KEY
    fresh = tmp_path / "fresh"
    done = only(bring(path, fresh, "hest", **SAID, mpp=0.69, patch_px=162.0, view="111.8um-0.499"))
    assert done.declared == ("mpp=0.69", "encoder=toynet", "patch_px=162.0", "view=111.8um-0.499")


def test_patches_alone_bring_spots_and_leave_pixels(source, root):
    hest_patches(source / "patches" / "C2.h5", corners(), hest_names())
    done = only(bring(source, root, "hest"))
    assert (done.key, done.shape) == (None, (12, 2))
    assert done.notes == ("its pixels stay where they are: a store holds none",)
    again = hest_embeddings(source / "toynet" / "C2.h5", corners(), hest_names(), vectors(12))
    assert only(bring(again, root, "hest", coords=source / "patches", **SAID)).key == KEY


def test_odd_files_are_named_and_the_others_go_on(source, root):
    def embeddings(name):
        hest_patches(source / "patches" / f"{name}.h5", corners(), hest_names())
        return hest_embeddings(source / "toynet" / f"{name}.h5", corners(), hest_names(), vectors(12))

    def spoil(name, dataset, values):
        with h5py.File(embeddings(name), "a") as file:
            del file[dataset]
            if values is not None:
                growing(file, dataset, values)

    embeddings("good")
    spoil("old", "coords", None)
    spoil("short", "embeddings", vectors(11))
    spoil("names", "barcodes", None)
    spoil("twice", "barcodes", np.array([["1x1"]] * 12, dtype="S"))
    spoil("whole", "embeddings", np.ones((12, 3), np.int64))
    spoil("infinite", "embeddings", np.full((12, 3), np.inf, np.float32))
    cut = embeddings("cut")
    cut.write_bytes(cut.read_bytes()[:-700])
    report = bring(source, root, "hest", **SAID)
    assert [done.slide_id for done in report.done] == ["good"]
    causes = {name.split("/")[-1].removesuffix(".h5"): why for name, why in report.failed}
    assert "holds no 'coords': HEST wrote such files before August 2024" in causes["old"]
    assert "coordinates, barcodes and embeddings have [11, 12] rows" in causes["short"]
    assert "holds no dataset 'barcode'; it holds coords, embeddings" in causes["names"]
    assert "barcode 1x1 occurs more than once" in causes["twice"]
    assert "is int64 (12, 3); wanted floating-point (n, dim)" in causes["whole"]
    assert "row 0 holds NaN or infinity" in causes["infinite"]
    assert "is not a whole HDF5 file" in causes["cut"]
    assert {path.stem for path in root.rglob("*.h5")} == {"good"}  # not even the slides of the others


def test_other_spots_under_the_same_slide_are_refused(make_store, source):
    store = make_store({"a1": ("A", 9)})
    hest_patches(source / "patches" / "a1.h5", corners(), hest_names(), pixel_size=0.5)
    why = refusal(bring(source, store.path, "hest"))
    assert re.search(r"patch set 'spots' has 9 patches, the file 12, of which \d shared|of which \d are shared", why)
    assert "--patches NAME" in why
    assert only(bring(source, store.path, "hest", patches="spots-hest")).patches == "spots-hest"


def test_wider_features_are_said_to_be_rounded(source, root):
    hest_patches(source / "patches" / "C2.h5", corners(), hest_names())
    values = vectors(12).astype(np.float64) / 3
    hest_embeddings(source / "toynet" / "C2.h5", corners(), hest_names(), values)
    done = only(bring(source, root, "hest", **SAID))
    assert done.notes == ("features were rounded from float64 to float32, the widest that a store holds",)
    np.testing.assert_array_equal(Store(root).features(KEY, "C2"), values.astype(np.float32))


def test_files_of_another_tool_are_not_taken_for_hests(source, root):
    from tissuary.tests.foreign_files import stamp

    stamp(source, "s1", np.array([[256.486, 0], [512.972, 0]]), vectors(2))
    assert "it looks like STAMP's: import it with --format stamp" in refusal(bring(source, root, "hest", **SAID))


@pytest.mark.usefixtures("real_data")
def test_files_of_hest_itself(real_data, root):
    folder = real_data / "foreign" / "hest"
    said = ("import", folder, "--format", "hest", "--store", root)
    code, _, err = run_command(*said)
    assert (code, "--encoder NAME" in err) == (2, True)
    code, _, err = run_command(*said, "--encoder", "resnet18", "--mpp", "0.5")
    assert (code, "declared 0.5, HEST file 0.69" in err) == (2, True)
    code, _, err = run_command(*said, "--encoder", "resnet18")
    assert code == 0, err
    with h5py.File(folder / "C2_embeddings.h5") as file, h5py.File(folder / "C2_patches.h5") as patches:
        values, top_left = file["embeddings"][()], file["coords"][()]
        names = [name.decode() for name in file["barcodes"][:, 0]]
        assert [name.decode() for name in patches["barcode"][:, 0]] == names
        np.testing.assert_array_equal(patches["coords"][()], top_left)
    store, key = Store(root), "resnet18@111.8um-0.499"
    assert store.features(key, "C2").tobytes() == values.tobytes()
    place = store.patches("C2")
    np.testing.assert_array_equal(place.center_px, top_left + 162 / 2)
    assert place.barcode.tolist() == names
    assert (store.slide("C2").mpp, store.slide("C2").mpp_source) == (0.69, "HEST file")
    assert store.header(key, "C2").fov_um == pytest.approx(111.78)
