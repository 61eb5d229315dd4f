"""The difference of two heads over the same test slides, with its interval over patients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...store.arrays import Floats
from ...store.errors import ProtocolError
from .aggregate import ScoredFold, check_folds, per_patient, score_sample
from .defined import mean_of_defined
from .intervals import Interval, patient_interval
from .scores import SCORE_RULES


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
