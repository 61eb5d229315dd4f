"""One trial of a comparison, a head on a fold: trained and predicted, or taken from those that are kept."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...store.errors import HeadError, TissuaryError, plain_reason
from ...store.files.atomic import atomic_path
from ...store.files.column import FeatureColumn
from ...store.table import Table
from ..contract import options_of
from ..protocols.protocol import Protocol
from ..protocols.scores.aggregate import ScoredFold
from ..protocols.scores.fold_score import FoldScore
from ..protocols.scores.metrics import score_fold
from ..protocols.scores.scores import SCORE_RULES
from ..protocols.splits import Fold
from .comparison import Record
from .details import HeldOutPredictions
from .head_spec import HeadSpec
from .inputs import FeatureSet
from .preparation import Prepared

log = logging.getLogger(__name__)

VERSIONS = ("torch", "numpy", "scipy", "scikit-learn", "scanpy", "anndata")
ROWS = 8192
"""Rows digested together."""

DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


@dataclass(frozen=True)
class Trained:
    """What training a head on a fold gave: all that a record needs beside the scores.

    Attributes
    ----------
    prediction
        (n_test, n_panel) float32, the slide's offset put back.
    """

    prediction: NDArray[np.float32]
    options: dict[str, Any]
    chosen: dict[str, Any]
    parameters: int
    fit_seconds: float
    fit_cpu_seconds: float
    predict_seconds: float


class TrialCache:
    """Trained cells by what they were trained from; a folder of files that may be deleted at any time.

    A file's name is a digest over everything that shapes a prediction: head and mode, seed, protocol, the numbers of
    the fold as heads get them, the code of heads and store, the versions of the libraries. Whatever changes makes
    another name.

    Parameters
    ----------
    folder
        Made when a cell is saved; None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self.taken = 0

    @property
    def keeps(self) -> bool:
        """Whether cells are kept at all."""
        return self._folder is not None

    def load(self, identity: Mapping[str, Any]) -> Trained | None:
        """A cell that was trained before, or None."""
        path = self._path(identity)
        if path is None or not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as file:
                prediction, words = file["prediction"], json.loads(str(file["words"]))
            trained = Trained(prediction=prediction, **words)
        except (*DAMAGED, TypeError) as error:
            log.warning("%s is damaged (%s): this cell is trained again", path, plain_reason(error))
            return None
        self.taken += 1
        return trained

    def save(self, identity: Mapping[str, Any], trained: Trained) -> None:
        """Keep a cell, whole or not at all."""
        path = self._path(identity)
        if path is None:
            return
        words = {name: value for name, value in asdict(trained).items() if name != "prediction"}
        buffer = io.BytesIO()
        np.savez(buffer, prediction=trained.prediction, words=np.array(json.dumps(words, default=_plain)))
        with atomic_path(path) as partial:
            partial.write_bytes(buffer.getvalue())

    def _path(self, identity: Mapping[str, Any]) -> Path | None:
        if self._folder is None:
            return None
        text = json.dumps(identity, sort_keys=True, default=str)
        return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.npz"


def _plain(value: object) -> object:
    """Numbers of numpy as Python's."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    msg = f"a head chose a {type(value).__name__}; wanted numbers and words"
    raise TypeError(msg)


def prepared_digest(train: Table, test: Table, *others: NDArray[Any]) -> str:
    """Digest of the numbers that heads of one fold get, tokens apart: features, targets, weights, offsets, genes."""
    digest = hashlib.sha256(json.dumps([train.panel, *map(list, (train.columns, train.control_columns))]).encode())
    for table in (train, test):
        _update_columns(digest, table, (*table.columns.values(), *table.control_columns.values()))
        arrays = (table.targets, table.target_offset, table.weights, table.array, table.center_um, table.slide)
        for array in arrays:
            _update(digest, array)
    for other in others:
        _update(digest, other)
    return digest.hexdigest()


def tokens_digest(train: Table, test: Table) -> str:
    """Digest of the tokens that heads of one fold may read."""
    digest = hashlib.sha256(json.dumps(list(train.token_columns)).encode())
    for table in (train, test):
        _update_columns(digest, table, tuple(table.token_columns.values()))
    return digest.hexdigest()


def _update_columns(digest: Any, table: Table, columns: Sequence[FeatureColumn]) -> None:
    """Features as heads get them, some rows at a time: tokens of a cohort need not fit into memory twice."""
    for column in columns:
        for start in range(0, len(table), ROWS):
            some = slice(start, start + ROWS)
            _update(digest, column.gather(table.slide[some], table.row[some]))
        _update(digest, column.shift)
        _update(digest, column.scale)


def _update(digest: Any, part: NDArray[Any] | None) -> None:
    if part is not None:
        digest.update(f"{part.dtype}{part.shape}".encode())
        digest.update(np.ascontiguousarray(part).data)


@cache
def code_digest() -> str:
    """Digest of the code of heads and store, and of the versions of the libraries under them, as this process began."""
    root = Path(__file__).parents[2]
    digest = hashlib.sha256(json.dumps({name: version(name) for name in VERSIONS}).encode())
    for path in sorted(path for room in ("heads", "store") for path in (root / room).rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


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
class TrialPlan:
    """What a cell is: who, on which fold, from which features."""

    contestant: HeadSpec
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


def run_cell(plan: TrialPlan, prepared: Prepared, *, cells: TrialCache, common: Mapping[str, Any]) -> Trained:
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


def _train(plan: TrialPlan, prepared: Prepared) -> Trained:
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


def scored(plan: TrialPlan, prepared: Prepared, trained: Trained) -> tuple[Record, HeldOutPredictions]:
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
    return record, HeldOutPredictions(
        test, prepared.truth, trained.prediction, ScoredFold(plan.fold.name, patients, score)
    )
