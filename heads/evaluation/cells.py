"""One cell of a comparison: a head on a fold."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...store.errors import HeadError, TissuaryError
from ..contract import options_of
from .aggregate import ScoredFold
from .cell_files import CellFolder, Trained
from .comparison import Record
from .contestants import Contestant
from .feature_sets import FeatureSet
from .folds import Fold
from .gene_maps import HeldOut
from .metrics import FoldScore, score_fold
from .preparation import Prepared
from .protocol_record import Protocol
from .scores import SCORE_RULES

log = logging.getLogger(__name__)

COUNTS = ("nan_genes", "nan_slides", "nan_spots", "nan_pooled_genes", "constant")
SCORED = (*SCORE_RULES, *COUNTS)
"""Scores and counts that every record carries."""
SECONDS = ("fit_seconds", "fit_cpu_seconds", "predict_seconds")
"""Elapsed time, and processor time of all threads: the second is what a head costs where other work runs beside it."""

UNFORESEEN = (
    RuntimeError, ValueError, TypeError, ArithmeticError, LookupError, MemoryError, AssertionError, AttributeError,
)  # fmt: skip
"""What linear algebra, training and a head's own mistakes raise: it costs the head, not the comparison."""


@dataclass(frozen=True)
class CellPlan:
    """What a cell is: who, on which fold, from which features."""

    contestant: Contestant
    protocol: Protocol
    fold: Fold
    features: FeatureSet
    seed: int

    @property
    def backbone(self) -> str | None:
        """Of the features, None where the head reads none."""
        return self.features.backbone if self.contestant.entry.features else None

    @property
    def views(self) -> str | None:
        """Of the features, None where the head reads none."""
        return self.features.views if self.contestant.entry.features else None

    def identity(self, prepared: Prepared, common: Mapping[str, Any]) -> dict[str, Any]:
        """All that shapes the cell's predictions; `common` is what all cells on the same numbers share.

        The digest of tokens belongs to the heads that read tokens: so cells of the others are taken again when such a
        head joins a comparison.
        """
        shared = {name: value for name, value in common.items() if name != "tokens" or self.contestant.reads_tokens}
        return {
            **shared,
            "contestant": asdict(self.contestant),
            "protocol": asdict(self.protocol),
            "slides": [(table.slide_ids, table.patient_ids) for table in (prepared.train, prepared.test)],
            "keys": self.features.keys,
            "seed": self.seed,
        }


def run_cell(plan: CellPlan, prepared: Prepared, *, cells: CellFolder, common: Mapping[str, Any]) -> Trained:
    """Train and predict, or take the cell that was trained before.

    Raises
    ------
    HeadError
        If the head cannot run here: its input is missing, it fails, or its predictions have another shape.
    """
    identity = plan.identity(prepared, common)
    known = cells.load(identity)
    if known is not None:
        return known
    try:
        trained = _train(plan, prepared)
    except HeadError:
        raise
    except (TissuaryError, *UNFORESEEN) as error:
        log.warning("head %s on fold %s", plan.contestant.label, plan.fold.name, exc_info=True)
        msg = f"{type(error).__name__} on fold {plan.fold.name}: {error}"
        raise HeadError(msg) from error
    cells.save(identity, trained)
    return trained


def _train(plan: CellPlan, prepared: Prepared) -> Trained:
    head = plan.contestant.make(plan.seed)
    test = prepared.test
    if plan.contestant.entry.diagnostic:  # it may look at what no predictor has
        test = replace(test, depth=prepared.test_depth)
    started, cpu_started = time.perf_counter(), time.process_time()
    head.fit(prepared.train)
    fitted, cpu_fitted = time.perf_counter(), time.process_time()
    deviation = np.asarray(head.predict(test), dtype=np.float32)
    finished = time.perf_counter()
    if deviation.shape != prepared.truth.shape:
        msg = f"{type(head).__name__} predicted shape {deviation.shape}, wanted {prepared.truth.shape}"
        raise HeadError(msg)
    assert test.target_offset is not None
    prediction: NDArray[np.float32] = deviation + test.target_offset[test.slide]
    return Trained(
        prediction=prediction,
        options=options_of(head),
        chosen=dict(getattr(head, "chosen_", {})),
        parameters=int(getattr(head, "n_parameters_", 0)),
        fit_seconds=fitted - started,
        fit_cpu_seconds=cpu_fitted - cpu_started,
        predict_seconds=finished - fitted,
    )


def scored(plan: CellPlan, prepared: Prepared, trained: Trained) -> tuple[Record, HeldOut]:
    """The record of a cell, and its predictions beside the truth.

    Raises
    ------
    HeadError
        If the predictions are not finite.
    """
    test, contestant = prepared.test, plan.contestant
    score: FoldScore = score_fold(
        trained.prediction,
        prepared.truth,
        slide=test.slide,
        heg50=prepared.heg50,
        hvg50=prepared.hvg50,
        center_um=test.center_um,
    )
    record: Record = {
        "head": contestant.head,
        "mode": contestant.mode,
        "protocol": plan.protocol.name,
        "fold": plan.fold.name,
        "backbone": plan.backbone,
        "views": plan.views,
        "panel_size": len(prepared.panel.genes),
        "n_train": len(prepared.train),
        "n_test": len(test),
        **{name: getattr(score, name) for name in SCORED},
        "panel": plan.protocol.panel_name,
        "preprocessing": prepared.preprocessing,
        "options": trained.options,
        "chosen": trained.chosen,
        **{name: getattr(trained, name) for name in SECONDS},
        "parameters": trained.parameters,
        "seed": plan.seed,
        "control": contestant.entry.control,
        "diagnostic": contestant.entry.diagnostic,
    }
    patients = tuple(test.patient_ids[slide] for slide in score.slides)
    return record, HeldOut(test, prepared.truth, trained.prediction, ScoredFold(plan.fold.name, patients, score))
