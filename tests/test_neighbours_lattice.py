"""The window around a spot on its array, by hand and on real arrays."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tissuary.featurize.sources.load import load_cohort
from tissuary.featurize.sources.spots import read_spots
from tissuary.store.errors import StoreError
from tissuary.store.scale import spot_pitch_px
from tissuary.store.spatial.window import array_kind, lattice, window_offsets

ROW_STEP = 100 * 3**0.5 / 2  # of a hexagonal array of 100 um


def square_array(rows, columns, pitch_um=200.0):
    array = np.stack(np.divmod(np.arange(rows * columns), columns), axis=1)
    return array, array[:, ::-1] * pitch_um


def hex_array(rows, columns):
    """Visium: the columns of even rows are even, of odd rows odd; 100 um from spot to spot."""
    array = np.array([(r, c) for r in range(rows) for c in range(2 * columns) if (r + c) % 2 == 0])
    return array, np.stack([array[:, 1] * 50.0, array[:, 0] * ROW_STEP], axis=1)


def staggered_array(rows, columns, pitch_um=150.0):
    array, _ = hex_array(rows, columns)
    return array, array[:, ::-1] * pitch_um / 2**0.5


ARRAYS = {"square": square_array, "hex": hex_array, "staggered": staggered_array}


def test_a_square_of_nine_by_hand():
    array, center_um = square_array(3, 3)
    found = lattice(array, 3, center_um=center_um)
    assert found.index[4].tolist() == list(range(9))  # row by row, itself in the middle
    diagonal = 200 * 2**0.5
    np.testing.assert_allclose(found.distance[4], [diagonal, 200, diagonal, 200, 0, 200, diagonal, 200, diagonal])
    corner = np.array([False, False, False, False, True, True, False, True, True])
    assert found.mask[0].tolist() == corner.tolist()
    assert found.index[0].tolist() == [0, 0, 0, 0, 0, 1, 0, 3, 4]
    assert found.mask[8].tolist() == corner[::-1].tolist()
    assert found.mask[2].tolist() == [False, False, False, True, True, False, True, True, False]  # not the next row's
    assert np.isinf(found.distance[0][~corner]).all()
    without = lattice(array, 3, center_um=center_um, self_included=False)
    assert without.index[4].tolist() == [0, 1, 2, 3, 5, 6, 7, 8]


def test_a_hexagonal_spot_has_six_neighbours_at_its_pitch():
    array, center_um = hex_array(7, 7)
    row = array.tolist().index([3, 7])
    found = lattice(array, 3, center_um=center_um, kind="hex")
    assert array[found.index[row]].tolist() == [[2, 6], [2, 8], [3, 5], [3, 7], [3, 9], [4, 6], [4, 8]]
    np.testing.assert_allclose(found.distance[row], [100, 100, 100, 0, 100, 100, 100], rtol=1e-6)
    wider = lattice(array, 5, center_um=center_um, kind="hex")
    assert (wider.k, wider.mask[row].sum()) == (19, 19)
    away = np.sort(wider.distance[row])
    np.testing.assert_allclose(away, [0] + [100] * 6 + [100 * 3**0.5] * 6 + [200] * 6, rtol=1e-6)
    corner = lattice(array, 3, center_um=center_um, kind="hex", self_included=False)
    assert array[corner.index[0][corner.mask[0]]].tolist() == [[0, 2], [1, 1]]


def test_a_staggered_array_is_a_square_one_on_its_corner():
    array, center_um = staggered_array(9, 9)
    row = array.tolist().index([4, 8])
    found = lattice(array, 3, center_um=center_um, self_included=False)
    steps = array[found.index[row]] - array[row]
    assert steps.tolist() == [[-2, 0], [-1, -1], [-1, 1], [0, -2], [0, 2], [1, -1], [1, 1], [2, 0]]
    np.testing.assert_allclose(np.sort(found.distance[row]), [150] * 4 + [150 * 2**0.5] * 4, rtol=1e-6)


@pytest.mark.parametrize(("kind", "places"), [("square", 25), ("staggered", 25), ("hex", 19)])
def test_offsets_run_row_by_row_around_the_middle(kind, places):
    offsets = window_offsets(5, kind=kind).tolist()
    assert len(offsets) == places
    assert offsets == sorted(offsets)
    assert offsets[places // 2] == [0, 0]
    assert offsets[::-1] == [[-row, -column] for row, column in offsets]
    assert window_offsets(1, kind=kind).tolist() == [[0, 0]]


@settings(deadline=None, max_examples=60)
@given(
    kind=st.sampled_from(sorted(ARRAYS)), k=st.sampled_from([1, 3, 5, 7]), seed=st.integers(0, 99),
    slides=st.integers(1, 3),
)  # fmt: skip
def test_each_place_is_the_spot_at_its_offset_or_masked(kind, k, seed, slides):
    rng = np.random.default_rng(seed)
    parts, centers, slide = [], [], []
    for number in range(slides):  # each with holes, its own corner and its own order
        array, center_um = ARRAYS[kind](6, 5)
        kept = rng.permutation(len(array))[:20]
        parts.append(array[kept] + 2 * rng.integers(-9, 9, size=2))
        centers.append(center_um[kept])
        slide += [number] * len(kept)
    order = rng.permutation(len(slide))
    array, center_um, slide = np.concatenate(parts)[order], np.concatenate(centers)[order], np.array(slide)[order]
    found = lattice(array, k, center_um=center_um, kind=kind, slide=slide)
    at = {(s, *position): row for row, (s, position) in enumerate(zip(slide.tolist(), array.tolist(), strict=True))}
    for row in range(len(array)):
        for place, (down, across) in enumerate(window_offsets(k, kind=kind).tolist()):
            other = at.get((int(slide[row]), int(array[row, 0]) + down, int(array[row, 1]) + across))
            assert bool(found.mask[row, place]) == (other is not None)
            assert found.index[row, place] == (other or 0)
            if other is not None:
                away = np.linalg.norm(center_um[other] - center_um[row])
                assert found.distance[row, place] == pytest.approx(away, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("kind", sorted(ARRAYS))
def test_auto_knows_the_kind_by_parity_and_by_the_length_of_steps(kind):
    array, center_um = ARRAYS[kind](8, 8)
    rng = np.random.default_rng(0)
    turn = np.array([[0.8, -0.6], [0.6, 0.8]])
    center_um = (center_um + rng.normal(0, 3, size=center_um.shape)) @ turn
    assert array_kind(array, center_um=center_um) == kind
    aside = array + np.array([0, 1])  # where row + column is odd everywhere
    assert array_kind(aside, center_um=center_um) == kind
    two = np.concatenate([array, aside])
    slide = np.repeat([0, 1], len(array))
    assert array_kind(two, center_um=np.concatenate([center_um] * 2), slide=slide) == kind
    found = lattice(array, 3, center_um=center_um)
    np.testing.assert_array_equal(found.index, lattice(array, 3, center_um=center_um, kind=kind).index)


def test_a_spot_alone_counts_as_square_and_has_itself():
    found = lattice(np.array([[4, 4]]), 3, center_um=np.array([[1.0, 2.0]]))
    assert found.mask.tolist() == [[False] * 4 + [True] + [False] * 4]
    assert lattice(np.empty((0, 2), dtype=int), 3, center_um=np.empty((0, 2))).index.shape == (0, 9)


def test_the_two_spots_at_one_position_are_named():
    array, center_um = square_array(3, 3)
    array[7] = array[3]
    with pytest.raises(StoreError, match="spots 3 and 7 both lie at row 1, column 0 of the array"):
        lattice(array, 3, center_um=center_um)
    slide = np.array([0] * 7 + [1] * 2)  # on another slide it is another place
    assert lattice(array, 3, center_um=center_um, slide=slide).mask[7].sum() == 1


def test_swapped_rows_and_columns_are_noticed():
    array, center_um = hex_array(8, 8)
    with pytest.raises(StoreError, match=r"1\.73 times a diagonal one.*swapped"):
        lattice(array[:, ::-1], 3, center_um=center_um)


def test_what_cannot_be_a_window_is_named():
    array, center_um = square_array(3, 3)
    for k in (0, 4, -1, 2.5):
        with pytest.raises(StoreError, match=f"a window of side {k} has no middle"):
            lattice(array, k, center_um=center_um)
    with pytest.raises(StoreError, match="array kind 'cube': choose square, staggered, hex or auto"):
        lattice(array, 3, center_um=center_um, kind="cube")
    for kind in ("hex", "staggered"):
        with pytest.raises(StoreError, match=f"this is no {kind} array, whose columns step by two"):
            lattice(array, 3, center_um=center_um, kind=kind)
    with pytest.raises(StoreError, match=r"wanted whole numbers \(n, 2\)"):
        lattice(array * 1.0, 3, center_um=center_um)
    with pytest.raises(StoreError, match="no array is that large"):
        lattice(array.astype(np.int64) << 40, 3, center_um=center_um)
    with pytest.raises(StoreError, match="9 array positions for 2 spots"):
        lattice(array, 3, center_um=center_um[:2])


def test_spots_of_her2st_have_eight_around_them(real_data):
    cohort = load_cohort(real_data / "her2st", pitch_um=200)
    spots = next(sample for sample in cohort.samples if sample.slide_id == "C2").read_measured().spots
    center_um = spots.center_px * 200 / spot_pitch_px(spots.center_px, spots.array)
    assert array_kind(spots.array, center_um=center_um) == "square"
    found = lattice(spots.array, 3, center_um=center_um, self_included=False)
    taken = set(map(tuple, spots.array.tolist()))
    around = [sum((r + i, c + j) in taken for i in (-1, 0, 1) for j in (-1, 0, 1)) - 1 for r, c in spots.array.tolist()]
    assert found.mask.sum(1).tolist() == around
    interior = found.mask.all(axis=1)
    assert interior.sum() > 80
    assert found.mask.sum(1).min() < 8  # the section has borders
    assert 190 < np.median(found.distance[interior][:, [1, 3, 4, 6]]) < 210
    assert 270 < np.median(found.distance[interior][:, [0, 2, 5, 7]]) < 296


def test_the_olfactory_bulb_is_staggered(real_data):
    for i, n_spots in enumerate((379, 407, 438, 403), 1):
        spots = read_spots(real_data / "mob" / f"alignment_table_MOB{i}.tsv")
        assert len(spots.barcode) == n_spots
        center_um = spots.center_px * 150 / spot_pitch_px(spots.center_px, spots.array)
        assert array_kind(spots.array, center_um=center_um) == "staggered"
        found = lattice(spots.array, 3, center_um=center_um, self_included=False)
        interior = found.mask.all(axis=1)
        assert interior.sum() > 200
        steps = np.median(found.distance[interior], axis=0)
        assert (np.abs(steps[[1, 2, 5, 6]] - 150) < 10).all()  # diagonals, at the pitch
        assert (np.abs(steps[[0, 3, 4, 7]] - 212) < 20).all()


def test_slides_on_different_arrays_are_refused_together():
    square = np.stack(np.divmod(np.arange(36), 6), axis=1)
    hexagonal = np.array([[r, 2 * c + r % 2] for r in range(6) for c in range(6)])
    positions = np.concatenate([square * 200.0, hexagonal[:, ::-1] * [50.0, 86.6]])
    array, slide = np.concatenate([square, hexagonal]), np.repeat([0, 1], 36)
    with pytest.raises(
        StoreError, match=r"slides lie on different arrays \(hex, square\): take windows slide by slide"
    ):
        array_kind(array, center_um=positions, slide=slide)
    assert array_kind(square, center_um=positions[:36]) == "square"
    assert array_kind(hexagonal, center_um=positions[36:]) == "hex"
    few = np.array([[0, 0], [0, 2], [1, 1]])  # three spots of a square array, even by chance
    both = np.concatenate([square, few])
    assert array_kind(both, center_um=both * 200.0, slide=np.repeat([0, 1], [36, 3])) == "square"
