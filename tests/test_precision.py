"""Half precision: cast where fp16 holds every column, refused where it does not, as the formula in float64 says."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from tissuary.store.files.precision import CHANCE, COLUMN_TOLERANCE, SILENT_COLUMN, half

MARGIN = 1e-3


def tolerance(rows):
    """Of the error over a spread that was estimated from so many rows, by scipy's chi-squared distribution."""
    return COLUMN_TOLERANCE * np.sqrt((rows - 1) / chi2.ppf(CHANCE, rows - 1)) if rows > 1 else np.inf


def judge(block):
    """Whether fp16 would lose `block`, in float64 throughout, and whether rounding of the judge could change that."""
    values = block.astype(np.float64).reshape(-1, block.shape[-1])
    with np.errstate(over="ignore"):
        cast = values.astype(np.float16).astype(np.float64)
    if not np.isfinite(cast).all():
        return True, False
    error = np.sqrt(((cast - values) ** 2).mean(axis=0))
    spread = values.std(axis=0)
    silent = SILENT_COLUMN * np.median(spread)
    limit = tolerance(len(block)) * np.where(spread > 0, spread, 1.0)
    lost = (spread > silent) & (error > limit)
    near = np.isclose(spread, silent, rtol=MARGIN, atol=0) & (spread > 0)
    near |= np.isclose(error, limit, rtol=MARGIN, atol=0) & (spread > 0)
    return bool(lost.any()), bool(near.any())


def assert_same_decision(block):
    """Hold `half` against the judge; returns whether the block is lost, None where that is too near to tell."""
    lost, near = judge(block)
    if near:
        return None
    found = half(block)
    assert (found is None) == lost
    if found is not None:
        assert found.dtype == np.dtype("<f2")
        np.testing.assert_array_equal(found, block.astype(np.float16))
    return lost


column_scales = st.lists(st.floats(-9, 4), min_size=1, max_size=7)
column_offsets = st.lists(st.floats(-6, 6), min_size=1, max_size=7)


@settings(deadline=None, max_examples=400)
@given(
    rows=st.integers(1, 300),
    tokens=st.sampled_from([None, 1, 49]),
    scales=column_scales,
    offsets=column_offsets,
    constant=st.sets(st.integers(0, 6)),
    seed=st.integers(0, 99),
)
def test_decisions_are_those_of_float64(rows, tokens, scales, offsets, constant, seed):
    """Columns of any scale, some of them constant, at distances of 1e-6 to 1e6 times their scale."""
    dim = max(len(scales), len(offsets))
    scale, offset = 10.0 ** np.resize(scales, dim), 10.0 ** np.resize(offsets, dim)
    scale_of_noise = np.where(np.isin(np.arange(dim), list(constant)), 0.0, scale)
    shape = (rows, dim) if tokens is None else (rows, tokens, dim)
    noise = np.random.default_rng(seed).normal(size=shape)
    assume(assert_same_decision((noise * scale_of_noise + scale * offset).astype(np.float32)) is not None)


@pytest.mark.parametrize("ratio", [0.5, 0.9, 0.98, 1.02, 1.1, 2.0])
@pytest.mark.parametrize("shape", [(256, 5), (64, 49, 5)])
def test_a_column_far_from_zero_is_lost_from_the_tolerance_on(ratio, shape):
    """At 1000, fp16 steps by 1/2: evenly spread values err by 0.5 / sqrt(12), their own spread is width / sqrt(12)."""
    block = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    width = 0.5 / tolerance(shape[0]) / ratio
    even = np.linspace(-width / 2, width / 2, int(np.prod(shape[:-1])), endpoint=False)
    block[..., 2] = (1000 + np.random.default_rng(1).permutation(even)).reshape(shape[:-1])
    assert assert_same_decision(block) == (ratio > 1)


@pytest.mark.parametrize(("largest", "lost"), [(65_519.0, False), (-65_519.0, False), (65_520.0, True), (-7e4, True)])
def test_overflow_is_lost_from_where_rounding_gives_infinity(largest, lost):
    block = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    block[5, 1] = largest
    assert assert_same_decision(block) == lost


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_what_is_not_finite_in_half_precision_is_refused(value):
    block = np.zeros((8, 4), np.float32)
    block[3, 2] = value
    assert half(block) is None


def test_zeros_constants_and_single_rows_are_held():
    for block in (np.zeros((8, 4)), np.full((8, 4), 1234.567), [[0.1, 1000.3, -7e-8]]):
        assert assert_same_decision(np.asarray(block, dtype=np.float32)) is False


def test_noise_of_a_silent_column_is_not_missed():
    """A column of 1000 +- 1e-4 among columns of +- 1 is rounding noise; of 1000 +- 0.1 it is a feature."""
    block = np.random.default_rng(0).normal(size=(256, 8)).astype(np.float32)
    silent, speaking = block.copy(), block.copy()
    silent[:, 3] = 1000 + 1e-4 * block[:, 3]
    speaking[:, 3] = 1000 + 0.1 * block[:, 3]
    assert assert_same_decision(silent) is False
    assert assert_same_decision(speaking)


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 9, 20])
def test_a_short_last_block_does_not_lose_ordinary_features(rows):
    """Among 4,096 columns some agree in a few rows by chance, which is not their spread."""
    for seed in range(10):
        block = np.random.default_rng(seed).normal(1.0, 1.0, size=(rows, 4096)).astype(np.float32)
        assert half(block) is not None


def test_features_too_small_for_half_precision_are_lost():
    """fp16's smallest step is 6e-8."""
    block = np.random.default_rng(0).normal(size=(256, 8)).astype(np.float32)
    assert assert_same_decision(block * np.float32(1e-6)) is False
    assert assert_same_decision(block * np.float32(1e-7))
