"""NH2ST (arXiv 2506.23827, MICCAI 2025) on stored features: a spot, its surroundings, and a contrast with genes."""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np

from ..store.errors import HeadError
from ..store.feature_column import FeatureColumn
from ..store.table import Table
from .engine.head import NeuralHead
from .engine.module import HeadModule, Shape
from .engine.neighbourhoods import NEIGHBOURS, NeighbourRule, in_tissue, kinds_of
from .engine.training import TrainingOptions
from .nh2st_context import ContextNetwork, ContextWidths
from .nh2st_hypergraph import propagation_column
from .nh2st_paper import PUBLISHED, PublishedNetwork

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

    def build(self, shape: Shape) -> HeadModule:
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
