"""The network of NH2ST's own mode: the surroundings of a spot, and look-alikes, take part in every prediction."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .engine.attention import attend
from .engine.batch import Around, Batch
from .engine.dropout import SeededDropout
from .engine.module import FeedForward, HeadModule, Shape, Step
from .nh2st_contrast import far_apart, symmetric_contrast

PITCH_UM = 100.0
"""Unit of the offsets that the attention bias sees."""

ADJACENT_UM = 300.0
"""Spots of one slide this near to each other are never told apart: they share neighbours."""

FIRST_TEMPERATURE, LEAST_TEMPERATURE = 0.07, 0.01
ATTENTION_HEADS = 2


@dataclass(frozen=True)
class ContextWidths:
    """Sizes of the network.

    Attributes
    ----------
    dim, rank
        Width, and rank of the output layer: genes are co-expressed.
    dropout
        Of features, of the surroundings, and of hidden layers.
    per_ring
        Neighbours of a ring.
    contrast
        Weight of the contrast; 0 leaves it, and the gene encoder, out.
    """

    dim: int
    rank: int
    dropout: float
    per_ring: int
    contrast: float


class Surroundings(nn.Module):
    """Attention over neighbours in tissue, and their mean in each ring, side by side.

    Parameters
    ----------
    dim
        Width.
    rings, per_ring
        How neighbours are laid out.
    """

    def __init__(self, dim: int, *, rings: int, per_ring: int) -> None:
        super().__init__()
        self.per_ring, self.width = per_ring, (1 + rings) * dim
        self.norm = nn.LayerNorm(dim)
        self.to_query, self.to_keys = nn.Linear(dim, dim, bias=False), nn.Linear(dim, 2 * dim, bias=False)
        self.bias = nn.Sequential(nn.Linear(2, 16), nn.GELU(), nn.Linear(16, ATTENTION_HEADS))

    def forward(self, own: Tensor, every: Tensor, around: Around) -> Tensor:
        """Surroundings (b, width) of rows `own` (b, d), given all rows of the step (u, d)."""
        k, v = self.to_keys(self.norm(every))[around.position].chunk(2, dim=-1)  # (b, k, d)
        bias = self.bias(around.offset_um / PITCH_UM).transpose(1, 2)[:, :, None]  # (b, heads, 1, k)
        query = self.to_query(self.norm(own))[:, None]
        parts = [attend(query, k, v, heads=ATTENTION_HEADS, mask=around.mask, bias=bias)[:, 0]]
        here = around.mask.to(v.dtype)
        for start in range(0, here.shape[1], self.per_ring):
            ring = here[:, start : start + self.per_ring, None]
            parts.append((ring * v[:, start : start + self.per_ring]).sum(1) / ring.sum(1).clamp_min(1.0))
        return torch.cat(parts, dim=1)


class LookAlikes(nn.Module):
    """Attention over look-alikes, whose training expression is part of what they say.

    Parameters
    ----------
    dim, n_genes
        Width, and genes of the expression.
    """

    def __init__(self, dim: int, n_genes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.to_query, self.to_keys = nn.Linear(dim, dim, bias=False), nn.Linear(dim, 2 * dim, bias=False)
        self.of_expression = nn.Linear(n_genes, dim, bias=False)
        self.by_distance = nn.Parameter(torch.zeros(ATTENTION_HEADS))

    def forward(self, own: Tensor, every: Tensor, around: Around, *, expression: Tensor) -> Tensor:
        """What look-alikes say (b, d) of rows `own` (b, d), given all rows of the step (u, d) and their expression."""
        k, v = self.to_keys(self.norm(every)).chunk(2, dim=-1)
        both = torch.cat([k, v + self.of_expression(expression)], dim=-1)[around.position]  # (b, k, 2 d)
        k, v = both.chunk(2, dim=-1)
        bias = -self.by_distance[:, None, None] * around.distance[:, None, None]  # (b, heads, 1, k)
        query = self.to_query(self.norm(own))[:, None]
        return attend(query, k, v, heads=ATTENTION_HEADS, mask=around.mask, bias=bias)[:, 0]


class Product(nn.Module):
    """Surroundings as a sum and as a product with the spot: what lies around may mean the reverse on other morphology.

    Parameters
    ----------
    dim, width
        Of the spot and of its surroundings.
    """

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.plain, self.around, self.own = nn.Linear(width, dim), nn.Linear(width, dim), nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(self, own: Tensor, around: Tensor) -> tuple[Tensor, Tensor]:
        """The surroundings alone (b, d), and together with their product with the spot (b, d)."""
        alone = self.plain(around)
        return alone, alone + self.out(self.own(own) * self.around(around))


class ContextNetwork(HeadModule):
    """`Dec(a + c)`: a from the spot, c from its surroundings.

    Parameters
    ----------
    shape
        Of features and genes.
    widths
        Sizes.
    rings
        Rings in tissue; 0 for none.
    look_alikes
        Whether there are any.
    """

    def __init__(self, shape: Shape, widths: ContextWidths, *, rings: int, look_alikes: bool) -> None:
        super().__init__()
        dim, self.weight = widths.dim, widths.contrast
        self.drop_in, self.drop, self.drop_around = (SeededDropout(widths.dropout) for _ in range(3))
        self.adapter = nn.Linear(sum(shape.dims), dim)
        self.space = Surroundings(dim, rings=rings, per_ring=widths.per_ring) if rings else None
        self.product = None if self.space is None else Product(dim, self.space.width)
        self.look_alikes = LookAlikes(dim, shape.n_genes) if look_alikes else None
        self.decoder = FeedForward(dim, dim, dropout=widths.dropout)
        self.direct, self.genes = nn.Linear(dim, widths.rank), nn.Linear(widths.rank, shape.n_genes)
        self.gene_encoder = None
        if widths.contrast > 0:
            self.gene_encoder = nn.Sequential(nn.Linear(shape.n_genes, dim), nn.GELU(), nn.Linear(dim, dim))
            self.warmth = nn.Parameter(torch.zeros(1))  # logarithm of the temperature over its first value

    @property
    def temperature(self) -> Tensor:
        """Of the contrast, (1,)."""
        least = math.log(LEAST_TEMPERATURE / FIRST_TEMPERATURE)
        return FIRST_TEMPERATURE * self.warmth.clamp_min(least).exp()

    def codes(self, batch: Batch) -> tuple[Tensor, Tensor | None, Tensor]:
        """Of the spot (b, d), of its surroundings in tissue (b, d), and a + c (b, d)."""
        every = self.adapter(self.drop_in(torch.cat(batch.x, dim=1)))  # (u, d): every row once
        own, around = every[batch.rows], None
        fused = self.drop(own)
        if self.space is not None and self.product is not None:
            assert batch.space is not None
            around, together = self.product(own, self.drop_around(self.space(own, every, batch.space)))
            fused = fused + together
        if self.look_alikes is not None:
            assert batch.feature is not None and batch.expression is not None
            fused = fused + self.look_alikes(own, every, batch.feature, expression=batch.expression)
        return own, around, fused

    def decode(self, fused: Tensor) -> Tensor:
        """Predict (b, n_genes)."""
        out: Tensor = self.genes(self.direct(fused + self.decoder(fused)))
        return out

    def forward(self, batch: Batch) -> Tensor:
        """Predict (b, n_genes)."""
        return self.decode(self.codes(batch)[2])

    def step(self, batch: Batch) -> Step:
        """Prediction, and the contrast of image and genes: of spots, and of surroundings at half the weight."""
        own, around, fused = self.codes(batch)
        prediction = self.decode(fused)
        if self.gene_encoder is None:
            return Step(prediction)
        assert batch.expression is not None
        real = batch.weight > 0
        apart = far_apart(batch.place_um, batch.same_slide, within_um=ADJACENT_UM)
        options = {"temperature": self.temperature, "negatives": apart}
        loss = symmetric_contrast(own, self.gene_encoder(batch.expression[batch.rows]), real=real, **options)
        if around is not None and batch.space is not None:
            here = batch.space.mask
            code = self.gene_encoder(batch.expression)[batch.space.position] * here[..., None]  # (b, k, d)
            mean = code.sum(1) / here.sum(1, keepdim=True).clamp_min(1)
            loss = loss + 0.5 * symmetric_contrast(around, mean, real=real & here.any(1), **options)
        return Step(prediction, self.weight * loss)
