"""TRIPLEX in this project's own mode: one adapter for all rows, neighbours and slide as residuals behind gates."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...engine.attention import attend
from ...engine.batch import Batch
from ...engine.network import FeedForward, HeadModule, NetworkShape, SeededDropout, Step
from ...engine.training import regression_loss
from ..mmap.network import NeighbourAttention

SIDE = 5
"""Of the window around a spot."""

FAR_UM = 1000.0
"""Unit of distances between spots of a slide."""


class TriplexBlock(nn.Module):
    """A transformer layer: attention of tokens to each other, then a feed-forward layer, both with a residual.

    Parameters
    ----------
    dim
        Width.
    heads
        Number of heads; must divide `dim`.
    hidden
        Width of the feed-forward layer.
    dropout
        In the feed-forward layer.
    """

    def __init__(self, dim: int, *, heads: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.to_all, self.out = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim)
        self.feed = FeedForward(dim, hidden, dropout=dropout)

    def forward(self, x: Tensor, *, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """Attend: tokens (b, m, d), masked (b, m), with a bias (b or 1, heads, m, m); (b, m, d)."""
        q, k, v = self.to_all(self.norm(x)).chunk(3, dim=-1)
        x = x + self.out(attend(q, k, v, heads=self.heads, mask=mask, bias=bias))
        b, m, d = x.shape
        flat = x.reshape(b * m, d)
        out: Tensor = (flat + self.feed(flat)).view(b, m, d)
        return out


class WindowBias(nn.Module):
    """One number a head and relative place of two tokens of a `SIDE` x `SIDE` window."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros((2 * SIDE - 1) ** 2, heads))
        at = torch.stack(torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij"), -1).view(-1, 2)
        step = at[:, None] - at[None] + SIDE - 1  # (25, 25, 2) from 0 on
        self.register_buffer("relative", step[..., 0] * (2 * SIDE - 1) + step[..., 1], persistent=False)
        self.relative: Tensor

    def forward(self) -> Tensor:
        """(1, heads, 25, 25)."""
        return self.table[self.relative].permute(2, 0, 1)[None]


class OverSlide(nn.Module):
    """Every spot attends to the spots of its slide that are there, nearer ones more as each head learns it.

    Products are lowered by distance in um times a slope per head, from 0 (the whole slide alike) to steep.

    Parameters
    ----------
    dim, heads, hidden, dropout
        As in `TriplexBlock`.
    by_distance
        Whether distance counts.
    """

    def __init__(self, dim: int, *, heads: int, hidden: int, dropout: float = 0.0, by_distance: bool = True) -> None:
        super().__init__()
        self.block = TriplexBlock(dim, heads=heads, hidden=hidden, dropout=dropout)
        self.slope = nn.Parameter(torch.linspace(-3.0, 1.5, heads)) if by_distance else None

    def forward(self, x: Tensor, batch: Batch) -> Tensor:
        """Own rows (b, d) to (b, d)."""
        n = len(x)
        # Padding belongs to no slide and sees itself alone; without that its softmax would be over nothing.
        together = batch.same_slide | torch.eye(n, dtype=torch.bool, device=x.device)
        bias = torch.where(together, 0.0, float("-inf"))[None]  # (1, b, b)
        if self.slope is not None:
            step = batch.place_um[:, None] - batch.place_um[None]
            away = torch.sqrt((step**2).sum(-1) + 1.0) / FAR_UM  # (b, b); one um keeps the root's gradient finite
            bias = bias - functional.softplus(self.slope)[:, None, None] * away
        out: Tensor = self.block(x[None], bias=bias[None])[0]
        return out


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

    def __init__(self, shape: NetworkShape, widths: TriplexWidths, *, space: bool, feature: bool, slide: bool) -> None:
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
