"""NH2ST (arXiv 2506.23827, MICCAI 2025) on stored features: a spot, its surroundings, and a contrast with genes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from ....store.errors import HeadError
from ....store.files.column import FeatureColumn
from ....store.table import Table
from ...engine.attention import attend
from ...engine.batch import Around, Batch
from ...engine.head import NeuralHead
from ...engine.neighbours import NEIGHBOURS, NeighbourRule, in_tissue, kinds_of
from ...engine.network import FeedForward, HeadModule, NetworkShape, SeededDropout, Step
from ...engine.training import TrainingOptions
from .paper import PUBLISHED, PublishedNetwork, far_apart, propagation_column, symmetric_contrast

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


class LookAlikeAttention(nn.Module):
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

    def __init__(self, shape: NetworkShape, widths: ContextWidths, *, rings: int, look_alikes: bool) -> None:
        super().__init__()
        dim, self.weight = widths.dim, widths.contrast
        self.drop_in, self.drop, self.drop_around = (SeededDropout(widths.dropout) for _ in range(3))
        self.adapter = nn.Linear(sum(shape.dims), dim)
        self.space = Surroundings(dim, rings=rings, per_ring=widths.per_ring) if rings else None
        self.product = None if self.space is None else Product(dim, self.space.width)
        self.look_alikes = LookAlikeAttention(dim, shape.n_genes) if look_alikes else None
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


MODES = ("default", "context", "paper")
EDGES_UM, PER_RING = (0.0, 300.0, 600.0), 8
NEAREST = 9
"""Spots of a published hypergraph, the spot itself first."""

TRAINING = TrainingOptions(batch=128, at_least=256, lr=8e-3)
EPOCHS, PAPER_EPOCHS = (10, 20), (5, 10)
MEMBERS, PAPER_MEMBERS = 3, 1
CONTRAST, PAPER_CONTRAST = 0.02, 1.0


class NH2ST(NeuralHead):
    """A spot and its surroundings, with image and genes contrasted in training.

    Mode `context` (the default): one linear adapter for a spot and its neighbours; attention over them with a bias by
    their offset in um, beside the mean of each ring; both enter as a sum and as a product with the spot; image alone,
    so that the same is done in prediction. The contrast is a symmetric InfoNCE between image and genes before either
    has seen the other, over steps of several slides with at least 256 spots where there are so many, with a learnt
    temperature; spots within 300 um of each other on a slide are not told apart. Genes are needed in training alone.

    Mode `paper`: the published network on frozen features, its losses, every spot alike, and Adam at 5e-4 in steps of
    six groups of eight. A prediction there is an affine function of the spot's own features: neighbours, hypergraph and
    genes take part in losses alone, and the contrast of neighbourhoods reaches what predicts only through shared
    layers. Its mistakes are kept: off-diagonal logits times 0.1, by which the contrast is least when all codes are the
    same; attention over one key; one LayerNorm for both sides. Of its 200 epochs, stopped on the test fold, are left 5
    or 10, chosen on inner folds: 200 take a quarter of an hour a fold of 1,300 spots on one core.

    Parameters
    ----------
    mode
        "default" (or "context"), or "paper".
    neighbours
        "off", "space", "feature" or "both". Look-alikes come with their training expression. `paper` has "space".
    shuffled
        Whether spots get the neighbours of other spots of their slide: an ablation.
    contrast
        Weight of the contrasts, down to 0; 0.02, or 1 in `paper`, where not given.
    dim, rank, dropout
        Of the `context` network: width, rank of the output layer, and share of values that are dropped.
    epochs, members
        As in `NeuralHead`; 3 members, or 1 in `paper`, where not given.
    anchor, seed, device
        As in `NeuralHead`.
    """

    choices: ClassVar = {"neighbours": NEIGHBOURS}

    def __init__(
        self,
        *,
        mode: str = "default",
        neighbours: str = "space",
        shuffled: bool = False,
        contrast: float | None = None,
        dim: int = 64,
        rank: int = 32,
        dropout: float = 0.3,
        anchor: str | None = None,
        epochs: int | None = None,
        members: int | None = None,
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        paper = mode == "paper"
        usual = PAPER_MEMBERS if paper else MEMBERS
        super().__init__(
            neighbours=neighbours,
            rule=NeighbourRule(EDGES_UM, PER_RING, nearest=NEAREST if paper else 0, shuffled=shuffled),
            anchor=anchor,
            training=PUBLISHED if paper else TRAINING,
            epochs=epochs,
            members=usual if members is None else members,
            seed=seed,
            device=device,
        )
        self.candidates = PAPER_EPOCHS if paper else EPOCHS
        self.mode, self.shuffled, self.dim, self.rank, self.dropout = mode, shuffled, dim, rank, dropout
        self.contrast = (PAPER_CONTRAST if paper else CONTRAST) if contrast is None else contrast

    @property
    def expression(self) -> bool:  # type: ignore[override]
        """Whether a network sees genes in training: a spot's own and its surroundings', or those of look-alikes."""
        return self.contrast > 0 or kinds_of(self.neighbours)[1]

    def columns(self, table: Table) -> tuple[FeatureColumn, ...]:
        """Features of all views; in `paper` the operator of every spot's hypergraph too."""
        views = tuple(table.columns.values())
        if self.mode != "paper":
            return views
        return (*views, propagation_column(table, in_tissue(table, self.rule, seed=self.seed)[0]))

    def build(self, shape: NetworkShape) -> HeadModule:
        """Make the network."""
        if self.mode == "paper":
            return PublishedNetwork(shape, contrast=self.contrast)
        space, feature = kinds_of(self.neighbours)
        widths = ContextWidths(self.dim, self.rank, self.dropout, PER_RING, self.contrast)
        return ContextNetwork(shape, widths, rings=len(EDGES_UM) - 1 if space else 0, look_alikes=feature)

    def fit(self, table: Table) -> Self:
        """Train; see the modes.

        Raises
        ------
        HeadError
            If an option does not exist, or not in this mode, or the table was not prepared for training.
        """
        self._check()
        super().fit(table)
        networks = [module for module in self.modules_ if isinstance(module, ContextNetwork)]
        if networks and self.contrast > 0:
            self.chosen_["temperature"] = float(np.mean([one.temperature.item() for one in networks]))
        return self

    def _check(self) -> None:
        if self.mode not in MODES:
            msg = f"mode={self.mode!r}: nh2st has {', '.join(MODES)}"
            raise HeadError(msg)
        if self.mode == "paper" and self.neighbours != "space":
            msg = f"neighbours={self.neighbours!r}: nh2st in mode paper has space alone; other modes have all"
            raise HeadError(msg)
        if not self.contrast >= 0:
            msg = f"contrast={self.contrast}: give a weight of 0 or more"
            raise HeadError(msg)
