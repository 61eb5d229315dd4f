"""The networks of MMAP as its code defines them, on stored features: a stage for the spot, a stage for its slide."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ....store.arrays import Ints
from ....store.table import Table
from ...engine.anchor import cross_fit_groups
from ...engine.attention import attend
from ...engine.batch import Batch
from ...engine.network import HeadModule, NetworkShape, SeededDropout, Step
from ...engine.predicting import predict_rows
from ...engine.rows import RowData, RowFeatures
from ...engine.stacked import train_all
from ...engine.training import NetworkRun, TrainingOptions, in_full_precision
from .network import finest_view
from .prototypes import slide_means, slide_prototypes, top_half

HEADS, HEAD_DIM, DROPOUT = 8, 64, 0.2
MARGIN, SIMILARITY_WEIGHT, SIMILARITY_FROM = 0.2, 0.1, 5


@in_full_precision
def similarity_loss(fused: Tensor, anchor: Tensor, weight: Tensor) -> Tensor:
    """L_sim: the fused vector of a row stays near its anchor and away from those of other rows.

    `(1/B) [sum_i (1 - cos(f_i, c_i)) + sum_{i != j} max(0, cos(f_i, c_j) - 0.2)]`, B rows. As published: the second sum
    has B - 1 terms a row, so that it grows with the batch, and the gradient reaches the anchor too.

    Parameters
    ----------
    fused, anchor
        (b, d).
    weight
        (b,); rows of weight 0 are padding and count for nothing.
    """
    real = (weight > 0).to(fused.dtype)
    cosine = functional.normalize(fused, dim=1) @ functional.normalize(anchor, dim=1).T  # (b, b)
    same = torch.eye(len(real), dtype=fused.dtype, device=fused.device)
    pull = (real * (1.0 - cosine.diagonal())).sum()
    push = ((cosine - MARGIN).clamp_min(0.0) * (1.0 - same) * real[:, None] * real[None]).sum()
    return (pull + push) / real.sum().clamp_min(1.0)


class PublishedAttention(nn.Module):
    """Eight heads of 64 from one query over a sequence that holds the query too; no residual, no norm behind.

    Parameters
    ----------
    dim
        Of queries, keys and output.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        inner = HEADS * HEAD_DIM
        self.norm = nn.LayerNorm(dim)
        self.to_query, self.to_key, self.to_value = (nn.Linear(dim, inner, bias=False) for _ in range(3))
        self.out, self.drop = nn.Linear(inner, dim), SeededDropout(DROPOUT)

    def forward(
        self, query: Tensor, tokens: Tensor, *, position: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Attend from query (b, d); (b, d).

        Parameters
        ----------
        tokens
            (b, m, d); or (u, d), projected once, of which each query has those at `position` (b, m) where `mask` (b, m)
            is True.
        """
        normed = self.norm(tokens)
        k, v = self.to_key(normed), self.to_value(normed)
        if position is not None:
            k, v = k[position], v[position]
        q = self.to_query(self.norm(query))[:, None]
        out: Tensor = self.drop(self.out(attend(q, k, v, heads=HEADS, mask=mask)))[:, 0]
        return out


class SpotStage(HeadModule):
    """Stage 1: the finest view attends to all views, itself included; its own and the fused vector predict, averaged.

    Parameters
    ----------
    shape
        Of features and genes. A key with token grids (tokens, dim) adds one token a cell.
    dim
        Width. A view of another length passes through LayerNorm and Linear, which stand in for the low-rank updates of
        the encoders; one of this length goes in as it is.
    """

    def __init__(self, shape: NetworkShape, *, dim: int) -> None:
        super().__init__()
        self.query = finest_view(shape.keys)
        self.adapters = nn.ModuleList(
            nn.Identity() if d == dim else nn.Sequential(nn.LayerNorm(d), nn.Linear(d, dim)) for d in shape.dims
        )
        self.attention = PublishedAttention(dim)
        self.genes, self.direct = nn.Linear(dim, shape.n_genes), nn.Linear(dim, shape.n_genes)
        self.register_buffer("epoch", torch.zeros((), dtype=torch.int32), persistent=False)  # the engine keeps it
        self.epoch: Tensor

    def views(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The query (b, d), and the fused vector (b, d)."""
        adapted = [adapt(x) for adapt, x in zip(self.adapters, batch.own, strict=True)]
        tokens = [x if x.ndim == 3 else x[:, None] for x in adapted]  # (b, m of the view, d)
        query = tokens[self.query][:, 0]
        return query, self.attention(query, torch.cat(tokens, dim=1))

    def read(self, query: Tensor, fused: Tensor) -> Tensor:
        """Predict (b, n_genes)."""
        out: Tensor = 0.5 * (self.genes(fused) + self.direct(query))
        return out

    def forward(self, batch: Batch) -> Tensor:
        """Predict (b, n_genes)."""
        return self.read(*self.views(batch))

    def step(self, batch: Batch) -> Step:
        """Prediction, and L_sim from the sixth epoch on."""
        query, fused = self.views(batch)
        begun = (self.epoch >= SIMILARITY_FROM).to(fused.dtype)
        return Step(self.read(query, fused), SIMILARITY_WEIGHT * begun * similarity_loss(fused, query, batch.weight))


class SpotOutputs(HeadModule):
    """What stage 1 hands on: prediction and fused vector side by side (b, n_genes + d)."""

    def __init__(self, stage: SpotStage) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, batch: Batch) -> Tensor:
        """Prediction and fused vector."""
        query, fused = self.stage.views(batch)
        return torch.cat([self.stage.read(query, fused), fused], dim=1)


class SlideStage(HeadModule):
    """Stage 2: the fused vector attends to itself and to prototypes; averaged with what stage 1 predicts.

    Its batches carry fused vectors and stage 1's predictions as features, and prototypes as look-alikes.

    Parameters
    ----------
    dim, n_genes
        Lengths of both.
    """

    def __init__(self, dim: int, n_genes: int) -> None:
        super().__init__()
        self.attention = PublishedAttention(dim)
        self.genes = nn.Linear(dim, n_genes)

    def summary(self, batch: Batch) -> Tensor:
        """What the prototypes make of each row, (b, d)."""
        assert batch.feature is not None
        here = batch.feature
        position = torch.cat([batch.rows[:, None], here.position], dim=1)  # (b, 1 + k): itself first
        mask = torch.cat([torch.ones_like(here.mask[:, :1]), here.mask], dim=1)
        out: Tensor = self.attention(batch.own[0], batch.x[0], position=position, mask=mask)
        return out

    def forward(self, batch: Batch) -> Tensor:
        """Predict (b, n_genes)."""
        return self.read(batch, self.summary(batch))

    def read(self, batch: Batch, summary: Tensor) -> Tensor:
        """Predict (b, n_genes) from the summary (b, d)."""
        out: Tensor = 0.5 * (batch.own[1] + self.genes(summary))
        return out

    def step(self, batch: Batch) -> Step:
        """Prediction, and L_sim between summary and fused vector."""
        summary = self.summary(batch)
        loss = SIMILARITY_WEIGHT * similarity_loss(summary, batch.own[0], batch.weight)
        return Step(self.read(batch, summary), loss)


class PublishedMMAP(HeadModule):
    """Both stages in one place.

    Parameters
    ----------
    shape, dim
        As of `SpotStage`.
    """

    def __init__(self, shape: NetworkShape, *, dim: int) -> None:
        super().__init__()
        self.spot, self.slide = SpotStage(shape, dim=dim), SlideStage(dim, shape.n_genes)

    def forward(self, batch: Batch) -> Tensor:
        """Predict (b, n_genes) by stage 1 alone: stage 2 needs whole slides."""
        out: Tensor = self.spot(batch)
        return out


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
    runs = [NetworkRun(one, data, rows, options, seed) for one, rows in zip([stage, *copies], learnt, strict=True)]
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
    second = train_all([NetworkRun(network.slide, rows, np.arange(len(data)), options, seed)])[0]
    return rule, [first, second]


def predict_stages(network: PublishedMMAP, data: RowData, *, bank: str, seed: int) -> NDArray[np.float32]:
    """Predict (n, n_genes); the rows of a slide are clustered among themselves."""
    return predict_rows([network.slide], slide_rows(data, outputs_of(network.spot, data), bank=bank, seed=seed))


def _resident(fused: NDArray[np.float32], prediction: NDArray[np.float32], *, device: torch.device) -> RowFeatures:
    n = len(fused)
    tensors = tuple(torch.from_numpy(np.ascontiguousarray(one)).to(device) for one in (fused, prediction))
    return RowFeatures((), np.zeros(n, dtype=np.int64), np.arange(n), tensors, device)
