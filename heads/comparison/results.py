"""What the cells of a comparison add up to: records by fold, one of fold "all", predictions beside the truth."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from ..protocols.named import get_protocol
from ..protocols.protocol import Protocol
from ..protocols.scores.aggregate import ScoredFold, aggregate, paired_difference, per_patient, score_sample
from ..protocols.scores.scores import SCORE_RULES
from ..protocols.splits import Fold
from .comparison import Record
from .details import HeldOutPredictions
from .head_spec import DEFAULT, Line, line_of_record
from .numbers import number
from .preparation import Prepared
from .trials import SCORED, SECONDS, TrialPlan

RIDGE = "ridge"


@dataclass(frozen=True)
class Difference:
    """A head's score less another's, as it stands in the record of fold "all".

    Attributes
    ----------
    head
        The other head.
    score
        The score that the protocol ranks by.
    difference
        Mean over test slides: exactly the difference of the two scores where both are defined on every slide.
    low, high
        Ends of its 95 % interval over patients; None where there is none (`intervals.patient_interval`).
    method
        "t" or "bootstrap"; None without an interval.
    n_patients
        Patients with a value from both heads.
    wins, losses
        Patients for whom the head is better, and worse.
    """

    head: str
    score: str
    difference: float | None
    low: float | None
    high: float | None
    method: str | None
    n_patients: int
    wins: int
    losses: int


def differences(
    whole: Record, others: Sequence[Record], folds: Mapping[Line, Sequence[ScoredFold]], *, score: str
) -> Record:
    """Return the fields `difference_from_ridge` and `difference_from_control` of one record of fold "all".

    Ridge is the default ridge on the same features; the best control is the one of highest score among those that
    read the same features or none. A field is None for ridge and the best control themselves, and where there is none.

    Parameters
    ----------
    whole
        The record.
    others
        All records of fold "all" of the comparison.
    folds
        Scores of each line.
    score
        The score that ranks under this protocol.
    """
    peers = [one for one in others if one["protocol"] == whole["protocol"] and _same_features(one, whole)]
    ridges = [one for one in peers if one["head"] == RIDGE and one["mode"] == DEFAULT]
    controls = [one for one in peers if one["control"] and not one["diagnostic"] and number(one, score) is not None]
    best = max(controls, key=lambda one: number(one, score) or 0.0, default=None)
    rivals = {"ridge": ridges[0] if len(ridges) == 1 else None, "control": best}
    return {
        f"difference_from_{name}": None if rival in (None, whole) else _difference(whole, rival, folds, score)
        for name, rival in rivals.items()
    }


def difference_in(record: Record, name: str) -> Difference | None:
    """Return a difference that `differences` put into a record: "ridge" or "control"; None where there is none."""
    found = record.get(f"difference_from_{name}")
    return Difference(**found) if isinstance(found, dict) else None


def _difference(whole: Record, rival: Record, folds: Mapping[Line, Sequence[ScoredFold]], score: str) -> Record:
    line, other = line_of_record(whole), line_of_record(rival)
    pair = paired_difference(folds[line], folds[other], score=score)
    interval = pair.interval
    return asdict(
        Difference(
            head=other[-1],
            score=score,
            difference=pair.difference,
            low=None if interval is None else interval.low,
            high=None if interval is None else interval.high,
            method=None if interval is None else interval.method,
            n_patients=pair.n_patients,
            wins=pair.wins,
            losses=pair.losses,
        )
    )


def _same_features(one: Record, other: Record) -> bool:
    """Whether two heads read the same features, or one of them none."""
    if one["backbone"] is None or other["backbone"] is None:
        return True
    return (one["backbone"], one["views"]) == (other["backbone"], other["views"])


log = logging.getLogger(__name__)


@dataclass
class Results:
    """What the cells of a comparison add up to.

    Attributes
    ----------
    skipped, held_out
        By line.
    impossible
        Protocols that the slides do not allow, with the reason.
    folds
        Slides and genes of each fold, by protocol and fold.
    """

    records: list[Record] = field(default_factory=list)
    skipped: dict[Line, str] = field(default_factory=dict)
    held_out: dict[Line, list[HeldOutPredictions]] = field(default_factory=dict)
    impossible: dict[str, str] = field(default_factory=dict)
    folds: dict[str, dict[str, dict[str, list[str]]]] = field(default_factory=dict)

    def add_fold(self, protocol: Protocol, fold: Fold, prepared: Prepared) -> None:
        """Note who is in a fold and what is predicted."""
        self.folds.setdefault(protocol.name, {})[fold.name] = {
            "train": list(prepared.train.slide_ids),
            "test": list(prepared.test.slide_ids),
            "genes": [str(gene) for gene in prepared.panel.genes],
        }

    def give_up(self, protocol: Protocol, reason: str) -> None:
        """Leave a whole protocol out."""
        log.warning("protocol %s cannot be run here: %s", protocol.name, reason)
        self.impossible[protocol.name] = reason
        self.records = [record for record in self.records if record["protocol"] != protocol.name]
        self.held_out = {line: held for line, held in self.held_out.items() if line[0] != protocol.name}

    def add(self, plan: TrialPlan, record: Record, held: HeldOutPredictions) -> None:
        """Add one cell."""
        self.records.append(record)
        self.held_out.setdefault(line_of(plan), []).append(held)

    def skip(self, plan: TrialPlan, reason: str) -> None:
        """Leave a head out of a protocol altogether: an average over some of the folds is no score."""
        line = line_of(plan)
        log.warning("head %s skipped under %s: %s", plan.contestant.label, plan.protocol.name, reason)
        self.skipped[line] = reason
        self.held_out.pop(line, None)
        self.records = [record for record in self.records if line_of_record(record) != line]

    def add_aggregates(self) -> None:
        """Add one record of fold "all" for each line, with its difference from ridge and from the best control."""
        folds = {line: [one.scored for one in held] for line, held in self.held_out.items()}
        wholes = [self._whole(line, scored) for line, scored in folds.items()]
        pairs = [differences(one, wholes, folds, score=_ranking(str(one["protocol"]))) for one in wholes]
        self.records += [whole | pair for whole, pair in zip(wholes, pairs, strict=True)]

    def _whole(self, line: Line, folds: list[ScoredFold]) -> Record:
        own = [record for record in self.records if line_of_record(record) == line]
        summary, score = aggregate(folds), _ranking(line[0])
        sample, interval = score_sample(folds, score), summary.intervals.get(score)
        # A score over genes of a whole fold belongs to patients only where each fold tests one.
        mixed = SCORE_RULES[score].over == "genes" and any(len(set(fold.patients)) > 1 for fold in folds)
        by_patient = {} if mixed else per_patient(sample.values, sample.patients, weights=sample.weights)
        return {
            **own[0],
            "fold": "all",
            "n_train": round(_mean(own, "n_train")),
            "n_test": round(_sum(own, "n_test")),
            **{name: getattr(summary, name) for name in SCORED},
            "chosen": {},
            **{name: _sum(own, name) for name in SECONDS},
            "per_patient": summary.per_patient,
            **{f"{name}_low": one.low for name, one in summary.intervals.items()},
            **{f"{name}_high": one.high for name, one in summary.intervals.items()},
            "interval_method": None if interval is None else interval.method,
            "n_slides": summary.n_slides,
            "n_patients": len(summary.per_patient),
            "undefined": dict(summary.undefined),
            "per_patient_score": by_patient,
        }


def line_of(plan: TrialPlan) -> Line:
    """The line that a cell belongs to."""
    return plan.protocol.name, str(plan.backbone), str(plan.views), plan.contestant.label


def _ranking(protocol: str) -> str:
    return get_protocol(protocol).score


def _mean(records: list[Record], name: str) -> float:
    return _sum(records, name) / len(records)


def _sum(records: list[Record], name: str) -> float:
    return float(np.sum([float(str(record[name])) for record in records]))
