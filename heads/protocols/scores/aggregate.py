"""Scores of all folds of one head together: weighted means, scores per patient, intervals over patients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ....store.arrays import Floats
from ....store.errors import ProtocolError
from ....store.naming import UNKNOWN_PATIENT
from .fold_score import FoldScore
from .intervals import Interval, patient_interval
from .scores import SCORE_RULES, NamedScores, mean_of_defined


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
        For each score its 95 % interval over patients, absent where `patient_interval` has none. A score over genes of
        a whole fold has one where each fold tests one patient.
    undefined
        For each score that is a mean over slides or spots, the number of slides left out.
    nan_genes, nan_slides, nan_spots, nan_pooled_genes, constant
        Sums over folds, and whether any fold is flagged.
    nan_folds
        Number of folds left out of the pooled scores because no gene is defined.
    per_patient
        Mean over a patient's test slides of the slide's mean over genes; NaN where none is defined.
    """

    n_slides: int
    scores: Mapping[str, float]
    intervals: Mapping[str, Interval]
    undefined: Mapping[str, int]
    nan_genes: int
    nan_slides: int
    nan_spots: int
    nan_pooled_genes: int
    nan_folds: int
    constant: bool
    per_patient: dict[str, float]


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
    scores: dict[str, float] = {}
    intervals: dict[str, Interval] = {}
    for name in SCORE_RULES:
        sample = score_sample(folds, name)
        scores[name] = float(mean_of_defined(sample.values, weights=sample.weights))
        interval = patient_interval(sample.values, sample.patients, weights=sample.weights, seed=seed)
        if interval is not None:
            intervals[name] = interval
    headline = score_sample(folds, "pcc_slide_mean")
    return Aggregate(
        n_slides=len(headline.values),
        scores=scores,
        intervals=intervals,
        undefined={name: sum(score.undefined[name] for score in fold_scores) for name in fold_scores[0].undefined},
        nan_genes=sum(score.nan_genes for score in fold_scores),
        nan_slides=sum(score.nan_slides for score in fold_scores),
        nan_spots=sum(score.nan_spots for score in fold_scores),
        nan_pooled_genes=sum(score.nan_pooled_genes for score in fold_scores),
        nan_folds=sum(bool(np.isnan(score.pooled).all()) for score in fold_scores),
        constant=any(score.constant for score in fold_scores),
        per_patient=per_patient(headline.values, headline.patients),
    )


@dataclass(frozen=True)
class ScoreSample:
    """A score as the values that its mean is taken over, with the patient and the weight of each.

    Attributes
    ----------
    values
        On each test slide of all folds; of a score over genes of a whole fold, on each fold. NaN where undefined, (n,).
    patients
        The patient of each value; "unknown:<fold>" of a fold that tests several patients.
    weights
        (n,)
    """

    values: Floats
    patients: tuple[str, ...]
    weights: Floats


def score_sample(folds: Sequence[ScoredFold], name: str) -> ScoreSample:
    """Return the values of a score that `aggregate` takes the mean of.

    Parameters
    ----------
    folds
        All folds of one head under one protocol.
    name
        Of `SCORE_RULES`.
    """
    if SCORE_RULES[name].over == "genes":
        values = np.array([fold.score.scores[name] for fold in folds])
        return ScoreSample(values, tuple(_only_patient(fold) for fold in folds), np.ones(len(folds)))
    return ScoreSample(
        values=np.concatenate([fold.score.by_slide[name] for fold in folds]),
        patients=tuple(patient for fold in folds for patient in fold.patients),
        weights=np.concatenate([fold.score.weights(name) for fold in folds]),
    )


def _only_patient(fold: ScoredFold) -> str:
    return fold.patients[0] if len(set(fold.patients)) == 1 else f"{UNKNOWN_PATIENT}{fold.name}"


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


@dataclass(frozen=True)
class PairedDifference:
    """A score of a first head less that of a second, slide by slide; fold by fold where the score has no value a slide.

    Parameters
    ----------
    score
        The score's name.
    difference
        Mean over slides, each with its weight in the score; NaN where none is defined for both.
    interval
        95 % interval over patients; None where `intervals.patient_interval` has none.
    by_slide
        The difference on each slide, NaN where either head's score is undefined, (n_slides,).
    per_patient
        Mean over each patient's slides, NaN where none is defined.
    wins, losses
        Patients for whom the first head is the better, and the worse; for errors the lower is the better.
    undefined
        Number of slides left out.
    """

    score: str
    difference: float
    interval: Interval | None
    by_slide: Floats
    per_patient: dict[str, float]
    wins: int
    losses: int
    undefined: int

    @property
    def settled(self) -> bool:
        """Whether there is an interval and it excludes 0."""
        return self.interval is not None and self.interval.excludes_zero

    @property
    def n_patients(self) -> int:
        """How many patients have a difference."""
        return sum(not np.isnan(value) for value in self.per_patient.values())


def paired_difference(
    first: Sequence[ScoredFold], second: Sequence[ScoredFold], *, score: str = "pcc_slide_mean", seed: int = 0
) -> PairedDifference:
    """Return the difference of two heads that were scored on the same folds, in whichever order.

    Parameters
    ----------
    first, second
        All folds of each head under one protocol.
    score
        Of `SCORE_RULES`.
    seed
        Of the bootstrap over patients.

    Raises
    ------
    ProtocolError
        Where folds, their slides, patients, spots or genes differ.
    """
    second = _matched(first, second)
    ours, theirs = score_sample(first, score), score_sample(second, score)
    return paired_values(ours.values, theirs.values, ours.patients, weights=ours.weights, score=score, seed=seed)


def paired_values(
    first: Floats,
    second: Floats,
    patients: Sequence[str],
    *,
    weights: Floats | None = None,
    score: str = "pcc_slide_mean",
    seed: int = 0,
) -> PairedDifference:
    """Return the difference of two rows of scores.

    Parameters
    ----------
    first, second
        One value per slide, or per fold; NaN where undefined, (n,).
    patients
        The patient of each value.
    weights
        What each value weighs, (n,); all alike where None.
    score
        The score's name, which tells whether higher is better.
    seed
        Of the bootstrap over patients.
    """
    by_slide = first - second
    of_patients = per_patient(by_slide, patients, weights=weights)
    gains = np.array(list(of_patients.values())) * (1 if SCORE_RULES[score].better == "high" else -1)
    return PairedDifference(
        score=score,
        difference=float(mean_of_defined(by_slide, weights=weights)),
        interval=patient_interval(by_slide, patients, weights=weights, seed=seed),
        by_slide=by_slide,
        per_patient=of_patients,
        wins=int((gains > 0).sum()),
        losses=int((gains < 0).sum()),
        undefined=int(np.isnan(by_slide).sum()),
    )


def _matched(first: Sequence[ScoredFold], second: Sequence[ScoredFold]) -> list[ScoredFold]:
    """Bring the second head's folds into the order of the first's, and refuse folds that are not the same."""
    check_folds(first)
    check_folds(second)
    names, others = [fold.name for fold in first], {fold.name: fold for fold in second}
    if sorted(names) != sorted(fold.name for fold in second) or len(set(names)) < len(names):
        msg = (
            f"One head was scored on folds {names}, the other on {[fold.name for fold in second]}; "
            "a difference needs the same folds, each once: run both heads in one comparison."
        )
        raise ProtocolError(msg)
    for fold in first:
        difference = _unlike(fold, others[fold.name])
        if difference:
            msg = (
                f"On fold {fold.name!r} the two heads were scored on other {difference}; "
                "a difference needs the same test data: run both heads in one comparison."
            )
            raise ProtocolError(msg)
    return [others[name] for name in names]


def _unlike(one: ScoredFold, other: ScoredFold) -> str | None:
    """Name what differs; genes whose truth is constant are the same for every head, so they tell truths apart."""
    a, b = one.score, other.score
    if not np.array_equal(a.slides, b.slides):
        return "slides"
    if one.patients != other.patients:
        return "patients"
    if not np.array_equal(a.spots, b.spots) or not np.array_equal(a.measured_spots, b.measured_spots):
        return "spots"
    if a.pearson.shape != b.pearson.shape or not np.array_equal(np.isnan(a.pearson), np.isnan(b.pearson)):
        return "genes"
    return None
