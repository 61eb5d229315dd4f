"""M2ORT: levels aligned over one region, their channels side by side, mixed over tissue and over channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ...store.errors import HeadError
from ...store.table import Table
from ..engine.attention import attend
from ..engine.batch import Batch
from ..engine.network import FeedForward, HeadModule, NetworkShape, SeededDropout
from .token_head import NO_VECTORS, Adapter, DefaultMode, Glance, Placed, TokenHead, as_tokens
from .tokens import (
    GRIDS,
    LAYOUTS,
    LEVELS,
    TILES,
    Rows,
    TokenLevel,
    aligned_levels,
    cells_onto,
    chosen_levels,
    how_to_get,
)

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


SIZES = {
    "nano": MixerSize(width=32, depth=1, heads=3, head_dim=32, hidden=64),
    "tiny": MixerSize(width=128, depth=2, heads=6, head_dim=64, hidden=256),
    "small": MixerSize(width=192, depth=6, heads=9, head_dim=64, hidden=384),
    "base": MixerSize(width=256, depth=8, heads=12, head_dim=64, hidden=512),
    "large": MixerSize(width=384, depth=12, heads=18, head_dim=64, hidden=768),
}
"""Small, base and large as published; tiny and nano are ours, for a few thousand spots."""

GRID, PAPER_GRID = 4, 7
"""Cells a side onto which token grids are brought where none is asked for."""

MODES = ("default", "paper")


class M2ORT(TokenHead):
    """Tokens of several resolutions that show the same tissue, mixed by attention and over channels.

    After arXiv 2401.10608 (M2ORT) and its code, on stored tokens: adapters take the place of its pixel embeddings.
    Levels show one region: sub-tiles of the `aligned` layout, or token grids, of which the part is taken that all views
    show. `paper` is the code's network, whose one attention takes query, key and value from the channels of the three
    levels. The default attends within each level, as the method's name says, at a small width on 64 principal
    components of each token, with mean tokens beside the class token and one hidden layer on the views' vectors. Cost
    on one core: about 0.3 s an epoch at 800 spots.

    `paper` trains by Adam at 1e-4 on squared error in batches of 96, one member. Its 200 published epochs take hours on
    a CPU, so the number is chosen among 5 and 10 on inner folds; `epochs=200` gives the published.

    Parameters
    ----------
    mode
        "default" or "paper".
    size
        Of `SIZES`; "nano", in `paper` "tiny".
    attention
        "intra" or "code"; as the mode says where not given.
    levels
        "all", or one of 0 (finest), 1, 2: an ablation, with the vector of that view alone.
    layout
        "tiles", "grid", or "auto": sub-tiles where there are any.
    grid
        Cells a side of the common grid; that of the finest sub-tiles, or 4 (7 in `paper`) of token grids.
    reduce
        Principal components of a token, learnt on training spots; None leaves tokens as stored.
    vectors
        Whether the views' whole-patch vectors are read beside the tokens, through `hidden` units.
    rank
        Of the output; None maps straight to the genes.
    dropout, weight_decay
        Of vectors, hidden units and what is read of the tokens; of AdamW.
    anchor, epochs, members, seed, device
        As in `NeuralHead`.
    """

    choices: ClassVar = {"layout": LAYOUTS, "levels": LEVELS, "size": tuple(SIZES), "attention": ATTENTIONS}

    candidates = (5, 10)

    def __init__(
        self,
        *,
        mode: str = "default",
        size: str | None = None,
        attention: str | None = None,
        levels: str | int = "all",
        layout: str = "auto",
        grid: int | None = None,
        reduce: int | None = 64,
        vectors: bool = True,
        hidden: int = 256,
        rank: int | None = None,
        dropout: float = 0.3,
        weight_decay: float = 0.05,
        anchor: str | None = None,
        epochs: int | None = None,
        members: int | None = None,
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        if mode not in MODES:
            msg = f"mode={mode!r}: choose {', '.join(MODES)}"
            raise HeadError(msg)
        paper = mode == "paper"
        default = DefaultMode(
            reduce=reduce, vectors=vectors, hidden=hidden, rank=rank, dropout=dropout, weight_decay=weight_decay
        )
        super().__init__(
            default, published=paper, anchor=anchor, epochs=epochs, members=members, seed=seed, device=device
        )
        self.mode, self.levels, self.layout, self.grid = mode, levels, layout, grid
        self.size = size or ("tiny" if paper else "nano")
        self.attention = attention or ("code" if paper else "intra")
        for name, value, choices in (("size", self.size, SIZES), ("attention", self.attention, ATTENTIONS)):
            if value not in choices:
                msg = f"{name}={value!r}: choose {', '.join(choices)}"
                raise HeadError(msg)

    def levels_of(self, rows: Rows, *, table: Table | None = None) -> tuple[TokenLevel, ...]:
        """Levels over one region, finest first.

        Raises
        ------
        HeadError
            If the features have none, or not those asked for.
        """
        found = aligned_levels(rows, layout=self.layout, grid=self.grid or PAPER_GRID)
        return chosen_levels(found, self.levels, head="m2ort", make=how_to_get(table, TILES, GRIDS))

    def build(self, shape: NetworkShape) -> HeadModule:
        """Make the network."""
        levels, vectors = self.levels_in(shape), self.vectors_in(shape)
        field_um = min(level.field_um for level in levels)
        grid = self.cells(levels)
        return AlignedMixer(
            shape.dims[: len(levels)],
            [cells_onto(one.side, one.field_um, to=grid, to_field_um=field_um) for one in levels],
            SIZES[self.size],
            n_genes=shape.n_genes,
            attention=self.attention,
            vectors=vectors,
            hidden=self.hidden,
            rank=self.rank,
            pooled=self.pooled,
            dropout=self.dropout,
        )

    def cells(self, levels: tuple[TokenLevel, ...]) -> int:
        """Cells a side of the common grid: as asked, else the finest sub-tiles', else 4 (7 in `paper`) of grids."""
        if self.grid is not None:
            return self.grid
        tiled = max((level.side for level in levels if ".tiles" in level.key), default=0)
        return tiled or (PAPER_GRID if self.mode == "paper" else GRID)
