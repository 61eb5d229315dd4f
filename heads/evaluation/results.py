"""What the cells of a comparison add up to: records by fold, one of fold "all", predictions beside the truth."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import numpy as np

from .aggregate import ScoredFold, aggregate, per_patient, score_sample
from .cells import SCORED, SECONDS, CellPlan
from .comparison import Record
from .differences import differences
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


def line_of(plan: CellPlan) -> Line:
    """The line that a cell belongs to."""
    return plan.protocol.name, str(plan.backbone), str(plan.views), plan.contestant.label


def _ranking(protocol: str) -> str:
    return get_protocol(protocol).score


def _mean(records: list[Record], name: str) -> float:
    return _sum(records, name) / len(records)


def _sum(records: list[Record], name: str) -> float:
    return float(np.sum([float(str(record[name])) for record in records]))
