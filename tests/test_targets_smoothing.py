import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tissuary.heads.protocols.targets import smooth_3x3
from tissuary.store.errors import ProtocolError, StoreError


def test_a_square_array_with_a_hole_by_hand():
    # 1 2 .        a hole at row 0, column 2
    # 4 5 6
    # 7 8 9
    array = np.array([[0, 0], [0, 1], [1, 0], [1, 1], [1, 2], [2, 0], [2, 1], [2, 2]])
    values = np.array([1.0, 2, 4, 5, 6, 7, 8, 9])
    expected = [12 / 4, 18 / 5, 27 / 6, 42 / 8, 30 / 5, 24 / 4, 39 / 6, 28 / 4]
    smoothed = smooth_3x3(np.stack([values, -values], axis=1), array, np.zeros(8, int))
    np.testing.assert_allclose(smoothed[:, 0], expected, rtol=1e-15)
    np.testing.assert_allclose(smoothed[:, 1], np.negative(expected), rtol=1e-15)


def test_visium_takes_the_diagonals_and_not_the_two_beside():
    array = np.array([[5, 5], [4, 4], [4, 6], [6, 4], [6, 6], [5, 3], [5, 7]])
    values = np.array([1.0, 2, 3, 4, 5, 100, 100])[:, None]
    assert smooth_3x3(values, array, np.zeros(7, int))[0, 0] == pytest.approx(15 / 5)


def test_slides_are_smoothed_apart():
    array = np.array([[0, 0], [0, 0], [0, 1], [0, 1]])
    values = np.array([[1.0], [10], [3], [30]])
    assert smooth_3x3(values, array, np.array([0, 1, 0, 1])).ravel().tolist() == [2, 20, 2, 20]


@given(st.sets(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1), st.integers(0, 99))
@settings(deadline=None)
def test_the_mean_over_what_is_there(positions, seed):
    rng = np.random.default_rng(seed)
    array = rng.permutation(np.array(sorted(positions)))
    values = rng.normal(size=(len(array), 3))
    near = np.abs(array[:, None] - array[None]).max(axis=2) <= 1
    expected = np.stack([values[row].mean(axis=0) for row in near])
    smoothed = smooth_3x3(values, array, np.zeros(len(array), int))
    np.testing.assert_allclose(smoothed, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(smooth_3x3(np.full((len(array), 1), 2.5), array, np.zeros(len(array), int)), 2.5)


def test_without_positions_nothing_is_smoothed():
    with pytest.raises(ProtocolError, match="smoothed over array positions, which a slide lacks"):
        smooth_3x3(np.ones((2, 1)), None, np.zeros(2, int))
    with pytest.raises(StoreError, match="both lie at row 3, column 4"):
        smooth_3x3(np.ones((2, 1)), np.array([[3, 4], [3, 4]]), np.zeros(2, int))
