"""Intervals over patients, held against scipy's t, a bootstrap written out, and simulated cohorts."""

import numpy as np
import pytest
from scipy import stats

from tissuary.heads.protocols.scores.intervals import patient_interval


def limits(values, patients, **options):
    found = patient_interval(np.asarray(values, dtype=float), patients, **options)
    return None if found is None else (found.low, found.high)


@pytest.mark.parametrize("n", [5, 8, 29])
def test_few_patients_have_students_t(n):
    values = np.random.default_rng(n).normal(0.3, 0.1, n)
    expected = stats.t.interval(0.95, n - 1, loc=values.mean(), scale=stats.sem(values))
    np.testing.assert_allclose(limits(values, [f"P{i}" for i in range(n)]), expected, rtol=0, atol=1e-12)
    # Each slide twice: the same patients know no more.
    twice = [f"P{i}" for i in range(n)] * 2
    np.testing.assert_allclose(limits(np.tile(values, 2), twice), expected, rtol=0, atol=1e-12)
    found = patient_interval(values, [f"P{i}" for i in range(n)])
    assert (found.n_patients, found.method) == (n, "t")


def test_slides_of_unlike_weight_have_the_variance_of_a_ratio():
    """The residual of a patient is how fast the mean moves with the patient's weight: taken by finite differences."""
    rng = np.random.default_rng(3)
    patients = np.repeat(np.arange(7), [1, 2, 3, 4, 1, 2, 5])
    values, weights = rng.normal(size=len(patients)), rng.uniform(0.5, 2, len(patients))
    mean = np.average(values, weights=weights)
    step = 1e-6
    moved = [np.average(values, weights=weights * (1 + step * (patients == p))) for p in range(7)]
    error = np.sqrt(7 / 6 * np.sum(((np.array(moved) - mean) / step) ** 2))
    expected = stats.t.interval(0.95, 6, loc=mean, scale=error)
    found = limits(values, [f"P{p}" for p in patients], weights=weights)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_many_patients_have_a_bootstrap_with_slides_as_weights():
    rng = np.random.default_rng(5)
    patients = [f"P{i:02}" for i in rng.permutation(np.repeat(np.arange(31), rng.integers(1, 4, 31)))]
    values = rng.normal(0.3, 0.1, len(patients))
    groups = [values[[p == name for p in patients]] for name in sorted(set(patients))]
    drawn = np.random.default_rng(11).integers(31, size=(2000, 31))
    means = [np.concatenate([groups[i] for i in draw]).mean() for draw in drawn]
    expected = np.percentile(means, [2.5, 97.5])
    np.testing.assert_allclose(limits(values, patients, seed=11), expected, rtol=0, atol=1e-12)
    assert patient_interval(values, patients).method == "bootstrap"
    assert limits(values, patients, seed=1) != limits(values, patients, seed=2)
    backwards = limits(values[::-1], patients[::-1], seed=11)
    np.testing.assert_allclose(backwards, expected, rtol=0, atol=1e-12)


def test_at_eight_patients_the_interval_holds_the_truth_as_often_as_it_says():
    """Of 2,000 cohorts 95 % are to hold the mean; four standard errors of that share are 2 %."""
    rng, names = np.random.default_rng(0), list("ABCDEFGH")
    held = [low < 0 < high for low, high in (limits(rng.normal(size=8), names) for _ in range(2000))]
    assert np.mean(held) == pytest.approx(0.95, abs=0.02)


def test_the_interval_starts_at_five_known_patients():
    values, names = [0.1, 0.2, 0.3, 0.4, 0.5], list("ABCDE")
    assert limits(values[:4], names[:4]) is None
    assert limits(values, list("ABCDD")) is None
    assert limits([*values[:4], np.nan], names) is None
    assert limits(values, [*names[:4], "unknown:x"]) is None
    assert limits([], []) is None
    low, high = limits(values, names)
    assert low < 0.3 < high
    assert limits([0.2] * 5, names) == pytest.approx((0.2, 0.2), abs=1e-15)
