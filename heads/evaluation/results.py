"""What the cells of a comparison add up to: records by fold, one of fold "all", predictions beside the truth."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import numpy as np

from .aggregate import ScoredFold, aggregate, bootstrap_interval, patients_of, per_patient, slide_values
from .cells import SCORED, CellPlan
from .comparison import Record
from .folds import Fold
from .gene_maps import HeldOut
from .lines import Line, line_of_record
from .preparation import Prepared
from .protocol_record import Protocol
from .protocols import get_protocol
from .scores import SCORE_RULES

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
    held_out: dict[Line, list[HeldOut]] = field(default_factory=dict)
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

    def add(self, plan: CellPlan, record: Record, held: HeldOut) -> None:
        """Add one cell."""
        self.records.append(record)
        self.held_out.setdefault(line_of(plan), []).append(held)

    def skip(self, plan: CellPlan, reason: str) -> None:
        """Leave a head out of a protocol altogether: an average over some of the folds is no score."""
        line = line_of(plan)
        log.warning("head %s skipped under %s: %s", plan.contestant.label, plan.protocol.name, reason)
        self.skipped[line] = reason
        self.held_out.pop(line, None)
        self.records = [record for record in self.records if line_of_record(record) != line]

    def add_aggregates(self) -> None:
        """Add one record of fold "all" for each line."""
        for line, held in self.held_out.items():
            own = [record for record in self.records if line_of_record(record) == line]
            summary = aggregate([one.scored for one in held])
            self.records.append(
                {
                    **own[0],
                    "fold": "all",
                    "n_train": round(_mean(own, "n_train")),
                    "n_test": round(_mean(own, "n_test") * len(own)),
                    **{name: getattr(summary, name) for name in SCORED},
                    "chosen": {},
                    "fit_seconds": _mean(own, "fit_seconds") * len(own),
                    "predict_seconds": _mean(own, "predict_seconds") * len(own),
                    "per_patient": summary.per_patient,
                    **{f"{name}_low": low for name, (low, _) in summary.intervals.items()},
                    **{f"{name}_high": high for name, (_, high) in summary.intervals.items()},
                    "undefined": dict(summary.undefined),
                    **_by_patient(line[0], [one.scored for one in held]),
                }
            )


def _by_patient(protocol: str, folds: list[ScoredFold]) -> Record:
    """The score that ranks, for each patient, and its interval where `aggregate` has none.

    A score over genes of whole folds belongs to patients where each fold tests one: then folds are drawn as patients.
    """
    score = get_protocol(protocol).score
    if SCORE_RULES[score].over != "genes":
        values, weights = slide_values(folds, score)
        return {"per_patient_score": per_patient(values, patients_of(folds), weights=weights)}
    patients = [set(fold.patients) for fold in folds]
    if any(len(one) > 1 for one in patients) or len(set().union(*patients)) < len(folds):
        return {"per_patient_score": {}}
    names = [fold.patients[0] for fold in folds]
    scores = np.array([fold.score.scores[score] for fold in folds])
    low, high = bootstrap_interval(scores, names) or (None, None)
    by_name = dict(zip(names, scores.tolist(), strict=True))
    return {"per_patient_score": by_name, f"{score}_low": low, f"{score}_high": high}


def line_of(plan: CellPlan) -> Line:
    """The line that a cell belongs to."""
    return plan.protocol.name, str(plan.backbone), str(plan.views), plan.contestant.label


def _mean(records: list[Record], name: str) -> float:
    return float(np.mean([float(str(record[name])) for record in records]))
