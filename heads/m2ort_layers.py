"""M2ORT on stored tokens: aligned levels side by side in the channels, mixed over tissue and over channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .engine.attention import attend
from .engine.batch import Batch
from .engine.dropout import SeededDropout
from .engine.module import FeedForward, HeadModule
from .tokens_adapter import NO_VECTORS, Adapter, Glance, Placed, as_tokens

ATTENTIONS = ("code", "intra")


@dataclass(frozen=True)
class MixerSize:
    """How large a mixer is.

    Attributes
    ----------
    width
        Of one level; tokens of all levels together are as many times wider.
    depth
        Blocks.
    heads, head_dim
        Of the attention over all levels together.
    hidden
        Of the channel mixing.
    """

    width: int
    depth: int
    heads: int
    head_dim: int
    hidden: int


class SliceAttention(nn.Module):
    """Query, key and value from the channels of the first, second and third level (M2ORT's code).

    With fewer levels the last stands in for those that lack.
    """

    def __init__(self, levels: int, size: MixerSize) -> None:
        super().__init__()
        dim, inner = levels * size.width, size.heads * size.head_dim
        self.levels, self.heads = levels, size.heads
        self.norm = nn.LayerNorm(dim)
        self.to_query, self.to_keys, self.to_values = (nn.Linear(size.width, inner, bias=False) for _ in range(3))
        self.out = nn.Linear(inner, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens (b, t, levels * width) over t."""
        slices = self.norm(x).chunk(self.levels, dim=-1)
        first, second, third = (slices[min(i, self.levels - 1)] for i in range(3))
        mixed = attend(self.to_query(first), self.to_keys(second), self.to_values(third), heads=self.heads)
        out: Tensor = self.out(mixed)
        return out


class LevelAttention(nn.Module):
    """Self-attention among the tokens of each level, apart from the others (what the name intra-level says)."""

    def __init__(self, levels: int, size: MixerSize) -> None:
        super().__init__()
        self.heads = max(1, size.heads // levels)
        inner = self.heads * size.head_dim
        self.norms = nn.ModuleList(nn.LayerNorm(size.width) for _ in range(levels))
        self.to_all = nn.ModuleList(nn.Linear(size.width, 3 * inner, bias=False) for _ in range(levels))
        self.outs = nn.ModuleList(nn.Linear(inner, size.width) for _ in range(levels))

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens (b, t, levels * width) over t, level by level."""
        mixed = []
        for part, norm, to_all, out in zip(
            x.chunk(len(self.norms), dim=-1), self.norms, self.to_all, self.outs, strict=True
        ):
            query, keys, values = to_all(norm(part)).chunk(3, dim=-1)
            mixed.append(out(attend(query.contiguous(), keys.contiguous(), values.contiguous(), heads=self.heads)))
        return torch.cat(mixed, dim=-1)


class AlignedMixer(HeadModule):
    """Adapters, channels side by side, blocks of attention and channel mixing, and the class token to the genes.

    Parameters
    ----------
    dims
        Length of a token of each level, finest first.
    placed
        Weights (cells, stored cells) that bring each level onto the common grid.
    attention
        "code" or "intra".
    vectors
        Place in a batch, and length, of each whole-patch vector that is read beside the tokens.
    rank
        Rank of the output; None maps the class token straight to the genes, as published.
    pooled
        Whether the mean over tokens is read beside the class token.
    """

    def __init__(
        self,
        dims: Sequence[int],
        placed: Sequence[Tensor],
        size: MixerSize,
        *,
        n_genes: int,
        attention: str,
        vectors: Mapping[int, int] = NO_VECTORS,
        hidden: int = 256,
        rank: int | None = None,
        pooled: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        levels, dim = len(dims), len(dims) * size.width
        self.pooled, self.vector_at = pooled, tuple(vectors)
        self.adapters = nn.ModuleList(Adapter(one, size.width) for one in dims)
        self.placed = nn.ModuleList(Placed(weights) for weights in placed)
        self.cls = nn.Parameter(0.02 * torch.randn(dim))
        self.place = nn.Parameter(0.02 * torch.randn(1 + len(placed[0]), dim))
        kind = SliceAttention if attention == "code" else LevelAttention
        self.attentions = nn.ModuleList(kind(levels, size) for _ in range(size.depth))
        self.channels = nn.ModuleList(FeedForward(dim, size.hidden) for _ in range(size.depth))
        self.norm = nn.LayerNorm(dim)
        self.drop = SeededDropout(dropout)
        self.glance = Glance(tuple(vectors.values()), hidden=hidden, dropout=dropout) if vectors else None
        read = dim * (2 if pooled else 1) + (hidden if vectors else 0)
        self.narrow = nn.Identity() if rank is None else nn.Linear(read, rank)
        self.genes = nn.Linear(read if rank is None else rank, n_genes)

    def tokens(self, x: Sequence[Tensor]) -> Tensor:
        """Class token and aligned tokens (b, 1 + cells, levels * width) of stored ones, levels first in `x`."""
        parts = [
            placed(as_tokens(stored), adapter)
            for stored, adapter, placed in zip(x, self.adapters, self.placed, strict=False)
        ]
        aligned = torch.cat(parts, dim=-1)
        cls = self.cls.expand(len(aligned), 1, -1)
        return torch.cat([cls, aligned], dim=1) + self.place

    def forward(self, batch: Batch) -> Tensor:
        """Predict (b, n_genes)."""
        x = batch.own
        tokens = self.tokens(x)
        for attention, channels in zip(self.attentions, self.channels, strict=True):
            tokens = tokens + attention(tokens)
            tokens = tokens + channels(tokens)
        tokens = self.norm(tokens)
        read = [tokens[:, 0]]
        if self.pooled:
            read.append(tokens[:, 1:].mean(1))
        seen = self.drop(torch.cat(read, dim=1))
        if self.glance is not None:
            seen = torch.cat([seen, self.glance([x[i] for i in self.vector_at])], dim=1)
        out: Tensor = self.genes(self.narrow(seen))
        return out
