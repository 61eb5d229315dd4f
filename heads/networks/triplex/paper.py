"""TRIPLEX as published, on frozen features: spot, window and slide, fused by cross-attention, each with a loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...engine.batch import Around, Batch
from ...engine.network import CrossAttention, FeedForward, HeadModule, NetworkShape, Step
from ...engine.rows import RowData
from ...engine.training import regression_loss, slide_weights
from .network import SIDE, OverSlide, TriplexBlock, WindowBias

HEADS = 8
SOFT = 0.3
"""Share of the fused prediction in what each branch learns."""


class CrossEncoder(nn.Module):
    """Cross-attention with a residual on the query, then a feed-forward layer with a residual."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.attention, self.feed = CrossAttention(dim, heads=HEADS), FeedForward(dim, 2 * dim)

    def forward(self, query: Tensor, keys: Tensor, mask: Tensor | None = None) -> Tensor:
        """Query (b, d) over keys (b, m, d), masked (b, m); (b, d)."""
        x = query + self.attention(query[:, None], keys, mask=mask)[:, 0]
        out: Tensor = x + self.feed(x)
        return out


class PublishedTriplex(HeadModule):
    """Three branches and their fusion.

    The global token is the query of one cross-encoder, over the spot's own token and over its window; both answers are
    summed, normed and mapped to genes, and cut off at zero where no training target lies below it. The positional
    convolution of the global branch is depth-wise over the same window, before its two layers.

    Parameters
    ----------
    shape
        Of features and genes; views lie side by side.
    dim
        Width.
    """

    def __init__(self, shape: NetworkShape, *, dim: int) -> None:
        super().__init__()
        size = sum(shape.dims)
        self.of_target, self.of_window, self.of_slide = (nn.Linear(size, dim) for _ in range(3))
        self.window_bias, self.window = WindowBias(HEADS), TriplexBlock(dim, heads=HEADS, hidden=2 * dim)
        self.convolution = nn.Parameter(torch.zeros(SIDE**2, dim))
        self.slide = nn.ModuleList(OverSlide(dim, heads=HEADS, hidden=2 * dim, by_distance=False) for _ in range(2))
        self.cross, self.norm = CrossEncoder(dim), nn.LayerNorm(dim)
        self.genes = nn.Linear(dim, shape.n_genes)
        self.branches = nn.ModuleList(nn.Linear(dim, shape.n_genes) for _ in range(3))
        self.register_buffer("floor", torch.tensor(float("-inf")))
        self.floor: Tensor

    def start(self, data: RowData) -> None:
        """Cut predictions off at zero where targets are expression itself, not deviations."""
        if data.y is not None and bool((data.y >= 0).all()):
            self.floor.zero_()

    def forward(self, batch: Batch) -> Tensor:
        """Predict (b, n_genes)."""
        return self.parts(batch)[0]

    def step(self, batch: Batch) -> Step:
        """Fused prediction, and the losses of the branches: on the targets, and on the fused prediction."""
        fused, branches = self.parts(batch)
        assert batch.y is not None
        weights = batch.share @ slide_weights(batch)  # (b,)
        extra = batch.weight.new_zeros(())
        for one in branches:
            apart = (weights * ((fused - one) ** 2).mean(1)).sum()
            extra = extra + (1 - SOFT) * regression_loss(one, batch, pearson_weight=0.0) + SOFT * apart
        return Step(fused, extra)

    def parts(self, batch: Batch) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Fused prediction, and those of the spot, the window and the slide."""
        x, around = torch.cat(batch.x, dim=1), batch.space
        assert around is not None
        target = self.of_target(x[batch.rows])
        window = self.window(self._seen(self.of_window(x), around), mask=around.mask, bias=self.window_bias())
        count = around.mask.sum(1, keepdim=True).clamp_min(1)
        mean = (window * around.mask[..., None]).sum(1) / count
        every = self.of_slide(x)
        spot = every[batch.rows] + (self._seen(every, around) * self.convolution).sum(1)
        for layer in self.slide:
            spot = layer(spot, batch)
        both = self.cross(spot, target[:, None]) + self.cross(spot, window, around.mask)
        fused = torch.maximum(self.genes(self.norm(both)), self.floor)
        return fused, tuple(out(one) for out, one in zip(self.branches, (target, mean, spot), strict=True))

    def _seen(self, values: Tensor, around: Around) -> Tensor:
        """Values (u, d) in the places of the window, zero where there is no spot, (b, 25, d)."""
        return values[around.position] * around.mask[..., None].to(values.dtype)
