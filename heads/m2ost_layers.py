"""M2OST on stored tokens: token sets of growing fields, mixed within a level, between levels, and over channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from .engine.attention import attend
from .engine.batch import Batch
from .engine.dropout import SeededDropout
from .engine.module import FeedForward, HeadModule
from .tokens_adapter import NO_VECTORS, Adapter, Glance, Placed

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
