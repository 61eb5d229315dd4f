"""Training MMAP's two stages as published, the second on outputs of the first that are cross-fitted."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from ..store.arrays import Ints
from ..store.table import Table
from .engine.anchor import cross_fit_groups
from .engine.predicting import predict_rows
from .engine.rows import FeatureRows, RowData
from .engine.stacked import train_all
from .engine.training import Run, TrainingOptions
from .mmap_paper import PublishedMMAP, SpotOutputs, SpotStage
from .prototypes import slide_means, slide_prototypes, top_half

EPOCHS = 50
PUBLISHED = TrainingOptions(
    epochs=EPOCHS,
    batch=1,  # parts of one row, joined to sixteen: spots pooled over slides and shuffled
    at_least=16,
    lr=1e-5,
    lr_end=1e-6,
    weight_decay=0.0,  # which leaves Adam
    pearson_weight=0.0,
    warmup=0.0,
    clip=1e9,  # none
    unit_spread=False,
    weighted=False,  # the published loss counts every spot alike
)
MOST_GROUPS = 3
"""Trainings of stage 1 beside the one on all rows; patients are joined in turn."""

STACKING = ("cross-fitted", "in-sample")
BANKS = ("prototypes", "slide-mean")


@dataclass(frozen=True)
class SpotRows:
    """What stage 1 hands to stage 2.

    Attributes
    ----------
    fused
        (n, d).
    prediction
        (n, n_genes).
    """

    fused: NDArray[np.float32]
    prediction: NDArray[np.float32]


def outputs_of(stage: SpotStage, data: RowData, *, rows: Ints | None = None) -> SpotRows:
    """Stage 1 on some rows."""
    found = predict_rows([SpotOutputs(stage).eval()], data, rows=rows)
    genes = stage.genes.out_features
    return SpotRows(found[:, genes:], found[:, :genes])


def slide_rows(data: RowData, spots: SpotRows, *, bank: str, seed: int) -> RowData:
    """Rows as stage 2 sees them: outputs of stage 1 as features, the bank of their slide as look-alikes.

    Parameters
    ----------
    bank
        "prototypes", or "slide-mean": the control in which a slide is one token.
    """
    if bank == "slide-mean":
        centres, where = slide_means(spots.fused, data.slide)
    else:
        centres, where = slide_prototypes(spots.fused, data.slide, seed=seed)
    nothing = np.zeros((len(centres), spots.prediction.shape[1]), dtype=np.float32)
    reference = RowData(
        features=_resident(centres, nothing, device=data.features.device),
        slide=where,
        place_um=np.zeros((len(centres), 2)),
        weight=torch.zeros(len(centres), device=data.features.device),
    )
    return replace(
        data,
        features=_resident(spots.fused, spots.prediction, device=data.features.device),
        feature=top_half(spots.fused, data.slide, centres, where),
        reference=reference,
    )


def fit_spots(
    stage: SpotStage, data: RowData, table: Table, *, options: TrainingOptions, stacking: str, seed: int
) -> tuple[str, SpotRows, tuple[float, ...]]:
    """Train stage 1 in place on all rows, and make what stage 2 is to learn from.

    Parameters
    ----------
    data
        All rows of the table, with targets.
    stacking
        "cross-fitted": what copies of stage 1 say of patients (slides, quarters of slides) that they were not trained
        on. Copies start from the same weights and draw the same seed, so that their fused vectors lie in one space.
        "in-sample", as published: what stage 1 says of its own training rows.

    Returns
    -------
    tuple
        What was left out ("patients", "slides", "blocks" or "nothing"), outputs of every row, and the loss curve.
    """
    every = np.arange(len(data))
    rule, group = cross_fit_groups(table, every) if stacking == "cross-fitted" else ("nothing", np.zeros(len(data)))
    group = group % MOST_GROUPS
    left_out = [] if rule == "nothing" else [np.flatnonzero(group == one) for one in np.unique(group)]
    copies = [copy.deepcopy(stage) for _ in left_out]
    learnt = [every, *(np.setdiff1d(every, held, assume_unique=True) for held in left_out)]
    runs = [Run(one, data, rows, options, seed) for one, rows in zip([stage, *copies], learnt, strict=True)]
    losses = train_all(runs)[0]
    unseen = replace(data, y=None)
    spots = outputs_of(stage, unseen)
    for one, held in zip(copies, left_out, strict=True):
        here = outputs_of(one, unseen, rows=held)
        spots.fused[held], spots.prediction[held] = here.fused, here.prediction
    return rule, spots, losses


def fit_stages(
    network: PublishedMMAP,
    data: RowData,
    table: Table,
    *,
    options: TrainingOptions,
    stacking: str,
    bank: str,
    seed: int,
) -> tuple[str, list[tuple[float, ...]]]:
    """Train both stages in place; see `fit_spots` and `slide_rows`.

    Returns
    -------
    tuple
        What was left out for stacking, and the loss curves of both stages.
    """
    rule, spots, first = fit_spots(network.spot, data, table, options=options, stacking=stacking, seed=seed)
    rows = slide_rows(data, spots, bank=bank, seed=seed)
    second = train_all([Run(network.slide, rows, np.arange(len(data)), options, seed)])[0]
    return rule, [first, second]


def predict_stages(network: PublishedMMAP, data: RowData, *, bank: str, seed: int) -> NDArray[np.float32]:
    """Predict (n, n_genes); the rows of a slide are clustered among themselves."""
    return predict_rows([network.slide], slide_rows(data, outputs_of(network.spot, data), bank=bank, seed=seed))


def _resident(fused: NDArray[np.float32], prediction: NDArray[np.float32], *, device: torch.device) -> FeatureRows:
    n = len(fused)
    tensors = tuple(torch.from_numpy(np.ascontiguousarray(one)).to(device) for one in (fused, prediction))
    return FeatureRows((), np.zeros(n, dtype=np.int64), np.arange(n), tensors, device)
