"""STAMP files into a store and out again: microns, whole pixels, and every bit."""

import math

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tissuary.store import Store
from tissuary.store.exchange.exporting import export_store
from tissuary.store.exchange.registry import exporter_named
from tissuary.tests.foreign_files import bring, contents, only, record_of, refusal, run_command, stamp, vectors

KEY, SET = "toynet@256um-1.143", "stamp-256um"


@pytest.fixture
def root(tmp_path):
    return tmp_path / "store"


def export(root, out, **options):
    report = export_store(Store(root), out, exporter_named("stamp"), **options)
    assert report.failed == ()
    return report


def cut_as_stamp_does(columns, rows, *, mpp, tile_um=256.0, supertile_px=4096):
    """Corners in um as STAMP makes them, supertile by supertile; side of a tile and true corners in pixels."""
    per = max(int(supertile_px * mpp // tile_um), 1)
    side = int(np.ceil(tile_um / mpp))
    um, px = [], []
    for top in range(0, rows, per):
        for left in range(0, columns, per):
            for y in range(min(per, rows - top)):
                for x in range(min(per, columns - left)):
                    um.append((left * side * mpp + x * tile_um, top * side * mpp + y * tile_um))
                    px.append(((left + x) * side, (top + y) * side))
    return np.array(um), side, np.array(px, dtype=np.float64)


def test_one_tile_a_supertile_steps_by_whole_pixels(tmp_path, root):
    """514 px of 0.499 um: 256.486 um, although the attribute says 256."""
    um = 256.486 * np.array([[1, 0], [2, 0], [1, 1], [4, 3]])
    feats = vectors(4, dtype=np.float16)
    stamp(tmp_path / "in", "s1", um, feats)
    done = only(bring(tmp_path / "in", root, "stamp", mpp=0.499))
    assert (done.key, done.patches, done.dtype, done.declared) == (KEY, SET, "float16", ("mpp=0.499",))
    store = Store(root)
    place = store.patches("s1", patches=SET)
    np.testing.assert_array_equal(place.center_px, [[771, 257], [1285, 257], [771, 771], [2313, 1799]])
    assert place.barcode.tolist() == ["x514y0", "x1028y0", "x514y514", "x2056y1542"]
    assert place.array.tolist() == [[0, 0], [0, 1], [1, 0], [3, 3]]
    assert store.features(KEY, "s1", patches=SET).tobytes() == feats.tobytes()
    header = store.header(KEY, "s1", patches=SET)
    assert (header.fov_um, header.mpp) == (514 * 0.499, pytest.approx(514 * 0.499 / 224))
    record = record_of(header)
    assert record["version"] == "2.5.0"
    assert record["details"]["code_hash"] == "49b04e14"
    slide = store.slide("s1")
    assert (slide.width_px, slide.height_px) == (2570, 2056)  # the box that the tiles fill
    assert "smallest box that holds the patches" in slide.created_by


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=15)
@given(
    mpp=st.one_of(st.sampled_from([0.25, 0.5, 1.0, 0.499, 0.2527, 0.2305]), st.floats(0.1, 2.0)),
    shape=st.tuples(st.integers(1, 30), st.integers(1, 12)),
    seed=st.integers(0, 99),
)
@example(mpp=1.1327517670073197, shape=(1, 8), seed=8)  # falls short by less than float32 tells
def test_tiles_of_supertiles_come_back_to_their_pixels_and_out_bit_for_bit(tmp_path_factory, mpp, shape, seed):
    """The default reads several tiles at once, and the tiles inside drift: the coordinates are not where they lie."""
    base = tmp_path_factory.mktemp("drift")
    um, side, px = cut_as_stamp_does(*shape, mpp=mpp)
    rng = np.random.default_rng(seed)
    kept = rng.permutation(len(um))[: max(1, len(um) * 2 // 3)]  # tissue only, in completion order
    old = stamp(base / "in", "s1", um[kept], rng.normal(size=(len(kept), 3)))
    done = only(bring(old, base / "store", "stamp", mpp=mpp))
    place = Store(base / "store").patches("s1", patches=done.patches)
    np.testing.assert_allclose(place.center_px, px[kept] + side / 2, rtol=0, atol=1e-9)
    export(base / "store", base / "out")
    with h5py.File(old) as a, h5py.File(base / "out" / "toynet-49b04e14" / "s1.h5") as b:
        for name in ("coords", "feats"):
            assert a[name].dtype == b[name].dtype
            assert a[name][()].tobytes() == b[name][()].tobytes()
        assert dict(a.attrs) == {name: value for name, value in b.attrs.items() if name != "tissuary"}
        assert all(type(b.attrs[name]) is type(value) for name, value in a.attrs.items())


@pytest.mark.parametrize("mpp", [0.5, 0.25, 0.2527, 0.4991, 1.0])
def test_a_scale_that_stamp_did_not_read_is_refused(tmp_path, root, mpp):
    um, _, _ = cut_as_stamp_does(20, 9, mpp=0.499)
    stamp(tmp_path / "in", "s1", um, vectors(len(um)))
    why = refusal(bring(tmp_path / "in", root, "stamp", mpp=mpp))
    assert f"{mpp:g} um/px is not what STAMP read: a tile of 256 um would be {math.ceil(256 / mpp)} px" in why
    assert "--mpp X" in why
    assert "--patch-px N" in why
    assert not root.exists()


def test_the_side_may_be_declared_where_the_scale_is_another(tmp_path, root):
    stamp(tmp_path / "in", "s1", 256.486 * np.array([[1, 0], [2, 0]]), vectors(2))
    done = only(bring(tmp_path / "in", root, "stamp", mpp=0.5, patch_px=514.0))
    assert done.key == "toynet@257um-1.147"
    assert done.notes == ("corners were taken as um over 0.5 um/px; STAMP itself cut at other whole pixels",)
    assert "patch_px=514.0" in done.declared
    centers = Store(root).patches("s1", patches=done.patches).center_px
    np.testing.assert_allclose(centers, [[256.486 / 0.5 + 257, 257], [512.972 / 0.5 + 257, 257]], atol=1e-3)


def test_scale_unknown_and_contradictory_declarations_are_refused(tmp_path, root):
    path = stamp(tmp_path / "in", "s1", 256.486 * np.array([[1, 0], [2, 0]]), vectors(2))
    assert "STAMP does not say um/px" in refusal(bring(path, root, "stamp"))
    assert "declared is encoder 'uni', the STAMP file says 'toynet'" in refusal(
        bring(path, root, "stamp", mpp=0.499, encoder="uni")
    )
    assert "declared are patches of 256 level-0 px, STAMP says 514" in refusal(
        bring(path, root, "stamp", mpp=0.499, patch_px=256.0)
    )
    assert not root.exists()


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"feat_type": "slide"}, "holds features of a slide: a store holds features of patches"),
        ({"feat_type": "patient"}, "holds features of a patient"),
        ({"unit": "px"}, "its coordinates are in 'px'; wanted 'um'"),
        ({"tile_size_um": "many"}, "attribute 'tile_size_um' is 'many'; wanted a number"),
        ({"drop": ("tile_size_um",)}, "does not say how large a patch is: declare the side in level-0 pixels"),
        ({"drop": ("extractor",)}, "does not say which encoder made its features"),
        ({"drop": ("unit",)}, "does not say the unit of its coordinates, which step by 256.486"),
    ],
)
def test_files_that_say_too_little_are_refused(tmp_path, root, changed, match):
    path = stamp(tmp_path / "in", "s1", 256.486 * np.array([[1, 0], [2, 0]]), vectors(2), **changed)
    assert match in refusal(bring(path, root, "stamp", mpp=0.499))
    assert not root.exists()


def test_odd_rows(tmp_path, root):
    stamp(tmp_path / "in", "empty", np.empty((0,)), np.empty((0,)))
    stamp(tmp_path / "in", "squeezed", np.array([256.486, 0]), vectors(1))
    stamp(tmp_path / "in", "more", 256.486 * np.array([[1, 0], [2, 0]]), vectors(3))
    stamp(tmp_path / "in", "none", None, vectors(3))
    holed = vectors(2, dtype=np.float16)
    holed[1, 3] = np.inf
    stamp(tmp_path / "in", "nan", 256.486 * np.array([[1, 0], [2, 0]]), holed)
    report = bring(tmp_path / "in", root, "stamp", mpp=0.499)
    assert [(done.slide_id, done.shape) for done in report.done] == [("squeezed", (1, 6))]
    assert report.skipped == (("toynet-49b04e14/empty.h5", "no patches: the slide was empty"),)
    causes = {name.split("/")[1]: why for name, why in report.failed}
    assert "3 rows of features, 2 of coordinates" in causes["more.h5"]
    assert "holds no coordinates" in causes["none.h5"]
    assert "row 1 holds NaN or infinity" in causes["nan.h5"]


def test_older_files(tmp_path, root):
    """Version 2.0 calls the side `tile_size`; before it, coordinates count 224 px for a tile of 256 um."""
    um = 256.486 * np.array([[1, 0], [2, 0]])
    older = stamp(tmp_path / "a", "v20", um, vectors(2), drop=("tile_size_um", "code_hash"), tile_size=256.0)
    assert only(bring(older, root, "stamp", mpp=0.499)).key == KEY
    historic = stamp(
        tmp_path / "b", "v1", 224.0 * np.array([[1, 0], [2, 1]]), vectors(2), drop=("unit", "tile_size_um", "code_hash")
    )
    done = only(bring(historic, root, "stamp", mpp=0.5))
    assert "a step of 224 was taken as 256 um" in done.notes[0]
    centers = Store(root).patches("v1", patches=done.patches).center_px
    np.testing.assert_allclose(centers, [[512 + 256, 256], [1024 + 256, 512 + 256]])


def test_features_of_another_code_are_kept_apart(tmp_path, root):
    um = 256.486 * np.array([[1, 0], [2, 0]])
    stamp(tmp_path / "a", "s1", um, vectors(2))
    bring(tmp_path / "a", root, "stamp", mpp=0.499)
    stamp(tmp_path / "b", "s2", um, vectors(2), code_hash="deadbeef")
    assert "Store it beside the other with `--as NAME`" in refusal(bring(tmp_path / "b", root, "stamp", mpp=0.499))
    assert only(bring(tmp_path / "b", root, "stamp", mpp=0.499, name="toynet-new")).key == "toynet-new@256um-1.143"
    stamp(tmp_path / "c", "s3", um, vectors(2))
    bring(tmp_path / "c", root, "stamp", mpp=0.499)
    assert Store(root).table(KEY, patches=SET, expression=False).slide_ids == ("s1", "s3")


def test_slides_of_different_scale_share_a_key_by_their_nominal_tile(tmp_path, root):
    for name, mpp in (("s1", 0.499), ("s2", 0.2527)):
        um, _, _ = cut_as_stamp_does(5, 4, mpp=mpp)
        stamp(tmp_path / "in", name, um, vectors(len(um)))
    report = bring(tmp_path / "in", root, "stamp", mpp_of={"s1": 0.499, "s2": 0.2527})
    assert {done.key for done in report.done} == {KEY}
    store = Store(root)
    assert store.table(KEY, patches=SET, expression=False).slide_ids == ("s1", "s2")
    assert store.header(KEY, "s2", patches=SET).fov_um == 1014 * 0.2527


def test_two_slides_of_one_name_are_told_apart(tmp_path, root):
    um = 256.486 * np.array([[1, 0], [2, 0]])
    stamp(tmp_path / "in", "s1", um, vectors(2), folder="toynet-49b04e14/A")
    stamp(tmp_path / "in", "s1", um * 2, vectors(2), folder="toynet-49b04e14/B")
    report = bring(tmp_path / "in", root, "stamp", mpp=0.499)
    assert len(report.done) == 1
    assert "In this import the slide came from toynet-49b04e14/A/s1.h5 before" in report.failed[0][1]


def test_a_guessed_size_that_other_patches_exceed_is_said_to_be_one(tmp_path, root):
    stamp(tmp_path / "a", "s1", 256.486 * np.array([[0, 0], [1, 0]]), vectors(2))
    bring(tmp_path / "a", root, "stamp", mpp=0.499)
    stamp(tmp_path / "b", "s1", 256.486 * np.array([[5, 0], [6, 0]]), vectors(2), code_hash="deadbeef")
    why = refusal(bring(tmp_path / "b", root, "stamp", mpp=0.499, name="other", patches="others"))
    assert "2 of 2 patches lie outside its 1028 x 514 px, which is only the box that an earlier import's" in why
    assert "--slides DIR" in why


@pytest.mark.parametrize("patches", ["spots", "grid-200um"])
def test_a_store_comes_back_bit_for_bit(make_store, tmp_path, patches):
    source = make_store({"a1": ("A", 9)})
    if patches != "spots":
        for kind in ("patches", "features"):
            (source.path / kind / "spots").rename(source.path / kind / patches)
    assert export(source.path, tmp_path / "out", keys=["toy@20x"], patches=patches).done[0].notes == ()
    done = only(bring(tmp_path / "out", tmp_path / "b", "stamp"))
    assert (done.key, done.patches, done.mpp, done.dtype) == ("toy@20x", patches, 0.5, "float16")
    back = Store(tmp_path / "b")
    values = source.features("toy@20x", "a1", patches=patches)
    assert back.features("toy@20x", "a1", patches=patches).tobytes() == values.tobytes()
    before, after = source.patches("a1", patches=patches), back.patches("a1", patches=patches)
    assert after.digest == before.digest
    np.testing.assert_array_equal(after.array, before.array)
    # what STAMP's files have no place for: patient, size of the slide, counts, the computed fingerprint
    assert back.slide("a1").patient_id == "unknown:a1"
    assert back.slide("a1").width_px < source.slide("a1").width_px
    assert back.header("toy@20x", "a1", patches=patches).fingerprint.startswith("declared:toy:")
    assert not (tmp_path / "b" / "expression").exists()


def test_exports_carry_stamps_names_and_refuse_what_it_cannot_hold(make_store, tmp_path):
    from dataclasses import replace

    from tissuary.store.files.features import write_features
    from tissuary.store.files.schema import features_path

    store = make_store({"a1": ("A", 9)})
    header = store.header("toy@20x", "a1")
    for key, value in (("uni2-h@20x", 0.1), ("large@20x", 1e6)):
        made, path = replace(header, fingerprint=f"print of {key}"), features_path(store.path, "a1", key=key)
        with write_features(path, made, shape=(9, 4), dtype=np.dtype("<f4")) as writer:
            writer.append(np.full((9, 4), value, np.float32))
    done = export(store.path, tmp_path / "out", keys=["uni2-h@20x"]).done[0]
    path = done.files[0]
    assert done.notes == ("uni2-h@20x: rounded from float32 to float16, which STAMP's files are",)
    with h5py.File(path) as file:
        attributes = dict(file.attrs)
    assert attributes["extractor"] == "uni2"
    assert attributes["stamp_version"] == "2.1.0"
    assert (attributes["unit"], attributes["feat_type"]) == ("um", "tile")
    assert (attributes["tile_size_um"], attributes["tile_size_px"]) == (112.0, 224)
    assert path.endswith(f"uni2-{attributes['code_hash']}/a1.h5")
    report = export_store(Store(store.path), tmp_path / "out", exporter_named("stamp"), keys=["large@20x"])
    assert "large@20x leaves the range of float16" in report.failed[0][1]


@pytest.mark.usefixtures("real_data")
def test_a_file_of_stamp_itself_and_back(real_data, root, tmp_path):
    code, _, err = run_command("import", real_data / "foreign" / "stamp", "--format", "stamp", "--store", root)
    assert code == 2
    assert "Declare um per level-0 pixel with --mpp X" in err
    code, _, err = run_command(
        "import", real_data / "foreign" / "stamp", "--format", "stamp", "--store", root,
        "--slides", real_data / "slides",
    )  # fmt: skip
    assert code == 0, err
    source = next((real_data / "foreign" / "stamp").rglob("*.h5"))
    store, key = Store(root), "resnet18-random@256um-1.143"
    with h5py.File(source) as file:
        um, feats = file["coords"][()], file["feats"][()]
    assert store.features(key, "CMU-1-Small-Region", patches=SET).tobytes() == feats.tobytes()
    centers = store.patches("CMU-1-Small-Region", patches=SET).center_px
    np.testing.assert_allclose(centers, um / 0.499 + 257, rtol=0, atol=1e-3)
    assert (centers % 514 == 257).all()  # whole tiles of 514 px
    slide = store.slide("CMU-1-Small-Region")
    assert (slide.width_px, slide.height_px, slide.mpp, slide.mpp_source) == (2220, 2967, 0.499, "metadata")
    before = contents(root)
    code, _, err = run_command("import", source, "--format", "stamp", "--store", root)
    assert code == 0
    assert "in the store already" in err
    assert contents(root) == before
    export(root, tmp_path / "out")
    with h5py.File(source) as a, h5py.File(tmp_path / "out" / source.parent.name / source.name) as b:
        for name in a:
            assert a[name][()].tobytes() == b[name][()].tobytes()
        assert dict(a.attrs).items() <= dict(b.attrs).items()
