"""Imported patches of slides that differ a little, or much, in scale: one key where they may share it, and how."""

import logging

import numpy as np
import pytest

from tissuary.store import Store
from tissuary.tests.foreign_files import bring, clam, contents, corners, only, refusal, run_command, trident, vectors

VIEW = "128um-0.5"
SLIDES = {"s1": 0.5, "s2": 0.507, "s3": 0.52}


@pytest.fixture
def job(tmp_path):
    return tmp_path / "job"


@pytest.fixture
def root(tmp_path):
    return tmp_path / "store"


def trident_cut_to_um(job):
    """Every slide cut to 128 um: 256, 252 and 246 px, none of them resampled."""
    for name, mpp in SLIDES.items():
        side = round(128 / mpp)
        trident(job, name, corners(step=side), vectors(12), patch_size=side, patch_size_level0=side)
    return "trident", {}


def trident_cut_to_px(job):
    for name in SLIDES:
        trident(job, name, corners(), vectors(12))
    return "trident", {}


def clam_without_px(job):
    """CLAM's features whose patches files are lost: nothing says the pixels of a patch."""
    for name in SLIDES:
        path = clam(job, name, corners(), vectors(12))
    (path.parents[2] / "patches_dir").rename(job / "lost")
    for place in (job / "lost").rglob("*.h5"):
        place.unlink()
    return "clam", {"encoder": "toynet", "patch_px": 256.0}


@pytest.mark.parametrize("cut", [trident_cut_to_um, trident_cut_to_px, clam_without_px])
def test_slides_of_slightly_different_scale_share_a_view_and_keep_their_own_numbers(job, root, cut, caplog):
    format, said = cut(job)
    report = bring(job, root, format, mpp_of=SLIDES, view=VIEW, **said)
    assert report.failed == ()
    assert {(one.key, one.patches) for one in report.done} == {(f"toynet@{VIEW}", f"{format}-128um")}
    store, patches = Store(root), f"{format}-128um"
    headers = {name: store.header(f"toynet@{VIEW}", name, patches=patches) for name in SLIDES}
    assert len({header.fingerprint for header in headers.values()}) == 1
    sides = {name: round(128 / mpp) if cut is trident_cut_to_um else 256 for name, mpp in SLIDES.items()}
    for name, header in headers.items():
        assert header.fov_um == pytest.approx(sides[name] * SLIDES[name])
        assert header.mpp == pytest.approx(SLIDES[name])
        assert header.slide_mpp == SLIDES[name]
    notes = {one.slide_id: " ".join(one.notes) for one in report.done}
    assert "kept under" not in notes["s1"]
    assert "at 0.507 um/px are kept under the view 128um-0.5, 1.4% off" in notes["s2"]
    caplog.set_level(logging.WARNING)
    table = store.table(f"toynet@{VIEW}", patches=patches, expression=False)
    assert table.slide_ids == tuple(SLIDES)
    assert not caplog.records  # 4 % apart
    again = bring(job, root, format, mpp_of=SLIDES, view=VIEW, **said)
    assert not any(one.written for one in again.done)


def test_slides_at_both_ends_of_the_tolerance_are_joined_and_that_is_said(job, root, caplog):
    for name in ("s1", "s2"):
        trident(job, name, corners(), vectors(12))
    bring(job, root, "trident", mpp_of={"s1": 0.48, "s2": 0.52}, view=VIEW)
    caplog.set_level(logging.WARNING)
    Store(root).table(f"toynet@{VIEW}", patches="trident-128um", expression=False)
    assert f"toynet@{VIEW}: patches of different slides were cut at um/px from 0.48 to 0.52" in caplog.text


@pytest.mark.parametrize("mpp", [0.25, 0.45, 0.56, 1.0])
def test_a_slide_of_another_scale_is_refused_alone_with_the_ways_in(job, root, mpp):
    for name in ("s1", "far"):
        trident(job, name, corners(), vectors(12))
    said = {"mpp_of": {"s1": 0.5, "far": mpp}}
    report = bring(job, root, "trident", view=VIEW, **said)
    assert [one.slide_id for one in report.done] == ["s1"]
    own = f"{256 * mpp:.4g}um-{mpp:g}"
    why = report.failed[0][1]
    assert f"Import this slide apart, with --view {own}, about the view it was cut at: it gets a key of its own" in why
    assert "or all slides with --view native" in why
    assert "far" not in {path.stem for path in contents(root)}
    apart = bring(job, root, "trident", view=own, **said)
    assert [(one.slide_id, one.key) for one in apart.done] == [("far", f"toynet@{own}")]


def test_level_0_pixels_of_any_scale_share_the_native_view(job, root, caplog, tmp_path):
    slides = {"s1": 0.25, "s2": 0.5}
    for name in slides:
        trident(job, name, corners(step=192), vectors(12), overlap=64)
    report = bring(job, root, "trident", mpp_of=slides, view="native")
    assert {(one.key, one.patches) for one in report.done} == {("toynet@native", "trident-192px-tile256px")}
    store = Store(root)
    caplog.set_level(logging.WARNING)
    assert len(store.table("toynet@native", patches="trident-192px-tile256px", expression=False)) == 24
    assert "toynet@native: patches of different slides were cut at um/px from 0.25 to 0.5" in caplog.text
    headers = [store.header("toynet@native", name, patches="trident-192px-tile256px") for name in slides]
    assert [(header.fov_um, header.mpp, header.upsampling) for header in headers] == [(64, 0.25, 1), (128, 0.5, 1)]
    out = tmp_path / "out"
    code, _, err = run_command(
        "export", root, "--format", "trident", "--out", out, "--patches", "trident-192px-tile256px"
    )
    assert code == 0, err
    back = bring(out, tmp_path / "back", "trident")
    assert {one.key for one in back.done} == {"toynet@native"}
    np.testing.assert_array_equal(
        Store(tmp_path / "back").features("toynet@native", "s1", patches="trident-192px-tile256px"),
        store.features("toynet@native", "s1", patches="trident-192px-tile256px"),
    )


def test_resampled_patches_are_not_native_and_other_sides_are_another_native_key(job, root):
    trident(job, "s1", corners(), vectors(12), patch_size=128)
    assert "are 128 px made from 256 level-0 px, and native ones are not resampled: give the view they were" in refusal(
        bring(job, root, "trident", mpp=0.5, view="native")
    )
    why = refusal(bring(job, root, "trident", mpp=0.25, view=VIEW))
    assert "native" not in why
    trident(job, "s1", corners(), vectors(12))
    assert only(bring(job, root, "trident", mpp=0.5, view="native", patches="a")).key == "toynet@native"
    trident(job, "s2", corners(), vectors(12), patch_size=224, patch_size_level0=224)
    (one,) = bring(job, root, "trident", mpp=0.5, view="native", patches="a").failed
    assert "Store it beside the other with `--as NAME`" in one[1]
