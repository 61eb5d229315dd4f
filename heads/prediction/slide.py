"""One slide predicted in blocks: expression and distance of every row, streamed to disk, then written whole."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...store.arrays import Ints
from ...store.errors import StoreError
from ...store.files.atomic import disk_errors, remove_resumable, resumable_path, write_at
from ...store.files.column import FeatureColumn
from ...store.files.features import FeatureHeader
from ...store.files.journal import Journal, JournalBlock
from ...store.files.mapped import give_back
from ...store.store import Store
from ...store.table import Table
from ..engine.device import device_of
from ..engine.training import half_precision
from ..saving.features import ROLES
from ..saving.save import versions
from .blocks import BLOCK_ROWS, spatial_blocks, with_rim
from .file import PredictionFacts, prediction_facts, read_identity, write_prediction
from .run import TrainedRun
from .slide_map import remove_shown


def rows_in_memory(table: Table, rows: Ints) -> Table:
    """Some rows of a table of one slide, their features as stored, in memory; pages of the map are given back.

    Parameters
    ----------
    rows
        (m,) of the table.
    """
    found = {name: {key: _loaded(c, table, rows) for key, c in getattr(table, name).items()} for name in ROLES.values()}
    return replace(table.select_rows(rows), row=np.arange(len(rows), dtype=np.int32), **found)  # type: ignore[arg-type]


def standardised_as(prepared: Table, raw: Table, rows: Ints) -> Table:
    """The rows of a prepared table, features taken from where `raw` has them.

    Parameters
    ----------
    prepared
        Of the whole slide, as `SavedHead.prepare` makes it.
    raw
        Of `rows_in_memory`, or the whole slide's table, whose rows are then those of `prepared`.
    rows
        (m,) of the whole slide.
    """
    found = {name: _dressed(getattr(prepared, name), getattr(raw, name)) for name in ROLES.values()}
    return replace(prepared.select_rows(rows), row=raw.row, **found)  # type: ignore[arg-type]


def _loaded(column: FeatureColumn, table: Table, rows: Ints) -> FeatureColumn:
    part = column.parts[0]
    values = np.take(part.view(np.ndarray), table.row[rows], axis=0)
    give_back(part)
    return replace(column, parts=(values,))


def _dressed(columns: Mapping[str, FeatureColumn], raw: Mapping[str, FeatureColumn]) -> dict[str, FeatureColumn]:
    return {key: replace(column, parts=raw[key].parts) for key, column in columns.items()}


log = logging.getLogger(__name__)

ROWS_ENDING = "partial-f4"
FLOAT = np.dtype("<f4")


class BlockFile:
    """Rows (n, width) of float32 beside a file that is to come, and the journal of the blocks that are written.

    A row lies at its place, so that reading in order is reading on. The file is written, not mapped: a full disk is an
    error, where a map would end the process.

    Parameters
    ----------
    path
        The file to come.
    blocks
        Rows of each block, ascending; frozen, for the same blocks give the same bits.
    width
        Values of a row.
    identity
        What the values depend on. Blocks of a file begun with another identity are not taken.
    """

    def __init__(self, path: Path, blocks: Sequence[Ints], *, width: int, identity: Mapping[str, Any]) -> None:
        self.path, self.blocks, self.width = path, blocks, width
        self._rows_path = resumable_path(path, ROWS_ENDING)
        plan = {"plan": json.dumps({**identity, "blocks": len(blocks), "width": width}, sort_keys=True)}
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            found = Journal.open(path)
            if found is not None and (found.identity != plan or not self._rows_path.is_file()):
                log.warning("%s: what an earlier job began was made otherwise; it is begun anew", path)
                found.close()
                found = None
            if found is None:
                remove_resumable(path)
                self._rows_path.touch()
                found = Journal.create(path, plan)
            self._journal = found
            self._file = os.open(self._rows_path, os.O_RDWR)
            os.ftruncate(self._file, self._n * self._row_bytes)
        self._keep_what_is_whole()

    @property
    def done(self) -> int:
        """Blocks that are written."""
        return len(self._journal.blocks)

    def fill(self, compute: Callable[[Ints], NDArray[np.float32]], progress: Callable[[int], None]) -> None:
        """Compute the blocks that are not written yet.

        Parameters
        ----------
        compute
            From rows (m,) to values (m, width).
        progress
            Called with the rows that are done.

        Raises
        ------
        StoreError
            If the disk is full.
        """
        rows_done = sum(len(block) for block in self.blocks[: self.done])
        progress(rows_done)
        for block in self.blocks[self.done :]:
            values = np.ascontiguousarray(compute(block), dtype=FLOAT)
            with disk_errors(self.path):
                for start, stop in _stretches(block):
                    place = int(block[start]) * self._row_bytes
                    write_at(self._file, values[start:stop].tobytes(), place)
                self._journal.add(JournalBlock(self.done, len(block), zlib.crc32(values.tobytes()), FLOAT.str))
            rows_done += len(block)
            progress(rows_done)

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Values (stop - start, width) of rows that follow each other."""
        size = (stop - start) * self._row_bytes
        content = os.pread(self._file, size, start * self._row_bytes)
        return np.frombuffer(content, dtype=FLOAT).reshape(stop - start, self.width)

    def close(self, *, remove: bool) -> None:
        """Let go of the files, and remove them where what they were for is written."""
        self._journal.close()
        os.close(self._file)
        if remove:
            remove_resumable(self.path)

    @property
    def _n(self) -> int:
        return sum(len(block) for block in self.blocks)

    @property
    def _row_bytes(self) -> int:
        return FLOAT.itemsize * self.width

    def _keep_what_is_whole(self) -> None:
        """Forget blocks from the first one on whose rows are not what was written: the machine lost power."""
        for number, (block, said) in enumerate(zip(self.blocks, list(self._journal.blocks), strict=False)):
            parts = [self.read(int(block[a]), int(block[b - 1]) + 1) for a, b in _stretches(block)]
            if said.rows != len(block) or zlib.crc32(np.concatenate(parts).tobytes()) != said.crc32:
                log.warning("%s: block %d is not what was written; it is computed again", self.path, number)
                self._journal.cut(number)
                return


def _stretches(rows: Ints) -> Iterator[tuple[int, int]]:
    """Places between which ascending rows follow each other without a gap."""
    cuts = np.flatnonzero(np.diff(rows) != 1) + 1
    ends = [0, *cuts.tolist(), len(rows)]
    return itertools.pairwise(ends)


def made_how(head: Any, *, search: str) -> dict[str, str | int]:
    """Device, precision and libraries: what besides run and features decides over the bits of a prediction.

    Parameters
    ----------
    head
        Fitted, with those inside it.
    search
        Name of the index in which training rows are looked up.

    Returns
    -------
    dict
        `device`, the GPU or the kind of CPU by name; `precision` of the network's products, "bf16" or "fp32"; `search`;
        `threads`; `torch`, and the `libraries` with their versions, tissuary's own among them.
    """
    # Resolved here: "auto" is another device on every machine.
    devices = sorted({str(device_of(name)) for name in _devices(head)} or {"cpu"})
    return {
        "device": ", ".join(map(_called, devices)),
        "precision": "bf16" if any(map(_is_half, devices)) else "fp32",
        "search": search,
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "libraries": ", ".join(f"{name} {version}" for name, version in sorted(versions().items())),
    }


def _devices(head: Any) -> Iterator[str]:
    """Devices of the networks in a head; none of one that is no network."""
    if isinstance(name := getattr(head, "device", None), str):
        yield name
    for member in getattr(head, "members_", []):
        yield from _devices(member)


def _is_half(device: str) -> bool:
    with half_precision(torch.device(device)):
        return torch.is_autocast_enabled(torch.device(device).type)


def _called(device: str) -> str:
    found = torch.device(device)
    if found.type == "cuda":
        return torch.cuda.get_device_name(found)
    return f"cpu {torch.backends.cpu.get_cpu_capability()}" if found.type == "cpu" else device


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


def plan_slide(run: TrainedRun, store: Store, slide_id: str, *, patches: str) -> SlidePlan:
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
    run: TrainedRun,
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
