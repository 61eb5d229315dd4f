"""95 % intervals of a mean over slides, with the patient as the unit that is drawn.

Slides of one patient are alike, so that the number of patients says how much is known, not the number of slides. The
percentile bootstrap is too narrow for few patients: it resamples a spread whose divisor is n instead of n - 1, and
its percentiles are those of a normal distribution. At 8 patients it has 78 % of the width of Student's t interval, at
30 patients 94 %. So t is used below 30 patients and the bootstrap from there on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ....store.arrays import Floats
from ....store.naming import UNKNOWN_PATIENT

MIN_PATIENTS_FOR_INTERVAL = 5
MIN_PATIENTS_FOR_BOOTSTRAP = 30
BOOTSTRAP_DRAWS = 2000
COVERAGE = 0.95

Method = Literal["t", "bootstrap"]


@dataclass(frozen=True)
class Interval:
    """A 95 % interval.

    Attributes
    ----------
    low, high
        Its ends.
    n_patients
        Patients with a defined value.
    method
        "t": Student's t with n_patients - 1 degrees of freedom; "bootstrap": percentiles of 2,000 resampled cohorts.
    """

    low: float
    high: float
    n_patients: int
    method: Method

    @property
    def excludes_zero(self) -> bool:
        """Whether both ends are above 0, or both below."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class _PatientSums:
    """Sums over each patient's slides, patients sorted by name so that the order of folds does not matter.

    Attributes
    ----------
    values, weights
        Sum of weight times value, and of weights, (n_patients,).
    known
        Whether every patient has a name.
    """

    values: Floats
    weights: Floats
    known: bool

    def __len__(self) -> int:
        return len(self.values)

    @property
    def mean(self) -> float:
        return float(self.values.sum() / self.weights.sum())


def patient_interval(
    values: Floats, patients: Sequence[str], *, weights: Floats | None = None, seed: int = 0
) -> Interval | None:
    """Return the 95 % interval of the mean over slides, by Student's t below 30 patients, else by the bootstrap.

    Parameters
    ----------
    values
        One value per slide, NaN where it is undefined, (n_slides,): a score, or the difference of two heads' scores.
    patients
        The patient of each slide.
    weights
        Weight of each slide in the mean, (n_slides,); equal where None.
    seed
        Of the bootstrap.

    Returns
    -------
    Interval or None
        None where fewer than five patients have a defined value, since the spread between patients is then hardly
        known, or where a patient is unknown, since slides of one patient might count as several.
    """
    sums = _sums(values, patients, weights)
    if len(sums) < MIN_PATIENTS_FOR_INTERVAL or not sums.known:
        return None
    method: Method = "t" if len(sums) < MIN_PATIENTS_FOR_BOOTSTRAP else "bootstrap"
    low, high = _t_limits(sums) if method == "t" else _bootstrap_limits(sums, seed=seed)
    return Interval(low, high, len(sums), method)


def _sums(values: Floats, patients: Sequence[str], weights: Floats | None) -> _PatientSums:
    share = np.ones(len(values)) if weights is None else weights
    defined = ~np.isnan(values) & (share > 0)
    names, patient = np.unique(np.asarray(patients, dtype=str)[defined], return_inverse=True)
    of_values, of_weights = np.zeros(len(names)), np.zeros(len(names))
    np.add.at(of_values, patient, values[defined] * share[defined])
    np.add.at(of_weights, patient, share[defined])
    return _PatientSums(of_values, of_weights, not any(name.startswith(UNKNOWN_PATIENT) for name in names))


def _t_limits(sums: _PatientSums) -> tuple[float, float]:
    """Ends of Student's t interval of a ratio of sums over patients, sum(S) / sum(W).

    Its variance is linearised: n / (n - 1) * sum((S - mean * W)^2) / sum(W)^2 (Cochran, Sampling Techniques, 3rd ed.,
    section 6.4, without the correction for a finite population). Where all patients weigh alike this is the usual t
    interval of the patients' means.
    """
    from scipy.special import stdtrit

    n, mean = len(sums), sums.mean
    residuals = sums.values - mean * sums.weights  # (n_patients,), they sum to 0
    error = np.sqrt(n / (n - 1) * np.sum(residuals**2)) / sums.weights.sum()
    half = float(stdtrit(n - 1, (1 + COVERAGE) / 2) * error)
    return mean - half, mean + half


def _bootstrap_limits(sums: _PatientSums, *, seed: int) -> tuple[float, float]:
    """Percentiles of the mean when as many patients are drawn with replacement."""
    drawn = np.random.default_rng(seed).integers(len(sums), size=(BOOTSTRAP_DRAWS, len(sums)))
    # Slides keep their weight in every drawn cohort, as in the score itself.
    means = sums.values[drawn].sum(axis=1) / sums.weights[drawn].sum(axis=1)  # (draws,)
    low, high = np.percentile(means, [50 * (1 - COVERAGE), 50 * (1 + COVERAGE)])
    return float(low), float(high)
