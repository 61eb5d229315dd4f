import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tissuary.store.errors import ScaleError
from tissuary.store.scale import resolve_scale, spot_pitch_px


def grid(rows, columns):
    return np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), axis=-1).reshape(-1, 2)


def placed(array, *, right, down, origin=(500.0, 300.0)):
    """Centres where one column is the pixel vector `right` and one row the pixel vector `down`."""
    return np.array(origin) + array[:, 1:] * np.array(right) + array[:, :1] * np.array(down)


def staggered(rows, columns):
    """Only positions whose row and column are both even or both odd."""
    array = grid(rows, columns)
    return array[array.sum(axis=1) % 2 == 0]


def test_pitch_of_a_square_array():
    array = grid(9, 7)
    assert spot_pitch_px(placed(array, right=(290, 0), down=(0, 290)), array) == pytest.approx(290, rel=1e-12)


def test_pitch_of_an_oblong_array_is_the_shorter_step():
    array = grid(9, 7)
    assert spot_pitch_px(placed(array, right=(120, 0), down=(0, 100)), array) == pytest.approx(100, rel=1e-12)


def test_pitch_of_a_hexagonal_array():
    # Visium: along a row spots are two columns apart, rows sqrt(3)/2 of the pitch apart and shifted by one column.
    array = staggered(20, 24)
    centers = placed(array, right=(50, 0), down=(0, 100 * math.sqrt(3) / 2))
    assert spot_pitch_px(centers, array) == pytest.approx(100, rel=1e-12)


def test_pitch_of_a_staggered_array_is_its_diagonal():
    array = staggered(20, 24) + np.array([3, 5])
    centers = placed(array, right=(24, 0), down=(0, 21))
    assert spot_pitch_px(centers, array) == pytest.approx(math.hypot(24, 21), rel=1e-12)


def test_pitch_is_not_short_on_jittered_centres():
    array = grid(20, 20)
    jitter = np.random.default_rng(0).normal(0, 15, (400, 2))
    centers = placed(array, right=(290, 3), down=(-3, 290)) + jitter
    expected = math.hypot(290, 3)
    assert spot_pitch_px(centers, array) == pytest.approx(expected, rel=0.002)
    gaps = np.linalg.norm(centers[:, None] - centers[None], axis=2) + np.diag(np.full(400, np.inf))
    assert np.median(gaps.min(axis=1)) < 0.96 * expected  # what the nearest neighbour would have said


def test_pitch_uses_only_vectors_that_join_two_spots():
    array = grid(5, 5) * [2, 3]  # every second row and third column was measured
    assert spot_pitch_px(placed(array, right=(40, 0), down=(0, 50)), array) == pytest.approx(100, rel=1e-12)


def test_pitch_looks_as_far_as_a_sheared_array_needs():
    # One row down and nine columns left is the shortest way between two spots: (5, 4) px.
    array = grid(30, 30)
    centers = placed(array, right=(10, 0), down=(95, 4))
    assert spot_pitch_px(centers, array) == pytest.approx(math.hypot(5, 4), rel=1e-9)


def test_pitch_of_spots_on_one_line():
    array = np.array([[4, 0], [4, 3], [4, 5]])
    centers = np.array([[0.0, 0.0], [30.0, 40.0], [50.0, 200 / 3]])
    assert spot_pitch_px(centers, array) == pytest.approx(2 * math.hypot(10, 40 / 3), rel=1e-12)


def test_pitch_of_two_spots():
    assert spot_pitch_px(np.array([[0.0, 0.0], [3.0, 4.0]]), np.array([[0, 0], [1, 1]])) == pytest.approx(5)


@settings(max_examples=40, deadline=None)
@given(angle=st.floats(0, 2 * math.pi), factor=st.floats(0.05, 20), mirrored=st.booleans(), seed=st.integers(0, 2**16))
def test_pitch_follows_rotation_mirroring_and_magnification(angle, factor, mirrored, seed):
    rng = np.random.default_rng(seed)
    array = staggered(12, 14)[rng.permutation(84)[:60]]
    centers = placed(array, right=(24, 0), down=(0, 21)) + rng.normal(0, 1, (60, 2))
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]) * factor
    turn = turn @ np.diag([-1.0, 1.0]) if mirrored else turn
    expected = factor * spot_pitch_px(centers, array)
    assert spot_pitch_px(centers @ turn.T + rng.normal(0, 1000, 2), array) == pytest.approx(expected, rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_pitch_is_that_of_trying_all_pairs(seed):
    rng = np.random.default_rng(seed)
    array = np.unique(rng.integers(-4, 9, (int(rng.integers(2, 12)), 2)), axis=0)
    transform = rng.normal(0, 30, (2, 2))
    centers = array[:, ::-1] @ transform.T
    gaps = [np.linalg.norm(a - b) for i, a in enumerate(centers) for b in centers[:i]]
    if not gaps:
        return
    assert spot_pitch_px(centers, array) == pytest.approx(min(gaps), rel=1e-6)


def test_pitch_of_an_array_whose_pairs_would_not_fit_in_memory():
    array = staggered(400, 400)  # 80,000 spots
    assert spot_pitch_px(placed(array, right=(30, 0), down=(0, 40)), array) == pytest.approx(50, rel=1e-9)


@pytest.mark.parametrize("array", [[[2, 3]], [[2, 3], [2, 3]]])
def test_pitch_needs_two_positions(array):
    with pytest.raises(ScaleError, match=rf"{len(array)} spot\(s\) at one array position.*--mpp"):
        spot_pitch_px(np.zeros((len(array), 2)), np.array(array))


def test_pitch_refuses_pixels_that_do_not_follow_the_array():
    array = grid(12, 12)
    centers = placed(array, right=(100, 0), down=(0, 100))
    with pytest.raises(ScaleError, match="do not follow the array positions"):
        spot_pitch_px(np.random.default_rng(0).permutation(centers), array)


def test_pitch_refuses_positions_that_are_no_array():
    with pytest.raises(ScaleError, match="span 1000000001 x 2000000001 rows and columns"):
        spot_pitch_px(np.eye(2), np.array([[0, 0], [10**9, 2 * 10**9]], dtype=np.int32))


@pytest.mark.parametrize(
    ("claims", "source", "mpp"),
    [
        ({"manifest": 0.5, "command_line": 0.51, "metadata": 0.49}, "manifest", 0.5),
        ({"command_line": 0.51, "metadata": 0.5}, "command line", 0.51),
        ({"metadata": 0.499, "pitch_um": 100, "pitch_px": 200}, "metadata", 0.499),
        ({"pitch_um": 200, "pitch_px": 290}, "spot pitch", 200 / 290),
        ({"command_line": 0.7, "pitch_um": 200}, "command line", 0.7),
    ],
)
def test_of_candidates_that_agree_the_first_is_taken(claims, source, mpp):
    scale = resolve_scale("C2", **claims)
    assert (scale.source, scale.mpp) == (source, pytest.approx(mpp))


def test_all_candidates_are_kept():
    scale = resolve_scale("C2", manifest=0.69, metadata=0.7, pitch_um=200, pitch_px=290)
    assert scale.candidates == {"manifest": 0.69, "metadata": 0.7, "spot pitch": pytest.approx(200 / 290)}


def test_five_percent_is_agreement_and_more_is_not():
    assert resolve_scale("s", command_line=1.0, metadata=1.0499).mpp == 1.0
    with pytest.raises(ScaleError, match="more than 5%"):
        resolve_scale("s", command_line=1.0, metadata=1.0501)


def test_a_contradiction_names_every_candidate():
    with pytest.raises(
        ScaleError,
        match=r"slide C2: .*contradict.* manifest 0\.5, command line 0\.51, metadata 0\.69, spot pitch 0\.6897 "
        r"\(spot pitch: 200 um over 290\.0 px\).*--mpp, --pitch-um",
    ):
        resolve_scale("C2", manifest=0.5, command_line=0.51, metadata=0.69, pitch_um=200, pitch_px=290)


def test_an_unknown_scale_names_the_options():
    with pytest.raises(ScaleError, match=r"slide C2: no um/px is known.* 290\.0 px apart.*--mpp X.*--pitch-um X"):
        resolve_scale("C2", pitch_px=290)


def test_a_pitch_without_array_says_so():
    with pytest.raises(ScaleError, match=r"spot pitch of 200 um was declared, but .*no spots with array.*--mpp"):
        resolve_scale("C2", pitch_um=200)


@pytest.mark.parametrize("dpi", [72, 96, 300])
def test_a_print_resolution_is_no_scale_but_is_remembered(dpi):
    mpp = 25400 / dpi
    with pytest.raises(ScaleError, match=rf"no um/px is known.*metadata say {mpp:g} um/px, which is no slide's scale"):
        resolve_scale("C2", metadata=mpp)
    scale = resolve_scale("C2", metadata=mpp, command_line=0.5)
    assert scale.candidates == {"command line": 0.5}


@pytest.mark.parametrize(
    ("claims", "name"),
    [
        ({"manifest": 0.0}, r"um/px of the manifest is 0; a slide has 0\.05 to 20"),
        ({"command_line": -1.0}, r"um/px of the command line is -1; a slide has 0\.05 to 20"),
        ({"command_line": math.nan}, r"um/px of the command line is nan; a slide has 0\.05 to 20"),
        ({"manifest": 499.0}, r"um/px of the manifest is 499; a slide has 0\.05 to 20"),  # nm for um
        ({"pitch_um": math.inf, "pitch_px": 3.0}, "spot pitch in um is inf; wanted a positive number"),
    ],
)
def test_a_declared_scale_must_be_a_slides(claims, name):
    with pytest.raises(ScaleError, match=f"slide s: {name}"):
        resolve_scale("s", **claims)
