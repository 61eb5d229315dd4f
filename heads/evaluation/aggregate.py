"""From folds to the one line of the leaderboard: weighted means, scores per patient, intervals over patients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...store.arrays import Floats
from ...store.errors import ProtocolError
from ...store.naming import UNKNOWN_PATIENT
from .metrics import FoldScore, mean_of_defined

MIN_PATIENTS_FOR_INTERVAL = 5
BOOTSTRAP_DRAWS = 2000
INTERVAL_PERCENTILES = (2.5, 97.5)


@dataclass(frozen=True)
class ScoredFold:
    """The score of one fold and the patients behind it.

    Parameters
    ----------
    name
        The fold's name.
    patients
        The patient of each test slide, in the order of `score.slides`.
    score
        What `score_fold` returned.
    """

    name: str
    patients: tuple[str, ...]
    score: FoldScore


@dataclass(frozen=True)
class Aggregate:
    """The record of fold ``"all"``.

    Parameters
    ----------
    n_slides
        Number of test slides over all folds.
    pcc_slide_mean, pcc_slide_median, pcc_heg50, pcc_hvg50, mse, mae
        Means over folds weighted by test slides. A slide on which no gene is defined has no correlation to weigh; it
        is counted in `nan_slides`.
    pcc_pooled
        Unweighted mean over folds.
    nan_genes, nan_slides, constant
        Sums over folds, and whether any fold is flagged.
    per_patient
        Mean over a patient's test slides of the slide's mean over genes; NaN where none is defined.
    pcc_slide_mean_low, pcc_slide_mean_high
        Bootstrap interval over patients; None below five patients.
    """

    n_slides: int
    pcc_slide_mean: float
    pcc_slide_median: float
    pcc_pooled: float
    pcc_heg50: float
    pcc_hvg50: float
    mse: float
    mae: float
    nan_genes: int
    nan_slides: int
    constant: bool
    per_patient: dict[str, float]
    pcc_slide_mean_low: float | None
    pcc_slide_mean_high: float | None


def aggregate(folds: Sequence[ScoredFold], *, seed: int = 0) -> Aggregate:
    """Return the record of fold ``"all"``.

    Parameters
    ----------
    folds
        All folds of one head under one protocol.
    seed
        Of the bootstrap over patients.

    Raises
    ------
    ProtocolError
        Without folds, or with a fold that does not name the patient of each test slide.
    """
    _check(folds)
    scores = [fold.score for fold in folds]
    patients = [patient for fold in folds for patient in fold.patients]
    slide_mean = np.concatenate([score.slide_mean for score in scores])  # (n_slides,)
    test_slides = [len(score.slides) for score in scores]
    low, high = bootstrap_interval(slide_mean, patients, seed=seed) or (None, None)
    return Aggregate(
        n_slides=len(slide_mean),
        pcc_slide_mean=_over_slides(slide_mean),
        pcc_slide_median=_over_slides(np.concatenate([score.slide_median for score in scores])),
        pcc_pooled=float(mean_of_defined(np.array([score.pcc_pooled for score in scores]))),
        pcc_heg50=_over_slides(np.concatenate([score.slide_heg50 for score in scores])),
        pcc_hvg50=_over_slides(np.concatenate([score.slide_hvg50 for score in scores])),
        mse=float(np.average([score.mse for score in scores], weights=test_slides)),
        mae=float(np.average([score.mae for score in scores], weights=test_slides)),
        nan_genes=sum(score.nan_genes for score in scores),
        nan_slides=sum(score.nan_slides for score in scores),
        constant=any(score.constant for score in scores),
        per_patient=per_patient(slide_mean, patients),
        pcc_slide_mean_low=low,
        pcc_slide_mean_high=high,
    )


def per_patient(slide_values: Floats, patients: Sequence[str]) -> dict[str, float]:
    """Return the mean over each patient's slides, patients in order of first appearance, NaN where none is defined.

    Parameters
    ----------
    slide_values
        One value per slide, NaN where it is undefined, (n_slides,).
    patients
        The patient of each slide.
    """
    of = np.asarray(patients, dtype=str)
    return {patient: float(mean_of_defined(slide_values[of == patient])) for patient in dict.fromkeys(patients)}


def bootstrap_interval(
    slide_values: Floats, patients: Sequence[str], *, draws: int = BOOTSTRAP_DRAWS, seed: int = 0
) -> tuple[float, float] | None:
    """Return the percentile interval of the mean over slides when whole patients are drawn with replacement.

    Parameters
    ----------
    slide_values
        One value per slide, NaN where it is undefined, (n_slides,): a score, or the difference of two heads' scores.
    patients
        The patient of each slide.
    draws, seed
        How many cohorts are drawn, and the seed they are drawn with.

    Returns
    -------
    tuple of float or None
        The 2.5th and 97.5th percentile; None where fewer than five patients have a defined value, for then the
        bootstrap has too few different cohorts to draw from, or where a patient is unknown, for then slides of one
        patient may be drawn as several.
    """
    defined = ~np.isnan(slide_values)
    # Sorted patients: the interval does not depend on the order of folds.
    names, patient = np.unique(np.asarray(patients, dtype=str)[defined], return_inverse=True)
    if len(names) < MIN_PATIENTS_FOR_INTERVAL or any(name.startswith(UNKNOWN_PATIENT) for name in names):
        return None
    sums = np.bincount(patient, weights=slide_values[defined])  # (n_patients,)
    counts = np.bincount(patient)
    drawn = np.random.default_rng(seed).integers(len(names), size=(draws, len(names)))
    # Slides keep their weight in every drawn cohort, as in the score itself.
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)  # (draws,)
    low, high = np.percentile(means, INTERVAL_PERCENTILES)
    return float(low), float(high)


def _over_slides(slide_values: Floats) -> float:
    """Mean over all slides: the mean over folds weighted by their test slides."""
    return float(mean_of_defined(slide_values))


def _check(folds: Sequence[ScoredFold]) -> None:
    if not folds:
        msg = "There is no fold to aggregate; score at least one."
        raise ProtocolError(msg)
    for fold in folds:
        if len(fold.patients) != len(fold.score.slides):
            msg = (
                f"Fold {fold.name!r} names {len(fold.patients)} patients for {len(fold.score.slides)} test slides; "
                "give the patient of each test slide."
            )
            raise ProtocolError(msg)
