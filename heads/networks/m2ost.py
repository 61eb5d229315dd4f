"""M2OST: token sets of growing fields around a spot, mixed within levels, between levels, and over channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...store.errors import HeadError
from ...store.table import Table
from ..engine.attention import attend
from ..engine.batch import Batch
from ..engine.network import FeedForward, HeadModule, NetworkShape, SeededDropout
from .token_head import NO_VECTORS, Adapter, DefaultMode, Glance, Placed, TokenHead
from .tokens import GRIDS, LEVELS, Rows, TokenLevel, cells_onto, chosen_levels, grid_levels, how_to_get

MIXERS = ("paper", "code")


class IntraLevel(nn.Module):
    """Self-attention within each level, then a feed-forward that all levels share, both with a residual (ITMM).

    Parameters
    ----------
    normed
        Whether tokens are normed before attention, as the paper says; its code defines the norms and skips them.
    """

    def __init__(self, levels: int, width: int, *, heads: int, hidden: int, normed: bool) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) if normed else nn.Identity() for _ in range(levels))
        self.to_all = nn.ModuleList(nn.Linear(width, 3 * width, bias=False) for _ in range(levels))
        self.outs = nn.ModuleList(nn.Linear(width, width) for _ in range(levels))
        self.shared = FeedForward(width, hidden)

    def forward(self, sets: list[Tensor]) -> list[Tensor]:
        """Mix the tokens (b, t_l, width) of each level."""
        mixed = []
        for x, norm, to_all, out in zip(sets, self.norms, self.to_all, self.outs, strict=True):
            query, keys, values = (part.contiguous() for part in to_all(norm(x)).chunk(3, dim=-1))
            x = x + out(attend(query, keys, values, heads=self.heads))
            mixed.append(x + self.shared(x))
        return mixed


class CrossLevel(nn.Module):
    """Each level attends to the tokens of every other (CTMM).

    `paper`: normed tokens, x_i + out_i(sum over j != i of w_ij attention(Q_i, K_j, V_j)), w_ij learnt (its Eq. 1; the
    residual is ours). `code`: what was attended to lies side by side, takes the place of x_i, and nothing is normed.
    """

    def __init__(self, levels: int, width: int, *, heads: int, mixer: str) -> None:
        super().__init__()
        self.heads, self.beside, others = heads, mixer == "code", levels - 1
        self.norms = nn.ModuleList(nn.Identity() if self.beside else nn.LayerNorm(width) for _ in range(levels))
        self.to_all = nn.ModuleList(nn.Linear(width, 3 * width, bias=False) for _ in range(levels))
        self.outs = nn.ModuleList(nn.Linear(width * (others if self.beside else 1), width) for _ in range(levels))
        if not self.beside:
            self.share = nn.Parameter(torch.full((levels, others), 1.0 / others))

    def forward(self, sets: list[Tensor]) -> list[Tensor]:
        """Mix the tokens (b, t_l, width) of each level with those of the others."""
        parts = [
            [part.contiguous() for part in to_all(norm(x)).chunk(3, dim=-1)]
            for x, norm, to_all in zip(sets, self.norms, self.to_all, strict=True)
        ]
        mixed = []
        for i, (x, out) in enumerate(zip(sets, self.outs, strict=True)):
            seen = [
                attend(parts[i][0], keys, values, heads=self.heads) for _, keys, values in parts[:i] + parts[i + 1 :]
            ]
            if self.beside:
                mixed.append(out(torch.cat(seen, dim=-1)))
            else:
                mixed.append(x + out(torch.einsum("j,jbtd->btd", self.share[i], torch.stack(seen))))
        return mixed


class CrossChannel(nn.Module):
    """Squeeze and excite over the channels of all levels: x + s x, s from the means of all levels (CCMM)."""

    def __init__(self, levels: int, width: int, *, hidden: int) -> None:
        super().__init__()
        dim = levels * width
        self.gate = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim), nn.Sigmoid()
        )

    def forward(self, sets: list[Tensor]) -> list[Tensor]:
        """Scale the channels of tokens (b, t_l, width) of each level, class tokens included."""
        scales = self.gate(torch.cat([x.mean(1) for x in sets], dim=-1)).chunk(len(sets), dim=-1)
        return [x * scale[:, None] + x for x, scale in zip(sets, scales, strict=True)]


class NestedMixer(HeadModule):
    """Adapters, blocks of the three mixings, class tokens of all levels to the genes.

    Parameters
    ----------
    dims
        Length of a stored token of each level; of one number where all levels share an adapter.
    placed
        Per level the weights (cells, stored cells) of each of its token sets, finest first.
    width, depth, heads
        Of the blocks; the feed-forward is two thirds, and the channel gate twice as wide, as in the paper.
    mixer
        "paper" or "code".
    """

    def __init__(
        self,
        dims: Sequence[int],
        placed: Sequence[Sequence[Tensor]],
        *,
        n_genes: int,
        width: int,
        depth: int,
        heads: int,
        mixer: str,
        vectors: Mapping[int, int] = NO_VECTORS,
        hidden: int = 256,
        rank: int | None = None,
        pooled: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        levels = len(placed)
        self.pooled, self.vector_at = pooled, tuple(vectors)
        self.adapters = nn.ModuleList(Adapter(dim, width) for dim in dims)
        self.placed = nn.ModuleList(nn.ModuleList(Placed(one) for one in sets) for sets in placed)
        self.cls = nn.Parameter(0.02 * torch.randn(width))
        lengths = [1 + sum(len(one) for one in sets) for sets in placed]
        self.places = nn.ParameterList(0.02 * torch.randn(length, width) for length in lengths)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                IntraLevel(levels, width, heads=heads, hidden=2 * width // 3, normed=mixer == "paper"),
                *([CrossLevel(levels, width, heads=heads, mixer=mixer)] if levels > 1 else []),
                CrossChannel(levels, width, hidden=2 * width),
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.drop = SeededDropout(dropout)
        self.glance = Glance(tuple(vectors.values()), hidden=hidden, dropout=dropout) if vectors else None
        read = levels * width * (2 if pooled else 1) + (hidden if vectors else 0)
        self.narrow = nn.Identity() if rank is None else nn.Linear(read, rank)
        self.genes = nn.Linear(read if rank is None else rank, n_genes)

    def sets(self, x: Sequence[Tensor]) -> list[Tensor]:
        """Class token, fine and coarse tokens (b, t_l, width) of each level, of stored ones (b, s, dim)."""
        out = []
        for i, (stored, sets, place) in enumerate(zip(x, self.placed, self.places, strict=False)):
            adapter = self.adapters[min(i, len(self.adapters) - 1)]
            parts = [one(stored, adapter) for one in sets.children()]
            cls = self.cls.expand(len(stored), 1, -1)
            out.append(torch.cat([cls, *parts], dim=1) + place)
        return out

    def forward(self, batch: Batch) -> Tensor:
        """Predict (b, n_genes)."""
        x = batch.own
        sets = [self.norm(one) for one in self.blocks_of(self.sets(x))]
        read = [one[:, 0] for one in sets]
        if self.pooled:
            read += [one[:, 1:].mean(1) for one in sets]
        seen = self.drop(torch.cat(read, dim=1))
        if self.glance is not None:
            seen = torch.cat([seen, self.glance([x[i] for i in self.vector_at])], dim=1)
        out: Tensor = self.genes(self.narrow(seen))
        return out

    def blocks_of(self, sets: list[Tensor]) -> list[Tensor]:
        """Token sets after all blocks."""
        for block in self.blocks:
            sets = block(sets)
        return sets


MODES = ("default", "paper", "code")

SIDE = 14
"""Cells a side of the grids that fine tokens are taken from."""

COARSE = 7
"""Cells a side of the coarse tokens of every level, as published."""


class M2OST(TokenHead):
    """Tokens of growing fields around one spot, mixed within levels, between levels and over channels.

    After arXiv 2409.15092 (M2OST, AAAI 2025), on stored tokens: adapters take the place of its pixel embeddings. Levels
    are token grids of nested views (`--tokens`). Each is seen coarsely, and where 14 x 14 cells or more are stored also
    finely over the fields of the levels before: 49, 98 and 114 tokens. Of 7 x 7 grids there are coarse tokens alone,
    which `chosen_` calls "coarse only (no-DPE)" after the paper's ablation.

    Blocks: attention within a level; between levels; a gate over all channels. `paper` follows the paper's text: normed
    attention, and between levels the weighted sum of its Eq. 1, where the residual is ours. `code` follows its code:
    nothing normed before attention, and between levels the attended outputs side by side, without a residual. The
    random mask that the paper names is in neither. The default is `paper`'s block at a small width on 64 principal
    components of each token, with an adapter a level, coarse tokens of 3 x 3 cells, mean tokens beside the class tokens
    and one hidden layer on the views' vectors, trained as all default heads. Cost on one core: about 0.4 s an epoch at
    800 spots.

    `paper` and `code` train by Adam at 1e-4 on squared error in batches of 96, one member. The 100 (200) published
    epochs take hours on a CPU, so the number is chosen among 5 and 10 on inner folds; `epochs=100` gives the published.

    Parameters
    ----------
    mode
        "default", "paper" or "code".
    width, depth, heads
        Of the blocks; 192, 4 and 3 as published, else 32, 1 and 1.
    coarse
        Cells a side of the coarse tokens; 7 as published, else 3.
    levels
        "all", or one of 0 (finest), 1, 2: an ablation, with the vector of that view alone.
    reduce, vectors, hidden, rank, dropout, weight_decay
        Of the default mode, as in `M2ORT`.
    anchor, epochs, members, seed, device
        As in `NeuralHead`.
    """

    choices: ClassVar = {"levels": LEVELS}

    candidates = (5, 10)

    def __init__(
        self,
        *,
        mode: str = "default",
        width: int | None = None,
        depth: int | None = None,
        heads: int | None = None,
        coarse: int | None = None,
        levels: str | int = "all",
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
        published = mode != "default"
        default = DefaultMode(
            reduce=reduce, vectors=vectors, hidden=hidden, rank=rank, dropout=dropout, weight_decay=weight_decay
        )
        super().__init__(
            default, published=published, anchor=anchor, epochs=epochs, members=members, seed=seed, device=device
        )
        self.mode, self.levels = mode, levels
        self.heads = heads or (3 if published else 1)
        self.width, self.depth = width or (192 if published else 32), depth or (4 if published else 1)
        self.coarse = coarse or (COARSE if published else 3)

    def levels_of(self, rows: Rows, *, table: Table | None = None) -> tuple[TokenLevel, ...]:
        """Token grids of growing fields, finest first.

        Raises
        ------
        HeadError
            If the features have none, or not those asked for.
        """
        found = grid_levels(rows, grid=SIDE)
        return chosen_levels(found, self.levels, head="m2ost", make=how_to_get(table, GRIDS))

    def told(self, levels: tuple[TokenLevel, ...]) -> dict[str, Any]:
        """Levels, the tokens of each, and whether there are fine ones."""
        sets = nested_sets(levels, coarse=self.coarse)
        fine = "fine and coarse" if any(len(one) > 1 for one in sets) else "coarse only (no-DPE)"
        return super().told(levels) | {"tokens": [sum(map(len, one)) for one in sets], "token_sets": fine}

    def build(self, shape: NetworkShape) -> HeadModule:
        """Make the network."""
        levels, vectors = self.levels_in(shape), self.vectors_in(shape)
        dims = shape.dims[: len(levels)]
        return NestedMixer(
            dims if self.mode == "default" else dims[:1],
            nested_sets(levels, coarse=self.coarse),
            n_genes=shape.n_genes,
            width=self.width,
            depth=self.depth,
            heads=self.heads,
            mixer="code" if self.mode == "code" else "paper",
            vectors=vectors,
            hidden=self.hidden,
            rank=self.rank,
            pooled=self.pooled,
            dropout=self.dropout,
        )


def nested_sets(levels: tuple[TokenLevel, ...], *, coarse: int) -> list[list[Tensor]]:
    """Weights (cells, stored cells) of the token sets of each level, finest first.

    Every level is seen in `coarse` x `coarse` cells; and where it stores enough of them, in 7 x 7 cells over the field
    of the level before and in 4 x 4 over that of the one before that: 49, 98 and 114 tokens of 14 x 14 grids. The
    central quarter of 14 x 14 is 3.5 cells wide and taken as 4.
    """
    out = []
    for i, level in enumerate(levels):
        sets = []
        for j, inner in enumerate(levels[:i]):
            cells = -(-COARSE // 2 ** (i - j - 1))
            share = inner.field_um / level.field_um
            if share < 1 and level.side * share >= cells - 0.5:
                field_um = level.field_um * max(share, cells / level.side)
                sets.append(cells_onto(level.side, level.field_um, to=cells, to_field_um=field_um))
        sets.append(cells_onto(level.side, level.field_um, to=coarse, to_field_um=level.field_um))
        out.append(sets)
    return out
