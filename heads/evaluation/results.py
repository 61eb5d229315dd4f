"""What the cells of a comparison add up to: records by fold, one of fold "all", predictions beside the truth."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import numpy as np

from .aggregate import aggregate
from .cells import SCORED, CellPlan
from .comparison import Record
from .gene_maps import HeldOut
from .lines import Line, line_of_record

log = logging.getLogger(__name__)


@dataclass
class Results:
    """What the cells of a comparison add up to.

    Attributes
    ----------
    skipped, held_out
        By line.
    """

    records: list[Record] = field(default_factory=list)
    skipped: dict[Line, str] = field(default_factory=dict)
    held_out: dict[Line, list[HeldOut]] = field(default_factory=dict)

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
                }
            )


def line_of(plan: CellPlan) -> Line:
    """The line that a cell belongs to."""
    return plan.protocol.name, str(plan.backbone), str(plan.views), plan.contestant.label


def _mean(records: list[Record], name: str) -> float:
    return float(np.mean([float(str(record[name])) for record in records]))
