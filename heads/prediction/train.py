"""Train one head on all slides that can be trained on, and save it as a run."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...store.choices import as_names
from ...store.errors import HeadError, ProtocolError
from ...store.files.atomic import check_writable
from ...store.store import Store
from ...store.table import Table
from ..comparison.head_spec import HeadSpec, contestants
from ..comparison.inputs import feature_keys, usable_table
from ..comparison.preparation import prepare, prepare_cohort
from ..protocols.changes import ProtocolChanges, changed_protocol
from ..protocols.protocol import Protocol
from ..protocols.splits import Fold, patient_warnings
from ..protocols.targets import centre_by_slide
from ..saving.save import STANDARDISATIONS, headers_of, save_head
from .familiarity import Familiarity
from .run import run_id, write_reference

log = logging.getLogger(__name__)

STEPS = 4
"""Of which training tells progress: reading, preparing, fitting, saving."""


@dataclass(frozen=True, kw_only=True)
class TrainOptions(ProtocolChanges):
    """What is trained, on what, and what of the protocol is changed.

    Attributes
    ----------
    head
        A head, or `head:mode`, or `head:option=value,...`.
    protocol
        Whose panel, target and preprocessing are taken; nothing is held out.
    backbone
        Part of the feature keys before the `@`; the store's only one where None.
    views
        Side by side; all that the backbone has where empty.
    patches
        Patch set of the training rows, which must be measured; the only one, or spots, where None.
    slides
        To train on; all that have features and counts where empty.
    seed
        Of the head.
    """

    head: str = "ridge"
    protocol: str = "strict"
    backbone: str | None = None
    views: tuple[str, ...] = ()
    patches: str | None = None
    slides: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("views", "slides"):
            object.__setattr__(self, name, as_names(getattr(self, name), name))


@dataclass(frozen=True)
class TrainReport:
    """What was trained.

    Attributes
    ----------
    out
        Folder of the run.
    id
        Of the run.
    spots
        Training rows.
    warnings
        What limits the run, a sentence each.
    """

    out: str
    id: str
    head: str
    protocol: str
    keys: tuple[str, ...]
    slides: tuple[str, ...]
    patients: tuple[str, ...]
    spots: int
    genes: int
    seconds: float
    warnings: tuple[str, ...]


def train(
    store: Store | Path | str,
    out: Path | str,
    *,
    options: TrainOptions | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> TrainReport:
    """Fit one head on all usable slides, prepared as `compare` prepares training slides, and save it.

    Parameters
    ----------
    out
        Folder of the run: `head.json`, `head.safetensors`, `reference.safetensors`. A run in it is replaced.
    progress
        Called with what is done now, steps done, and steps in all.

    Raises
    ------
    TissuaryError
        If head, protocol, features or slides do not exist, no slide has counts, or the head cannot be saved.
    """
    options, opened, out = options or TrainOptions(), store if isinstance(store, Store) else Store(store), Path(out)
    started, step = time.perf_counter(), progress or _silent
    protocol = _protocol(options)
    who = _contestant(options.head, protocol)
    check_writable(out)
    step("reading features and counts", 0, STEPS)
    patches = opened.patch_set(options.patches)
    keys = feature_keys(opened, backbone=options.backbone, views=options.views, patches=patches)
    table, warnings = usable_table(opened, keys, patches=patches, tokens=who.reads_tokens, slides=options.slides)
    step("choosing genes and preparing targets", 1, STEPS)
    train_table, preprocessing = _prepared(table, protocol)
    step(f"fitting {who.label} on {len(train_table)} spots", 2, STEPS)
    head = who.make(who.seed_under(protocol, options.seed)).fit(train_table)
    step("saving", 3, STEPS)
    headers = headers_of(opened, train_table, patches=patches)
    save_head(head, out, table=train_table, protocol=protocol, headers=headers, preprocessing=preprocessing)
    write_reference(out, Familiarity.fit(train_table), _spread(train_table))
    step("saved", STEPS, STEPS)
    return TrainReport(
        out=str(out),
        id=run_id(out),
        head=who.label,
        protocol=protocol.name,
        keys=keys,
        slides=train_table.slide_ids,
        patients=tuple(dict.fromkeys(train_table.patient_ids)),
        spots=len(train_table),
        genes=len(train_table.panel),
        seconds=time.perf_counter() - started,
        warnings=(*patient_warnings(train_table.patient_ids), *warnings),
    )


def _protocol(options: TrainOptions) -> Protocol:
    protocol = changed_protocol(options.protocol, options)
    if protocol.feature_standardisation not in STANDARDISATIONS:
        msg = (
            f"protocol {protocol.name} standardises features by {protocol.feature_standardisation!r}, which new slides "
            'cannot be given: add `standardise="slide"`, or none'
        )
        raise ProtocolError(msg)
    return protocol


def _contestant(name: str, protocol: Protocol) -> HeadSpec:
    """One head.

    Raises
    ------
    HeadError
        If it is unknown, several, or needs what a slide without counts lacks.
    """
    if name == "all":
        msg = "head 'all': a run holds one head; `tissuary compare` tells which is best"
        raise HeadError(msg)
    found = contestants([name], protocol)[0]
    if found.entry.diagnostic:
        msg = f"head {name!r} is a diagnostic that looks at a spot's counts: a slide without counts has none"
        raise HeadError(msg)
    return found


def _prepared(table: Table, protocol: Protocol) -> tuple[Table, dict[str, object]]:
    """The training side of a fold that holds nothing out, and what was done."""
    every = tuple(range(len(table.slide_ids)))
    prepared = prepare(prepare_cohort(table, protocol), Fold("all", train=every, test=every[:1]), protocol)
    told = {**prepared.preprocessing, "spots_left_out": len(table) - len(prepared.train)}
    return prepared.train, told


def _spread(table: Table) -> NDArray[np.float32]:
    """Standard deviation (g,) of targets within slides."""
    assert table.targets is not None
    return np.asarray(centre_by_slide(table.targets, table.slide).std(axis=0), dtype=np.float32)


def _silent(what: str, done: int, total: int) -> None:
    """Nobody watches."""
