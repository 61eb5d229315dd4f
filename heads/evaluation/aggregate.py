"""From folds to the one line of the leaderboard: weighted means, scores per patient, intervals over patients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...store.arrays import Floats
from ...store.errors import ProtocolError
from ...store.naming import UNKNOWN_PATIENT
from .defined import mean_of_defined
from .fold_score import FoldScore
from .scores import SCORE_RULES, NamedScores

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
class Aggregate(NamedScores):
    """The record of fold ``"all"``.

    Parameters
    ----------
    n_slides
        Number of test slides over all folds.
    scores
        By name, as `SCORE_RULES` lists them; each is an attribute too. Means over folds weighted by test slides, those
        made over genes of a whole fold unweighted. A slide on which a score is undefined weighs nothing in it, and is
        counted in `undefined`; so is a fold in `nan_folds`.
    intervals
        For each score that is a mean over slides or spots, the bootstrap interval over patients; a score without one
        is absent, and all are below five patients.
    undefined
        For each such score, the number of slides left out.
    nan_genes, nan_slides, nan_spots, nan_pooled_genes, constant
        Sums over folds, and whether any fold is flagged.
    nan_folds
        Number of folds left out of the pooled scores because no gene is defined.
    per_patient
        Mean over a patient's test slides of the slide's mean over genes; NaN where none is defined.
    """

    n_slides: int
    scores: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    undefined: Mapping[str, int]
    nan_genes: int
    nan_slides: int
    nan_spots: int
    nan_pooled_genes: int
    nan_folds: int
    constant: bool
    per_patient: dict[str, float]

    @property
    def pcc_slide_mean_low(self) -> float | None:
        """Lower end of the headline's interval; None below five patients."""
        return self._end("pcc_slide_mean", 0)

    @property
    def pcc_slide_mean_high(self) -> float | None:
        """Upper end of the headline's interval; None below five patients."""
        return self._end("pcc_slide_mean", 1)

    def _end(self, name: str, end: int) -> float | None:
        interval = self.intervals.get(name)
        return None if interval is None else interval[end]


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
    check_folds(folds)
    fold_scores = [fold.score for fold in folds]
    patients = patients_of(folds)
    scores: dict[str, float] = {}
    intervals: dict[str, tuple[float, float]] = {}
    for name, rule in SCORE_RULES.items():
        if rule.over == "genes":
            scores[name] = float(mean_of_defined(np.array([score.scores[name] for score in fold_scores])))
            continue
        values, weights = slide_values(folds, name)
        scores[name] = float(mean_of_defined(values, weights=weights))
        interval = bootstrap_interval(values, patients, weights=weights, seed=seed)
        if interval is not None:
            intervals[name] = interval
    return Aggregate(
        n_slides=len(patients),
        scores=scores,
        intervals=intervals,
        undefined={name: sum(score.undefined[name] for score in fold_scores) for name in fold_scores[0].undefined},
        nan_genes=sum(score.nan_genes for score in fold_scores),
        nan_slides=sum(score.nan_slides for score in fold_scores),
        nan_spots=sum(score.nan_spots for score in fold_scores),
        nan_pooled_genes=sum(score.nan_pooled_genes for score in fold_scores),
        nan_folds=sum(bool(np.isnan(score.pooled).all()) for score in fold_scores),
        constant=any(score.constant for score in fold_scores),
        per_patient=per_patient(slide_values(folds, "pcc_slide_mean")[0], patients),
    )


def slide_values(folds: Sequence[ScoredFold], name: str) -> tuple[Floats, Floats]:
    """Return a score on each test slide of all folds, NaN where undefined, and what it weighs, (n_slides,) each.

    Raises
    ------
    ProtocolError
        If the score has no value per slide.
    """
    weights = np.concatenate([fold.score.weights(name) for fold in folds])
    return np.concatenate([fold.score.by_slide[name] for fold in folds]), weights


def patients_of(folds: Sequence[ScoredFold]) -> list[str]:
    """Return the patient of each test slide of all folds."""
    return [patient for fold in folds for patient in fold.patients]


def per_patient(values: Floats, patients: Sequence[str], *, weights: Floats | None = None) -> dict[str, float]:
    """Return the mean over each patient's slides, patients in order of first appearance, NaN where none is defined.

    Parameters
    ----------
    values
        One value per slide, NaN where it is undefined, (n_slides,).
    patients
        The patient of each slide.
    weights
        What each slide weighs, (n_slides,); all alike where None.
    """
    of = np.asarray(patients, dtype=str)
    share = np.ones(len(values)) if weights is None else weights
    return {
        patient: float(mean_of_defined(values[of == patient], weights=share[of == patient]))
        for patient in dict.fromkeys(patients)
    }


def bootstrap_interval(
    values: Floats,
    patients: Sequence[str],
    *,
    weights: Floats | None = None,
    draws: int = BOOTSTRAP_DRAWS,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Return the percentile interval of the mean over slides when whole patients are drawn with replacement.

    Parameters
    ----------
    values
        One value per slide, NaN where it is undefined, (n_slides,): a score, or the difference of two heads' scores.
    patients
        The patient of each slide.
    weights
        What each slide weighs in the mean, (n_slides,); all alike where None.
    draws, seed
        How many cohorts are drawn, and the seed they are drawn with.

    Returns
    -------
    tuple of float or None
        The 2.5th and 97.5th percentile; None where fewer than five patients have a defined value, for then the
        bootstrap has too few different cohorts to draw from, or where a patient is unknown, for then slides of one
        patient may be drawn as several.
    """
    share = np.ones(len(values)) if weights is None else weights
    defined = ~np.isnan(values) & (share > 0)
    # Sorted patients: the interval does not depend on the order of folds.
    names, patient = np.unique(np.asarray(patients, dtype=str)[defined], return_inverse=True)
    if len(names) < MIN_PATIENTS_FOR_INTERVAL or any(name.startswith(UNKNOWN_PATIENT) for name in names):
        return None
    sums = np.bincount(patient, weights=values[defined] * share[defined])  # (n_patients,)
    shares = np.bincount(patient, weights=share[defined])
    drawn = np.random.default_rng(seed).integers(len(names), size=(draws, len(names)))
    # Slides keep their weight in every drawn cohort, as in the score itself.
    means = sums[drawn].sum(axis=1) / shares[drawn].sum(axis=1)  # (draws,)
    low, high = np.percentile(means, INTERVAL_PERCENTILES)
    return float(low), float(high)


def check_folds(folds: Sequence[ScoredFold]) -> None:
    """Refuse what cannot be aggregated.

    Raises
    ------
    ProtocolError
        Without folds, or with a fold that does not name the patient of each test slide.
    """
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
