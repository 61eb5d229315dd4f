"""After EGN (WACV 2023) on stored features: spots ask what their look-alikes of other patients express."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ...store.errors import HeadError
from ..engine.batch import Around, Batch
from ..engine.head import NeuralHead
from ..engine.neighbours import NeighbourRule
from ..engine.network import CrossAttention, FeedForward, HeadModule, NetworkShape, SeededDropout
from ..engine.training import TrainingOptions

MODES = ("default", "paper")
NEIGHBOURS = ("feature", "off")

PAPER = TrainingOptions(
    batch=32, lr=5e-4, lr_end=5e-4, weight_decay=0.0, warmup=0.0, clip=1e9, pearson_weight=1.0, unit_spread=False,
    weighted=False,
)  # fmt: skip
"""Squared error and batch-wise correlation, 5e-4, batches of 32. A batch is of one slide here."""


@dataclass(frozen=True)
class EGNSizes:
    """Of the network.

    Attributes
    ----------
    dim, heads, hidden, depth
        Of its tokens and blocks.
    rank
        Of the last layer; 0 goes straight to genes.
    dropout
        Of features and of what the last layer sees.
    """

    dim: int = 128
    heads: int = 4
    hidden: int = 256
    depth: int = 1
    rank: int = 32
    dropout: float = 0.3


PUBLISHED = EGNSizes(dim=1024, heads=16, hidden=4096, depth=8, rank=0, dropout=0.0)


class BridgingBlock(nn.Module):
    """Attention among a spot's tokens, then from them to its exemplars, then a feed-forward layer; all residual."""

    def __init__(self, sizes: EGNSizes, *, bridged: bool) -> None:
        super().__init__()
        self.among = CrossAttention(sizes.dim, heads=sizes.heads)
        self.bridge = CrossAttention(sizes.dim, heads=sizes.heads) if bridged else None
        self.feed = FeedForward(sizes.dim, sizes.hidden, dropout=sizes.dropout / 3.0)

    def forward(self, x: Tensor, exemplars: Tensor | None, mask: Tensor | None) -> Tensor:
        """Tokens x (b, t, dim), exemplars (b, k, dim) and which there are (b, k), to tokens."""
        x = x + self.among(x, x)
        if self.bridge is not None and exemplars is not None:
            x = x + self.bridge(x, exemplars, mask=mask)
        out: Tensor = x + self.feed(x)
        return out


class ExemplarNetwork(HeadModule):
    """Views as tokens, with their sum before them; exemplars are what look-alikes look like and express.

    An exemplar is its summed adapted views plus a projection of its expression and of how alike it is. Genes are read
    off the first token.

    Parameters
    ----------
    shape
        Of features and genes.
    bridged
        Whether exemplars are asked at all.
    """

    def __init__(self, shape: NetworkShape, sizes: EGNSizes, *, bridged: bool) -> None:
        super().__init__()
        self.dims, self.bridged = shape.dims, bridged
        self.drop_in, self.drop_out = SeededDropout(sizes.dropout), SeededDropout(sizes.dropout)
        self.adapters = nn.ModuleList(nn.Linear(d, sizes.dim) for d in shape.dims)
        if bridged:
            self.expression = nn.Linear(shape.n_genes, sizes.dim)
            self.likeness = nn.Linear(1, sizes.dim)
        self.blocks = nn.ModuleList(BridgingBlock(sizes, bridged=bridged) for _ in range(sizes.depth))
        self.norm = nn.LayerNorm(sizes.dim)
        self.low_rank = nn.Linear(sizes.dim, sizes.rank) if sizes.rank else nn.Identity()
        self.genes = nn.Linear(sizes.rank or sizes.dim, shape.n_genes)

    def forward(self, batch: Batch) -> Tensor:
        """Predict (b, n_genes)."""
        own = self.tokens(self.drop_in(torch.cat(batch.own, dim=1)))
        exemplars, mask = self.exemplars(batch)
        for block in self.blocks:
            own = block(own, exemplars, mask)
        out: Tensor = self.genes(self.low_rank(self.drop_out(nn.functional.gelu(self.norm(own[:, 0])))))
        return out

    def tokens(self, x: Tensor) -> Tensor:
        """Adapted views (n, views, dim) of rows (n, sum of dims), behind their sum."""
        parts = torch.split(x, list(self.dims), dim=1)
        views = torch.stack([adapt(part) for adapt, part in zip(self.adapters, parts, strict=True)], dim=1)
        return torch.cat([views.sum(1, keepdim=True), views], dim=1)

    def exemplars(self, batch: Batch) -> tuple[Tensor | None, Tensor | None]:
        """Exemplars (b, k, dim) of each row and which there are, (b, k); features of exemplars are never dropped."""
        if not self.bridged:
            return None, None
        around, expression = batch.feature, batch.expression
        assert isinstance(around, Around)
        assert expression is not None
        seen = self.tokens(torch.cat(batch.x, dim=1))[:, 0]  # (u, dim): every row once
        known = seen + self.expression(expression)
        return known[around.position] + self.likeness(around.distance[..., None]), around.mask


class EGN(NeuralHead):
    """A spot's views ask the training spots of other patients that look most like it, and what these express.

    The page that specifies it gives widths, losses and the search of the published network, not the wiring of its
    bridging block: that one is ours in both modes. Exemplars never come from the spot's own patient (own slide, where
    there is one patient), in training and prediction. Without neighbours it is a small transformer over views.

    Parameters
    ----------
    mode
        "default": small, low rank, trained as all neural heads are. "paper": width 1024, 16 heads, 4096 hidden units,
        8 blocks, Adam without decay at 5e-4, batches of 32, squared error and correlation, 50 epochs (136 million
        parameters: for a GPU).
    neighbours
        "feature", or "off".
    shuffled
        Whether every spot gets the exemplars of another one of its slide: an ablation.
    k
        Exemplars; 9 is the best of the published ablation.
    dim, depth, rank, dropout
        Of the default mode: see `EGNSizes`.
    anchor, epochs, members, seed, device
        As in `NeuralHead`; members None is 3, and 1 in mode "paper".
    """

    choices: ClassVar = {"neighbours": NEIGHBOURS}

    candidates = (10, 20)
    expression = True

    def __init__(
        self,
        *,
        mode: str = "default",
        neighbours: str = "feature",
        shuffled: bool = False,
        k: int = 9,
        dim: int = 128,
        depth: int = 1,
        rank: int = 32,
        dropout: float = 0.3,
        anchor: str | None = None,
        epochs: int | None = None,
        members: int | None = None,
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        paper = mode == "paper"
        super().__init__(
            neighbours=neighbours,
            rule=NeighbourRule(look_alikes=k, shuffled=shuffled),
            anchor=anchor,
            training=PAPER if paper else TrainingOptions(),
            epochs=50 if paper and epochs is None else epochs,
            members=(1 if paper else 3) if members is None else members,
            seed=seed,
            device=device,
        )
        self.mode, self.shuffled, self.k = mode, shuffled, k
        self.dim, self.depth, self.rank, self.dropout = dim, depth, rank, dropout

    def build(self, shape: NetworkShape) -> HeadModule:
        """Make the network.

        Raises
        ------
        HeadError
            If the head has no such mode or neighbours.
        """
        if self.mode not in MODES:
            msg = f"egn has no mode {self.mode!r}: choose {' or '.join(MODES)}"
            raise HeadError(msg)
        if self.neighbours not in NEIGHBOURS:
            msg = f"egn attends to look-alikes, not neighbours={self.neighbours!r}: choose {' or '.join(NEIGHBOURS)}"
            raise HeadError(msg)
        sizes = EGNSizes(self.dim, 4, 2 * self.dim, self.depth, self.rank, self.dropout)
        return ExemplarNetwork(
            shape, PUBLISHED if self.mode == "paper" else sizes, bridged=self.neighbours == "feature"
        )
