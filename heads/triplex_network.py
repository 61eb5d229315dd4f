"""TRIPLEX in this project's own mode: one adapter for all rows, neighbours and slide as residuals behind gates."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .engine.batch import Batch
from .engine.dropout import SeededDropout
from .engine.loss import regression_loss
from .engine.module import HeadModule, Shape, Step
from .mmap_network import NeighbourAttention
from .triplex_layers import OverSlide

GATE = 0.1
"""Of every branch at the start."""


@dataclass(frozen=True)
class TriplexWidths:
    """Sizes and weights.

    Attributes
    ----------
    dim, rank
        Width, and rank of the output layer.
    dropout
        Of features and of the last hidden layer.
    distillation
        Weight of the branches' own losses.
    """

    dim: int = 128
    rank: int = 32
    dropout: float = 0.3
    distillation: float = 0.0


class ResidualTriplex(HeadModule):
    """A spot, plus what its neighbours add, plus what its slide adds, each through a learnt gate.

    Parameters
    ----------
    shape
        Of features and genes; views lie side by side.
    space, feature, slide
        Which branches there are: neighbours in tissue, look-alikes with their expression, the spots of the slide.
    """

    def __init__(self, shape: Shape, widths: TriplexWidths, *, space: bool, feature: bool, slide: bool) -> None:
        super().__init__()
        dim, rank = widths.dim, widths.rank
        self.distillation = widths.distillation
        self.drop_in, self.drop_out = SeededDropout(widths.dropout), SeededDropout(widths.dropout)
        self.adapter, self.norm = nn.Linear(sum(shape.dims), dim), nn.LayerNorm(dim)
        self.in_space = NeighbourAttention(dim) if space else None
        self.in_features = NeighbourAttention(dim, genes=shape.n_genes) if feature else None
        self.over_slide = OverSlide(dim, heads=4, hidden=2 * dim, dropout=widths.dropout) if slide else None
        self.gates = nn.ParameterList(nn.Parameter(torch.full((dim,), GATE)) for _ in range(space + feature + slide))
        self.mix = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU())
        self.direct = nn.Linear(dim, rank)
        self.genes = nn.Linear(rank, shape.n_genes)

    def added(self, batch: Batch) -> tuple[Tensor, list[Tensor]]:
        """Own rows (b, d), and what every branch adds to them."""
        every = self.norm(self.adapter(self.drop_in(torch.cat(batch.x, dim=1))))  # (u, d)
        own, found = every[batch.rows], []
        if self.in_space is not None and batch.space is not None:
            found.append(self.in_space(own, every, batch.space))
        if self.in_features is not None and batch.feature is not None:
            found.append(self.in_features(own, every, batch.feature, expression=batch.expression))
        if self.over_slide is not None:
            found.append(self.over_slide(own, batch) - own)
        return own, [gate * one for gate, one in zip(self.gates, found, strict=True)]

    def decode(self, x: Tensor) -> Tensor:
        """Hidden (b, d) to genes."""
        out: Tensor = self.genes(self.direct(self.drop_out(x + self.mix(x))))
        return out

    def forward(self, batch: Batch) -> Tensor:
        """Predict (b, n_genes)."""
        own, added = self.added(batch)
        return self.decode(own + sum(added))

    def step(self, batch: Batch) -> Step:
        """The prediction; with distillation also the spot alone, taught by the targets and by the whole."""
        own, added = self.added(batch)
        fused = self.decode(own + sum(added))
        if not self.distillation:
            return Step(fused)
        alone = self.decode(own)
        taught = batch._replace(y=fused.detach())
        extra = regression_loss(alone, batch, pearson_weight=0.0) + regression_loss(alone, taught, pearson_weight=0.0)
        return Step(fused, 0.5 * self.distillation * extra)
