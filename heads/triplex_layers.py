"""The parts of TRIPLEX on stored features: spots of a slide that attend to each other, and a window's own attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .engine.attention import attend
from .engine.batch import Batch
from .engine.module import FeedForward

SIDE = 5
"""Of the window around a spot."""

FAR_UM = 1000.0
"""Unit of distances between spots of a slide."""


class Block(nn.Module):
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
        As in `Block`.
    by_distance
        Whether distance counts.
    """

    def __init__(self, dim: int, *, heads: int, hidden: int, dropout: float = 0.0, by_distance: bool = True) -> None:
        super().__init__()
        self.block = Block(dim, heads=heads, hidden=hidden, dropout=dropout)
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
