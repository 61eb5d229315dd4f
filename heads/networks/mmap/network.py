"""The network of MMAP's default mode: views fused from the finest, neighbours and cohort prototypes as residuals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ....store.errors import InvalidNameError
from ....store.naming import FeatureKey
from ...engine.attention import attend
from ...engine.batch import Around, Batch
from ...engine.network import CrossAttention, HeadModule, NetworkShape, SeededDropout

REACH_UM = 300.0
"""Unit of offsets and distances in tissue that the attention bias sees."""


def finest_view(keys: Sequence[str]) -> int:
    """Place of the key of fewest um per px, the first of several; `native` is as fine as a slide can be.

    A column that was computed from several views, such as their principal components, has no um per px of its own: it
    is the finest only where it stands alone.
    """

    def um_per_px(key: str) -> float:
        try:
            size = FeatureKey.parse(key).size
        except InvalidNameError:
            return np.inf
        return 0.0 if size is None else size[1]

    return min(range(len(keys)), key=lambda i: um_per_px(keys[i]))


@dataclass(frozen=True)
class Widths:
    """Sizes of the network.

    Attributes
    ----------
    dim
        Width.
    rank
        Of the output layer; 0 for a full one.
    prototypes
        Of the cohort; 0 leaves them out.
    dropout
        Of features and of the last hidden layer.
    """

    dim: int = 128
    rank: int = 0
    prototypes: int = 32
    dropout: float = 0.3


class NeighbourAttention(nn.Module):
    """Attention of a row over its neighbours, scaled by the row itself.

    Every row is projected once and gathered by index. What is gathered is multiplied by a linear function of the query,
    so that the same surroundings can mean one thing beside one morphology and the reverse beside another.

    Parameters
    ----------
    dim
        Width.
    genes
        Length of the neighbours' expression, which is added to the values; 0 where it is not shown.
    heads
        Number of heads.
    """

    def __init__(self, dim: int, *, genes: int = 0, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm_query, self.norm_keys = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.to_query, self.to_keys = nn.Linear(dim, dim, bias=False), nn.Linear(dim, 2 * dim, bias=False)
        self.of_expression = nn.Linear(genes, dim, bias=False) if genes else None
        self.of_place = nn.Sequential(nn.Linear(3, 16), nn.GELU(), nn.Linear(16, heads, bias=False))
        self.by_query = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, query: Tensor, every: Tensor, around: Around, *, expression: Tensor | None = None) -> Tensor:
        """Attend: query (b, d) over rows (u, d) named by `around` (b, k), with expression (u, genes); (b, d)."""
        k, v = self.to_keys(self.norm_keys(every)).chunk(2, dim=-1)  # (u, d)
        if self.of_expression is not None and expression is not None:
            v = v + self.of_expression(expression)
        own = self.norm_query(query)
        place = torch.cat([around.offset_um, around.distance[..., None]], dim=-1)  # (b, k, 3)
        if self.of_expression is None:
            place = place / REACH_UM
        bias = self.of_place(place).transpose(1, 2)[:, :, None]  # (b, heads, 1, k)
        found = attend(
            self.to_query(own)[:, None],
            k[around.position],
            v[around.position],
            heads=self.heads,
            mask=around.mask,
            bias=bias,
        )[:, 0]
        out: Tensor = self.out(found * (1.0 + self.by_query(own)))
        return out * around.mask.any(-1)[:, None].to(out.dtype)


class MultiViewPrototypes(HeadModule):
    """Views -> one vector a row -> plus its neighbours -> plus what the prototypes say of it -> genes.

    Parameters
    ----------
    shape
        Of features and genes; the finest view is the query.
    widths
        Sizes.
    space, feature
        Whether neighbours in tissue, and look-alikes with their expression, are attended to.
    """

    def __init__(self, shape: NetworkShape, widths: Widths, *, space: bool = False, feature: bool = False) -> None:
        super().__init__()
        dim, self.query = widths.dim, finest_view(shape.keys)
        self.adapters = nn.ModuleList(nn.Linear(d, dim) for d in shape.dims)
        self.drop_in, self.drop_out = SeededDropout(widths.dropout), SeededDropout(widths.dropout)
        self.over_views = CrossAttention(dim)
        # Fusion starts as the plain mean of views: on few slides attention that starts at random is noise.
        nn.init.zeros_(self.over_views.out.weight)
        nn.init.zeros_(self.over_views.out.bias)
        self.in_space = NeighbourAttention(dim) if space else None
        self.in_features = NeighbourAttention(dim, genes=shape.n_genes) if feature else None
        self.over_prototypes = CrossAttention(dim) if widths.prototypes else None
        if widths.prototypes:
            self.prototypes = nn.Parameter(torch.zeros(widths.prototypes, dim))
            self.gate = nn.Parameter(torch.zeros(dim))
        self.mix = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU())
        self.low_rank = nn.Linear(dim, widths.rank) if widths.rank else nn.Identity()
        self.genes = nn.Linear(widths.rank or dim, shape.n_genes)

    def fuse(self, x: tuple[Tensor, ...]) -> Tensor:
        """Views, each (u, dim of the view), to one vector a row (u, d)."""
        parts = torch.split(self.drop_in(torch.cat(x, dim=1)), [one.shape[1] for one in x], dim=1)
        views = torch.stack([adapt(part) for adapt, part in zip(self.adapters, parts, strict=True)], dim=1)  # (u, v, d)
        fused: Tensor = views.mean(1) + self.over_views(views[:, self.query : self.query + 1], views)[:, 0]
        return fused

    def forward(self, batch: Batch) -> Tensor:
        """Predict (b, n_genes)."""
        every = self.fuse(batch.x)  # (u, d): own rows and neighbours, each once
        own = every[batch.rows]
        fused = own
        if self.in_space is not None and batch.space is not None:
            fused = fused + self.in_space(own, every, batch.space)
        if self.in_features is not None and batch.feature is not None:
            fused = fused + self.in_features(own, every, batch.feature, expression=batch.expression)
        if self.over_prototypes is not None:
            fused = fused + self.gate * self.over_prototypes.shared(own, self.prototypes)
        out: Tensor = self.genes(self.low_rank(self.drop_out(fused + self.mix(fused))))
        return out
