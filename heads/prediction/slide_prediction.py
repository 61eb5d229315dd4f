"""One slide predicted in blocks: expression and distance of every row, streamed to disk, then written whole."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...store.arrays import Ints
from ...store.errors import StoreError
from ...store.feature_file import FeatureHeader
from ...store.store import Store
from ...store.table import Table
from .block_file import BlockFile
from .block_rows import rows_in_memory, standardised_as
from .blocks import BLOCK_ROWS, spatial_blocks, with_rim
from .made_how import made_how
from .marks import remove_shown
from .prediction_file import PredictionFacts, prediction_facts, read_identity, write_prediction
from .run import Run

log = logging.getLogger(__name__)

RowsDone = Callable[[int, int], None]
"""Called with rows done, and rows in all."""


@dataclass(frozen=True)
class SlidePlan:
    """What is to be predicted of one slide.

    Attributes
    ----------
    identity
        What the result depends on: run, patches, features.
    notes
        What precision and up-sampling of its features say.
    """

    slide_id: str
    patches: str
    table: Table
    facts: PredictionFacts
    identity: dict[str, Any]
    notes: tuple[str, ...]


def plan_slide(run: Run, store: Store, slide_id: str, *, patches: str) -> SlidePlan:
    """Open what a run needs of a slide.

    Raises
    ------
    TissuaryError
        If it is missing, or was made by another encoder.
    """
    keys = run.familiarity.keys
    saved = run.saved
    tokens, controls = saved.keys("token"), saved.keys("control")
    table = store.table(
        keys, slides=[slide_id], patches=patches, expression=False, token_keys=tokens, control_keys=controls
    )
    headers = {key: (store.header(key, slide_id, patches=patches),) for key in (*keys, *tokens, *controls)}
    facts = prediction_facts(run, store, slide_id, patches=patches, fov_um=headers[keys[0]][0].fov_um)
    identity = {
        "run": run.id,
        "slide": slide_id,
        "patches": patches,
        "patches_digest": facts.patches.digest,
        "features": {key: _made_of(found[0]) for key, found in headers.items()},
    }
    return SlidePlan(slide_id, patches, table, facts, identity, saved.check(headers))


def predict_slide(
    run: Run,
    plan: SlidePlan,
    path: Path,
    *,
    block_rows: int = BLOCK_ROWS,
    device: str = "cpu",
    progress: RowsDone | None = None,
) -> bool:
    """Write a slide's prediction, going on where a killed job left it; pictures of an earlier one are removed.

    Parameters
    ----------
    path
        The `.h5ad`. One that is there, of the same run and features, is kept.
    block_rows
        Most rows of a block; heads that look at whole slides get one block.
    device
        Where training rows are searched.

    Returns
    -------
    bool
        Whether anything was predicted.

    Raises
    ------
    StoreError
        If a file of another run or of other features is there, or the disk is full.
    """
    if path.exists():
        _check_same(path, plan)
        return False
    table = plan.table
    block_rows = max(len(table), 1) if run.context_um is None else block_rows
    blocks = spatial_blocks(table.center_um, block_rows=block_rows)
    prepared, search = run.saved.prepare(table), run.familiarity.opened(device=device)

    def compute(block: Ints) -> NDArray[np.float32]:
        rows, own = with_rim(table.center_um, block, context_um=run.context_um)
        raw = table if run.context_um is None else rows_in_memory(table, rows)
        predicted = run.saved.predict_prepared(standardised_as(prepared, raw, rows))[own]
        distance = search.distance_of(run.familiarity.scaled(raw), own)
        return np.concatenate([predicted, distance[:, None]], axis=1)

    how = made_how(run.saved.head, search=type(search.index).__name__)
    began = {**plan.identity, **how, "block_rows": block_rows}
    rows = BlockFile(path, blocks, width=len(run.saved.panel) + 1, identity=began)
    whole = False
    try:
        rows.fill(compute, lambda done: None if progress is None else progress(done, len(table)))
        remove_shown(path.parent, plan.slide_id)  # never beside maps of another prediction
        write_prediction(
            path, plan.facts, rows.read, unfamiliar=run.familiarity.unfamiliar, identity=plan.identity, how=how
        )
        whole = True
    finally:
        rows.close(remove=whole)
    return True


def _made_of(header: FeatureHeader) -> str:
    """What made the features of a slide, as one word."""
    words = [header.fingerprint, header.precision, header.source_digest, header.patches_digest, header.slide_mpp]
    return hashlib.sha256(json.dumps(words).encode()).hexdigest()


def _check_same(path: Path, plan: SlidePlan) -> None:
    """Refuse to take another prediction for this one."""
    found = read_identity(path)
    differs = [name for name, value in plan.identity.items() if found.get(name) != value]
    if differs:
        msg = (
            f"{path} is there already, made with another {', '.join(differs)}: give another folder with `--out`, or "
            "delete it to have it predicted again"
        )
        raise StoreError(msg)
    log.info("%s is there already and is kept", path)
