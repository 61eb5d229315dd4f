"""TRIDENT files into a store and out again: scale, names and every bit."""

import json
import re

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tissuary.store import Store
from tissuary.store.exchange.exporting import export_store
from tissuary.store.exchange.foreign import SlideMetadata
from tissuary.store.exchange.formats.trident import magnification_label
from tissuary.store.exchange.registry import exporter_named
from tissuary.tests.foreign_files import bring, corners, only, record_of, refusal, run_command, trident, vectors

KEY, SET = "toynet@127.7um-0.499", "trident-127.7um"


@pytest.fixture
def job(tmp_path):
    return tmp_path / "job"


@pytest.fixture
def root(tmp_path):
    return tmp_path / "store"


def export(root, out, **options):
    report = export_store(Store(root), out, exporter_named("trident"), **options)
    assert report.failed == ()
    return report


def test_corners_become_centres_and_the_field_follows_from_um(job, root):
    values = vectors(12)
    trident(job, "s1", corners(), values)
    done = only(bring(job, root, "trident", mpp=0.499))
    assert (done.key, done.patches, done.shape, done.dtype) == (KEY, SET, (12, 6), "float32")
    assert (done.mpp, done.mpp_source, done.declared) == (0.499, "declared", ("mpp=0.499",))
    store = Store(root)
    np.testing.assert_array_equal(store.features(KEY, "s1", patches=SET), values)
    place = store.patches("s1", patches=SET)
    np.testing.assert_array_equal(place.center_px, corners() + 128.0)
    assert place.array.tolist()[:5] == [[0, 0], [0, 1], [0, 2], [0, 3], [1, 0]]
    header = store.header(KEY, "s1", patches=SET)
    assert (header.fov_um, header.mpp, header.slide_mpp) == (256 * 0.499, 0.499, 0.499)
    slide = store.slide("s1")
    assert (slide.width_px, slide.height_px, slide.patient_id) == (2220, 2967, "unknown:s1")
    assert (slide.mpp_source, slide.mpp_candidates, slide.source) == ("declared", {"declared": 0.499}, "s1.h5")


def test_the_record_says_where_it_is_from_and_what_was_declared(job, root):
    trident(job, "s1", corners(), vectors(12))
    bring(job, root, "trident", mpp=0.499, encoder="toynet")
    header = Store(root).header(KEY, "s1", patches=SET)
    assert header.fingerprint.startswith("declared:toynet:")
    record = record_of(header)
    assert (record["tool"], record["file"], record["encoder"]) == ("TRIDENT", "s1.h5", "toynet")
    assert record["declared"] == ["mpp=0.499", "encoder=toynet"]
    assert record["details"]["attributes"]["patch_size_level0"] == 256
    assert header.record["licence"] == "unknown"
    assert "/somebody" not in str(header.record)  # paths of the other machine stay behind


def test_magnification_is_a_label_and_never_a_scale(job, root):
    """0.69 um/px is 10x to TRIDENT, so that its "20x, 256 px" is cut from 128 level-0 px: 88 um, not 128."""
    labelled = {"level0_magnification": 10, "target_magnification": 20, "patch_size_level0": 128}
    trident(job, "s1", corners(step=128), vectors(12), **labelled)
    done = only(bring(job, root, "trident", mpp=0.69))
    assert done.key == "toynet@88.32um-0.345"
    header = Store(root).header(done.key, "s1", patches=done.patches)
    assert (header.fov_um, header.upsampling) == (pytest.approx(88.32), pytest.approx(2.0))


def test_scale_unknown_is_refused_and_leaves_no_store(job, root):
    trident(job, "s1", corners(), vectors(12))
    assert "TRIDENT does not say um/px" in refusal(bring(job, root, "trident"))
    assert not root.exists()


def test_the_store_the_image_and_a_table_know_scales_too(job, root, tmp_path):
    picture = np.full((30, 22, 3), 200, np.uint8)
    seen = SlideMetadata(2220, 2967, 0.5, "s1.svs", "d" * 64, picture)
    trident(job, "s1", corners(), vectors(12))
    done = only(bring(job, root, "trident", look=lambda _: seen))
    assert (done.mpp, done.mpp_source) == (0.5, "metadata")
    assert Store(root).slide("s1").source_digest == "d" * 64
    again = trident(tmp_path / "other", "s1", corners(), vectors(12, seed=1), encoder="second")
    assert only(bring(again, root, "trident")).mpp_source == "store"
    assert only(bring(job, tmp_path / "fresh", "trident", mpp_of={"s1": 0.25}, mpp=9.0)).mpp == 0.25


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"mpp": 0.5}, "declared are 0.5 um/px, the store has it at 0.499 um/px"),
        ({"encoder": "other"}, "declared is encoder 'other', the TRIDENT file says 'toynet'"),
        ({"patch_px": 512.0}, "declared are patches of 512 level-0 px, TRIDENT says 256"),
        ({"patient_of": {"s1": "P9"}}, "declared is patient P9, the store has unknown:s1"),
        ({"view": "112um-0.5"}, "view 112um-0.5 has 112 um a side, the patches have 127.7"),
        ({"view": "128um-0"}, "view '128um-0' has no field, or no um/px"),
    ],
)
def test_contradictions_are_refused_with_both_named(job, root, options, match):
    trident(job, "s1", corners(), vectors(12))
    bring(job, root, "trident", mpp=0.499)
    assert match in refusal(bring(job, root, "trident", **options))


def test_another_image_under_the_same_name_is_refused(job, root, tmp_path):
    trident(job, "s1", corners(), vectors(12))
    bring(job, root, "trident", mpp=0.499)
    trident(tmp_path / "other", "s1", corners(), vectors(12), level0_width=9999)
    assert "the TRIDENT file 9999 x 2967, the store 2220 x 2967" in refusal(bring(tmp_path / "other", root, "trident"))
    trident(tmp_path / "off", "s2", corners(start=(3000, 0)), vectors(12))
    assert "12 of 12 patches lie outside its 2220 x 2967 px" in refusal(
        bring(tmp_path / "off", root, "trident", mpp=0.5)
    )


def test_an_encoder_called_none_must_be_declared(job, root):
    path = trident(job, "s1", corners(), vectors(12))
    with h5py.File(path, "a") as file:
        file["features"].attrs["encoder"] = "None"
        file["coords"].attrs["overlap"] = "None"
    why = refusal(bring(job, root, "trident", mpp=0.499))
    assert "does not say which encoder" in why
    assert "(its folder is named 'toynet')" in why
    assert only(bring(job, root, "trident", mpp=0.499, encoder="toynet")).key == KEY


def test_one_patch_with_squeezed_coordinates(job, root):
    path = trident(job, "s1", corners(1, 1), vectors(1))
    with h5py.File(path, "a") as file:
        attributes = dict(file["coords"].attrs)
        del file["coords"]
        file["coords"] = np.array([768, 0])
        file["coords"].attrs.update(attributes)
    assert only(bring(path, root, "trident", mpp=0.5)).shape == (1, 6)
    np.testing.assert_array_equal(Store(root).patches("s1", patches="trident-128um").center_px, [[896.0, 128.0]])


@pytest.mark.parametrize("shape", [(0,), (0, 6)])
def test_an_empty_slide_is_skipped_and_named_while_others_go_on(job, root, shape):
    trident(job, "empty", np.empty((0, 2), np.int64), np.empty(shape, np.float32))
    trident(job, "s1", corners(), vectors(12))
    report = bring(job, root, "trident", mpp=0.499)
    assert only(report).slide_id == "s1"
    assert report.skipped == (("20x_256px_0px_overlap/features_toynet/empty.h5", "no patches: the slide was empty"),)


def test_sides_that_are_no_whole_number_of_pixels(job, root):
    trident(job, "s1", corners(step=300), vectors(12), patch_size_level0=297.5)
    done = only(bring(job, root, "trident", mpp=0.5))
    assert done.key == "toynet@148.8um-0.5811"  # 297.5 * 0.5 and that over 256
    np.testing.assert_array_equal(Store(root).patches("s1", patches=done.patches).center_px, corners(step=300) + 148.75)


def test_coordinates_of_the_legacy_kind_have_clams_attributes(job, root):
    legacy = {"patch_size_level0": None, "patch_level": 1, "downsample": np.array([4.0, 4.0]), "patch_size": 64}
    trident(job, "s1", corners(), vectors(12), **legacy)
    assert only(bring(job, root, "trident", mpp=0.499)).key == "toynet@127.7um-1.996"


def test_overlap_is_part_of_the_patch_set(job, root):
    trident(job, "s1", corners(step=128), vectors(12), overlap=128, folder="20x_256px_128px_overlap")
    assert only(bring(job, root, "trident", mpp=0.499)).patches == "trident-63.85um-tile127.7um"


def test_patches_without_features_come_in_alone(job, root):
    trident(job, "s1", corners())
    done = only(bring(job, root, "trident", mpp=0.499))
    assert (done.key, done.shape, done.patches) == (None, (12, 2), SET)


def test_rows_of_a_second_encoder_are_put_into_the_stores_order(job, root):
    values, turned = vectors(12, seed=1), np.random.default_rng(0).permutation(12)
    trident(job, "s1", corners(), vectors(12))
    trident(job, "s1", corners()[turned], values[turned], encoder="second")
    first = bring(job / "20x_256px_0px_overlap" / "features_toynet", root, "trident", mpp=0.499)
    assert only(first).notes == ()
    second = only(bring(job / "20x_256px_0px_overlap" / "features_second", root, "trident"))
    assert second.notes == ("rows were put into the order of the store's patch set",)
    np.testing.assert_array_equal(Store(root).features(second.key, "s1", patches=SET), values)


def test_other_patches_under_the_name_of_a_set_are_refused(job, root, tmp_path):
    trident(job, "s1", corners(), vectors(12))
    bring(job, root, "trident", mpp=0.499)
    trident(tmp_path / "b", "s1", corners(start=(512, 0)), vectors(12), encoder="second")
    assert "has 12 patches, the file 12, of which 9 are shared" in refusal(bring(tmp_path / "b", root, "trident"))
    assert only(bring(tmp_path / "b", root, "trident", patches="mine")).patches == "mine"


def test_importing_again_changes_nothing_and_other_values_are_refused(job, root, tmp_path):
    trident(job, "s1", corners(), vectors(12))
    bring(job, root, "trident", mpp=0.499)
    before = {path: path.read_bytes() for path in root.rglob("*.h5")}
    assert not only(bring(job, root, "trident")).written
    assert {path: path.read_bytes() for path in root.rglob("*.h5")} == before
    trident(tmp_path / "b", "s1", corners(), vectors(12, seed=3))
    assert "holds other features of this slide" in refusal(bring(tmp_path / "b", root, "trident"))


def test_features_join_across_slides_where_tool_encoder_and_view_are_the_same(job, root, tmp_path):
    for name in ("s1", "s2"):
        trident(job, name, corners(), vectors(12))
    bring(job, root, "trident", mpp=0.499)
    assert Store(root).table(KEY, patches=SET, expression=False).slide_ids == ("s1", "s2")
    trident(tmp_path / "b", "s3", corners(), vectors(12), patch_size=128)
    other = bring(tmp_path / "b", root, "trident", mpp=0.499, view="127.7um-0.998")
    assert only(other).key == "toynet@127.7um-0.998"


def test_the_same_name_with_another_fingerprint_is_refused(make_store, job):
    store = make_store({"a1": ("A", 12)})
    trident(job, "s9", corners(), vectors(12, dim=8), encoder="toy", patch_size=224, patch_size_level0=224)
    options = {"mpp": 0.5, "view": "20x", "patches": "spots"}
    assert "a1 is in the store with fingerprint print of toy, this" in refusal(
        bring(job, store.path, "trident", **options)
    )
    assert only(bring(job, store.path, "trident", name="toy-trident", **options)).key == "toy-trident@20x"


def test_a_view_keeps_slides_of_similar_scale_together(job, root):
    for name in ("s1", "s2"):
        trident(job, name, corners(), vectors(12))
    apart = bring(job, root.with_name("apart"), "trident", mpp_of={"s1": 0.4985, "s2": 0.5025})
    assert {done.key for done in apart.done} == {"toynet@127.6um-0.4985", "toynet@128.6um-0.5025"}
    bring(job, root, "trident", mpp_of={"s1": 0.4985, "s2": 0.5025}, view="128um-0.5")
    store = Store(root)
    table = store.table("toynet@128um-0.5", patches="trident-128um", expression=False)
    assert table.slide_ids == ("s1", "s2")
    assert store.header("toynet@128um-0.5", "s2", patches="trident-128um").fov_um == 256 * 0.5025


def test_bad_files_are_named_and_the_others_go_on(job, root):
    features = job / "20x_256px_0px_overlap" / "features_toynet"
    trident(job, "good", corners(), vectors(12))
    trident(job, "short", corners(), vectors(11))
    trident(job, "slide-level", corners(), vectors(12)[0])
    holed = vectors(12)
    holed[7, 2] = np.nan
    trident(job, "nan", corners(), holed)
    trident(job, "cut", corners(), vectors(12)).write_bytes(b"\x89HDF\r\n\x1a\n half")
    trident(job, "no coords", corners(), vectors(12))
    with h5py.File(features / "no coords.h5", "a") as file:
        del file["coords"]
    with h5py.File(features / "linked.h5", "w") as file:
        file["features"] = h5py.ExternalLink("good.h5", "features")
        file["coords"] = corners()
    report = bring(job, root, "trident", mpp=0.499)
    assert [done.slide_id for done in report.done] == ["good"]
    causes = {name.rsplit("/", 1)[1].removesuffix(".h5"): cause for name, cause in report.failed}
    assert "11 rows of features, 12 of coordinates" in causes["short"]
    assert "one vector of a whole slide" in causes["slide-level"]
    assert "row 7 holds NaN" in causes["nan"]
    assert "is not a whole HDF5 file" in causes["cut"]
    assert "holds no dataset 'coords'; it holds features" in causes["no coords"]
    assert "links to other files are not followed" in causes["linked"]
    assert len(causes) == 6


@pytest.mark.parametrize(("mpp", "label"), [(0.1, 80), (0.25, 40), (0.499, 20), (0.69, 10), (1.5, 5), (4.7, 2.5)])
def test_labels_of_magnification_halve_with_each_doubling(mpp, label):
    assert magnification_label(mpp) == label


def test_foreign_files_come_out_as_they_went_in(job, root, tmp_path):
    path = trident(job, "s1", corners(), vectors(12), overlap=0)
    bring(job, root, "trident", mpp=0.499)
    export(root, tmp_path / "out")
    for old in (path, job / "20x_256px_0px_overlap" / "patches" / "s1_patches.h5"):
        new = tmp_path / "out" / old.relative_to(job)
        with h5py.File(old) as a, h5py.File(new) as b:
            assert list(a) == list(b)
            for name in a:
                assert a[name][()].tobytes() == b[name][()].tobytes()
                assert (a[name].dtype, a[name].chunks, a[name].maxshape) == (
                    b[name].dtype,
                    b[name].chunks,
                    b[name].maxshape,
                )
                ours = dict(b[name].attrs)
                for attribute, value in a[name].attrs.items():
                    if attribute != "savetodir":
                        assert ours[attribute] == value
                        assert type(ours[attribute]) is type(value)
            assert "/" not in b["coords"].attrs["savetodir"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=12)
@given(
    mpp=st.floats(0.1, 3.0),
    offset=st.floats(0, 1),
    dtype=st.sampled_from([np.float16, np.float32]),
    view=st.sampled_from(["20x", "10x", "88.32um-0.345"]),
)
def test_a_store_comes_back_bit_for_bit(tmp_path_factory, mpp, offset, dtype, view):
    """Centres between pixels, fp16 features and names of spots survive, through files of float32 and int64."""
    from tissuary.store.files.features import FeatureHeader, write_features
    from tissuary.store.files.patches import Patches, write_patches
    from tissuary.store.files.schema import features_path, patches_path, slide_path
    from tissuary.store.files.slide import SlideRecord, write_slide

    base = tmp_path_factory.mktemp("round")
    place = Patches(corners() * 1.37 + offset, np.array([f"spot{i}" for i in range(12)], dtype=np.str_))
    fov_um, view_mpp = {"20x": (112.0, 0.5), "10x": (224.0, 1.0), "88.32um-0.345": (88.32, 0.345)}[view]
    values, key = vectors(12).astype(dtype), f"toy.cls@{view}"
    slide = SlideRecord("s1", "P1", 9000, 8000, mpp, "manifest", {"manifest": mpp}, "s1.svs", "e" * 64, "tests")
    write_slide(slide_path(base / "a", "s1"), slide, thumbnail=None)
    write_patches(patches_path(base / "a", "s1"), place, slide_id="s1")
    header = FeatureHeader("s1", "f" * 64, {}, view_mpp, fov_um, 1.0, "fp32", place.digest, mpp, "e" * 64)
    path = features_path(base / "a", "s1", key=key)
    with write_features(path, header, shape=values.shape, dtype=values.dtype) as writer:
        writer.append(values)
    export(base / "a", base / "out")
    done = only(bring(base / "out", base / "b", "trident"))
    assert (done.key, done.patches, done.dtype) == (key, "spots", values.dtype.name)
    back = Store(base / "b")
    assert back.features(key, "s1").tobytes() == values.tobytes()
    assert back.patches("s1").digest == place.digest
    again = back.header(key, "s1")
    assert (again.slide_mpp, again.fov_um, again.mpp) == (mpp, pytest.approx(fov_um), pytest.approx(view_mpp))
    assert again.fingerprint.startswith("declared:toy.cls:")
    with h5py.File(next((base / "out").rglob("features_*/s1.h5"))) as file:
        attributes = file["coords"].attrs  # what TRIDENT computes when it cuts the patches again
        cut = attributes["patch_size"] * attributes["level0_magnification"] / attributes["target_magnification"]
        assert cut == pytest.approx(fov_um / mpp)
        assert file["coords"].dtype == np.int64
        assert file["features"].dtype == np.float32


def test_exports_never_overwrite_and_leave_out_tokens(make_store, tmp_path):
    from tissuary.store.files.features import FeatureHeader, write_features
    from tissuary.store.files.schema import features_path

    store = make_store({"a1": ("A", 9)})
    digest = store.patches("a1").digest
    header = FeatureHeader("a1", "g" * 64, {}, 0.5, 112.0, 1.0, "fp32", digest, 0.5, "none")
    with write_features(features_path(store.path, "a1", key="toy@20x.grid2x2"), header, shape=(9, 4, 8)) as writer:
        writer.append(np.ones((9, 4, 8), np.float32))
    first = export(store.path, tmp_path / "out")
    assert first.keys == ("toy@20x", "toy@20x.grid2x2")  # the density control stays at home
    assert first.done[0].notes == ("toy@20x.grid2x2: TRIDENT has no place for several vectors a patch",)
    files = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.h5")}
    assert sorted(path.parent.name for path in files) == ["features_toy", "patches"]
    second = export(store.path, tmp_path / "out", keys=["toy@20x"])
    assert second.done[0].files == ()
    assert "is there already and was kept" in second.done[0].notes[0]
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.h5")} == files


def test_a_declared_fingerprint_is_the_same_for_the_same_and_never_a_computed_one(job, root):
    for name, encoder, changed in (
        ("s1", "toynet", {}),
        ("s2", "toynet", {"level0_magnification": 40, "target_magnification": 40}),
        ("s3", "other", {}),
        ("s4", "toynet", {"patch_size": 512}),
    ):
        trident(job, name, corners(), vectors(12), encoder=encoder, **changed)
    bring(job, root, "trident", mpp=0.499)
    found = {e.slide_id: e.fingerprint for e in Store(root).entries if e.kind == "features"}
    assert found["s1"] == found["s2"]
    assert len({found["s1"], found["s3"], found["s4"]}) == 3
    assert not any(re.fullmatch("[0-9a-f]{64}", fingerprint) for fingerprint in found.values())


def test_a_scale_that_the_label_does_not_stand_for_is_doubted(job, root):
    """TRIDENT calls level 0 "20x" from 0.3 to 0.6 um/px; a label is no scale, so it is a doubt and no refusal."""
    trident(job, "s1", corners(), vectors(12))
    done = only(bring(job, root, "trident", mpp=0.25))
    assert done.notes == ("TRIDENT calls level 0 20x, as it does from 0.3 to 0.6 um/px: is it 0.25?",)
    assert only(bring(job, root.with_name("b"), "trident", mpp=0.499)).notes == ()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_types_stay_or_are_said_to_be_rounded(job, root, dtype):
    values = (vectors(12).astype(np.float64) / 3).astype(dtype)
    trident(job, "s1", corners(), values)
    done = only(bring(job, root, "trident", mpp=0.499))
    found = Store(root).features(KEY, "s1", patches=SET)
    rounded = "features were rounded from float64 to float32, the widest that a store holds"
    assert done.notes == ((rounded,) if dtype == np.float64 else ())
    assert found.dtype == (np.float16 if dtype == np.float16 else np.float32)
    np.testing.assert_array_equal(found, values.astype(found.dtype))


def test_features_beyond_float32_and_whole_numbers_are_refused(job, root):
    trident(job, "s1", corners(), np.full((12, 2), 1e39))
    assert "is float64 and leaves the range of float32" in refusal(bring(job, root, "trident", mpp=0.499))
    trident(job, "s1", corners(), np.ones((12, 2), np.int32))
    assert "wanted floating-point (n, dim)" in refusal(bring(job, root, "trident", mpp=0.499))


def test_a_name_given_with_as_comes_back(job, root, tmp_path):
    trident(job, "s1", corners(), vectors(12))
    bring(job, root, "trident", mpp=0.499, name="mine")
    out = export(root, tmp_path / "out")
    assert sorted(path.rsplit("/", 2)[1] for path in out.done[0].files) == ["features_mine", "patches"]
    assert only(bring(tmp_path / "out", root.with_name("b"), "trident")).key == "mine@127.7um-0.499"


def test_keys_share_a_patches_file_only_where_their_patches_are_one(job, root, tmp_path):
    """Sides of 256 and 256.001 px would go to one file by TRIDENT's naming."""
    trident(job, "s1", corners(), vectors(12))
    trident(tmp_path / "b", "s1", corners(), vectors(12), encoder="second", patch_size_level0=256.001)
    bring(job, root, "trident", mpp=0.499)
    assert only(bring(tmp_path / "b", root, "trident")).patches == SET
    report = export_store(Store(root), tmp_path / "out", exporter_named("trident"))
    assert "toynet@127.7um-0.499 and another key would share the patches" in report.failed[0][1]
    assert export(root, tmp_path / "out2", keys=[KEY]).done[0].notes == ()


def test_a_job_of_another_tool_or_none_is_named(job, root, tmp_path):
    from tissuary.tests.foreign_files import stamp

    path = stamp(tmp_path / "in", "s1", np.array([[256.486, 0], [512.972, 0]]), vectors(2))
    for place, match in (
        (path, "it looks like STAMP's: import it with --format stamp"),
        (tmp_path / "in", "in is the output of STAMP (toynet-49b04e14/s1.h5): take its features with `tissuary"),
        (tmp_path / "nothing", "nothing does not exist: check the path"),
    ):
        code, _, err = run_command("import", place, "--format", "trident", "--store", root, "--mpp", "0.5")
        assert (code, match in err) == (2, True), err
    code, _, err = run_command("import", path, "--format", "hdf", "--store", root)
    assert (code, "choose one of trident, clam, stamp, hest, triplex" in err) == (2, True)
    code, _, err = run_command("export", root, "--format", "clam", "--out", tmp_path / "out")
    assert (code, "choose one of trident, stamp, h5ad, spatialdata" in err) == (2, True)
    code, _, err = run_command("export", root, "--format", "trident", "--out", tmp_path / "out")
    assert (code, "is no store" in err) == (2, True)
    assert not root.exists()


@pytest.mark.parametrize("format", ["trident", "clam", "stamp", "hest", "triplex"])
def test_a_file_cut_anywhere_is_refused(job, root, format):
    path = trident(job, "s1", corners(), vectors(12))
    whole = path.read_bytes()
    for length in [0, 1, 8, 100, *range(200, len(whole), 997), len(whole) - 1]:
        path.write_bytes(whole[:length])
        assert "is not a whole HDF5 file" in refusal(bring(path, root, format, mpp=0.499, encoder="toynet"))
    assert not root.exists()


def test_a_dataset_that_claims_more_than_its_file_holds_is_refused(job, root):
    """Reading it would take 24 TB of memory for a file of some kilobytes."""
    path = trident(job, "s1", corners(), vectors(12))
    with h5py.File(path, "a") as file:
        file["features"].resize(10**12, axis=0)
    assert "more than the file holds: it is damaged" in refusal(bring(path, root, "trident", mpp=0.499))


@pytest.mark.usefixtures("real_data")
def test_a_file_of_trident_itself_and_back(real_data, root, tmp_path):
    source, name = real_data / "foreign" / "trident", "CMU-1-Small-Region"
    said = ("import", source, "--format", "trident", "--store", root)
    code, _, err = run_command(*said)
    assert (code, "--mpp X, give the images with --slides DIR" in err) == (2, True)
    code, _, err = run_command(*said, "--slides", real_data / "slides", "--mpp", "0.25")
    assert (code, "contradict one another by more than 5%: declared 0.25, metadata 0.499" in err) == (2, True)
    code, _, err = run_command(*said, "--mpp", "0.499", "--encoder", "uni")
    assert (code, "leave out --encoder, or rename the features with --as uni" in err) == (2, True)
    assert not root.exists()
    code, stdout, err = run_command(*said, "--mpp", "0.499", "--json")
    assert code == 0, err
    done = json.loads(stdout)["done"][0]
    assert (done["slide_id"], done["key"], done["shape"]) == (name, "resnet50@127.7um-0.499", [63, 1024])
    assert done["declared"] == ["mpp=0.499"]
    with h5py.File(next(source.rglob("features_*/*.h5"))) as file:
        values, top_left = file["features"][()], file["coords"][()]
    store = Store(root)
    assert store.features(done["key"], name, patches=SET).tobytes() == values.tobytes()
    np.testing.assert_array_equal(store.patches(name, patches=SET).center_px, top_left + 256 / 2)
    slide = store.slide(name)
    assert (slide.width_px, slide.height_px, slide.mpp, slide.mpp_source) == (2220, 2967, 0.499, "declared")
    export(root, tmp_path / "out")
    for old in source.rglob("*.h5"):
        with h5py.File(old) as a, h5py.File(tmp_path / "out" / old.relative_to(source)) as b:
            for name in a:
                assert a[name][()].tobytes() == b[name][()].tobytes()
                assert {k: v for k, v in a[name].attrs.items() if k != "savetodir"}.items() <= dict(
                    b[name].attrs
                ).items()
