"""One cell of a comparison, a head on a fold, and the records that cells add up to."""

from __future__ import annotations

import inspect
import logging
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...store.errors import HeadError
from ...store.naming import FeatureKey
from ..contract import options_of
from ..registry import HEADS, make_head
from .aggregate import ScoredFold, aggregate
from .comparison import Record
from .gene_maps import HeldOut
from .metrics import score_fold
from .preparation import Prepared
from .protocols import Protocol
from .splits import Fold

log = logging.getLogger(__name__)

SCORES = ("pcc_slide_mean", "pcc_slide_median", "pcc_pooled", "pcc_heg50", "pcc_hvg50", "mse", "mae")
COUNTS = ("nan_genes", "nan_slides", "constant")

UNFORESEEN = (RuntimeError, ValueError, TypeError, ArithmeticError, LookupError, MemoryError)
"""What linear algebra and training raise when they fail: it costs the head, not the comparison."""


@dataclass
class Results:
    """What the cells of a comparison add up to.

    Attributes
    ----------
    skipped, held_out
        By protocol and head.
    """

    records: list[Record] = field(default_factory=list)
    skipped: dict[tuple[str, str], str] = field(default_factory=dict)
    held_out: dict[tuple[str, str], list[HeldOut]] = field(default_factory=dict)

    def skip(self, protocol: str, head: str, reason: str) -> None:
        """Leave a head out of a protocol altogether: an average over some of the folds is no score."""
        log.warning("head %s skipped under %s: %s", head, protocol, reason)
        self.skipped[protocol, head] = reason
        self.held_out.pop((protocol, head), None)
        self.records = [r for r in self.records if (r["protocol"], r["head"]) != (protocol, head)]


def run_cell(
    name: str, prepared: Prepared, fold: Fold, *, protocol: Protocol, keys: tuple[str, ...], seed: int, results: Results
) -> None:
    """Fit, predict and score one head on one fold, and add its record.

    A head that raises `HeadError` (its input is missing, its predictions are not finite) is skipped with the reason.
    """
    if (protocol.name, name) in results.skipped:
        return
    try:
        head = make_head(name, **({"seed": seed} if _takes_seed(name) else {}))
        started = time.perf_counter()
        head.fit(prepared.train)
        fitted = time.perf_counter()
        prediction = _predict(head, prepared)
        finished = time.perf_counter()
        score = score_fold(
            prediction, prepared.truth, slide=prepared.test.slide, heg50=prepared.panel.heg50, hvg50=prepared.hvg50
        )
    except HeadError as error:
        results.skip(protocol.name, name, str(error))
        return
    except UNFORESEEN as error:
        log.warning("head %s on fold %s", name, fold.name, exc_info=True)
        results.skip(protocol.name, name, f"{type(error).__name__} on fold {fold.name}: {error}")
        return
    results.records.append(
        {
            "head": name,
            "mode": "default",
            "protocol": protocol.name,
            "fold": fold.name,
            "backbone": FeatureKey.parse(keys[0]).encoder,
            "views": "+".join(FeatureKey.parse(key).view for key in keys),
            "panel_size": len(prepared.panel.genes),
            "n_train": len(prepared.train),
            "n_test": len(prepared.test),
            **{name: getattr(score, name) for name in (*SCORES, *COUNTS)},
            "panel": protocol.panel,
            "preprocessing": prepared.preprocessing,
            "options": options_of(head),
            "chosen": dict(getattr(head, "chosen_", {})),
            "fit_seconds": fitted - started,
            "predict_seconds": finished - fitted,
            "parameters": int(getattr(head, "n_parameters_", 0)),
            "seed": seed,
            "control": HEADS[name].control,
            "diagnostic": False,
        }
    )
    patients = tuple(prepared.test.patient_ids[slide] for slide in score.slides)
    held = HeldOut(prepared.test, prepared.truth, prediction, ScoredFold(fold.name, patients, score))
    results.held_out.setdefault((protocol.name, name), []).append(held)


def add_aggregates(results: Results) -> None:
    """Add one record of fold "all" for each head under each protocol."""
    for (protocol, name), held in results.held_out.items():
        own = [r for r in results.records if (r["protocol"], r["head"]) == (protocol, name)]
        summary = aggregate([one.scored for one in held])
        results.records.append(
            {
                **own[0],
                "fold": "all",
                "n_train": round(_mean(own, "n_train")),
                "n_test": round(_mean(own, "n_test") * len(own)),
                **{name: getattr(summary, name) for name in (*SCORES, *COUNTS)},
                "chosen": {},
                "fit_seconds": _mean(own, "fit_seconds") * len(own),
                "predict_seconds": _mean(own, "predict_seconds") * len(own),
                "per_patient": summary.per_patient,
                "pcc_slide_mean_low": summary.pcc_slide_mean_low,
                "pcc_slide_mean_high": summary.pcc_slide_mean_high,
            }
        )


def _mean(records: list[Record], name: str) -> float:
    return float(np.mean([float(str(record[name])) for record in records]))


def _predict(head: Any, prepared: Prepared) -> NDArray[np.float32]:
    """Predictions in target units, the slide's offset put back."""
    assert prepared.test.target_offset is not None
    deviation = np.asarray(head.predict(prepared.test), dtype=np.float32)
    if deviation.shape != prepared.truth.shape:
        msg = f"{type(head).__name__} predicted shape {deviation.shape}, wanted {prepared.truth.shape}"
        raise HeadError(msg)
    whole: NDArray[np.float32] = deviation + prepared.test.target_offset[prepared.test.slide]
    return whole


def _takes_seed(name: str) -> bool:
    """Whether a head's constructor has the option `seed`."""
    return "seed" in inspect.signature(type(make_head(name)).__init__).parameters
