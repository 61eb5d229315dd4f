"""CMRCNet (arXiv 2506.08854) on stored features: reconstruction and contrast across modalities, and retrieval."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Self

from ...store.errors import HeadError
from ...store.files.column import FeatureColumn
from ...store.naming import FeatureKey
from ...store.table import Table
from ..engine.network import NetworkShape
from ..engine.training import TrainingOptions
from .cmrc_networks import CMRCSizes, FixedCMRC, PublishedCMRC, Terms
from .retrieval import OWN, RetrievalHead, RetrievalModule
from .tokens import GRIDS, how_to_get

TOKENS = ("auto", "grid", "views")
TARGETS = ("attached", "detached")

PAPER = TrainingOptions(
    batch=16, at_least=64, lr=1e-4, lr_end=1e-5, weight_decay=1e-3, warmup=0.0, clip=1e9, pearson_weight=0.0,
    unit_spread=False, weighted=False,
)  # fmt: skip
"""Parts of at most 16 rows of a slide are joined to 64 at least, so that a step holds several slides. (The published
moving average of the weights is never evaluated, so there is none.)"""


class CMRC(RetrievalHead):
    """Masked reconstruction of images from genes, contrast of both, and prediction from the nearest training spots.

    Tokens are one a view; in mode "paper" a 7 x 7 grid of the first view and its pooled vector where the store has
    them. `chosen_["tokens"]` says which. (In mode "fixed" a grid cost three times as much and gained nothing.)

    Parameters
    ----------
    mode
        "default" or "fixed", which are one: the project's own. One adapter before everything, unit embeddings at a
        learnable temperature, whole tokens masked by a learnt one, the reconstruction's target detached; deviations
        from the slide's mean are retrieved with softmax weights and blended with a regression head; k, temperature and
        blend are chosen on inner folds, at 20 epochs. "paper": as published, on frozen features; AdamW 1e-4 to 1e-5,
        batches of 64, the plain mean of the 50 nearest. Its 60 epochs are kept where tokens are views; a token grid has
        many times as many tokens, so there it is 10 unless `epochs` is given: too few to be the paper's training.
    tokens
        "auto", "grid" or "views".
    contrast, reconstruction
        Weights of the two terms; 0 leaves one out.
    target
        "attached" (the published code: the image embedding learns from its own reconstruction) or "detached"; None is
        the mode's own. In mode "paper" a detached reconstruction changes nothing that is retrieved.
    soft
        Whether spots that are alike share the contrast's target, in mode "fixed".
    width, dim, rank, dropout, rows
        Of mode "fixed": see `CMRCSizes`.
    k, temperature, blend
        Of retrieval, and its share beside regression; None chooses on inner folds (50, uniform weights and 1 in mode
        "paper").
    anchor, epochs, members, seed, device
        As in `NeuralHead`; members None is 3, and 1 in mode "paper". No anchor in mode "paper".
    """

    choices: ClassVar = {"tokens": TOKENS, "target": TARGETS}

    modes = ("default", "fixed", "paper")

    def __init__(
        self,
        *,
        mode: str = "default",
        tokens: str = "auto",
        contrast: float = 1.0,
        reconstruction: float = 1.0,
        target: str | None = None,
        soft: bool = True,
        width: int = 256,
        dim: int = 64,
        rank: int = 32,
        dropout: float = 0.3,
        rows: int = 8,
        k: int | None = None,
        temperature: float | None = None,
        blend: float | None = None,
        anchor: str | None = None,
        epochs: int | None = None,
        members: int | None = None,
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        paper = mode == "paper"
        super().__init__(
            anchor=anchor,
            training=PAPER if paper else OWN,
            epochs=epochs,
            members=(1 if paper else 3) if members is None else members,
            seed=seed,
            device=device,
        )
        self.mode, self.tokens, self.target, self.soft = mode, tokens, target, soft
        self.contrast, self.reconstruction = contrast, reconstruction
        self.width, self.dim, self.rank, self.dropout, self.rows = width, dim, rank, dropout, rows
        self.k, self.temperature, self.blend = k, temperature, blend

    @property
    def terms(self) -> Terms:
        """What the loss is made of, in this mode.

        Raises
        ------
        HeadError
            If the target is neither attached nor detached.
        """
        if self.target not in (None, *TARGETS):
            msg = f"target={self.target!r}: choose {' or '.join(TARGETS)}, or None for the mode's own"
            raise HeadError(msg)
        attached = self.mode == "paper" if self.target is None else self.target == "attached"
        return Terms(self.contrast, self.reconstruction, attached, self.soft)

    def fit(self, table: Table) -> Self:
        """Learn from a prepared table.

        Raises
        ------
        HeadError
            If an option does not exist, tokens are asked for that the table lacks, the views' widths differ where
            each is a token of mode "paper", or this mode is left without a loss.
        """
        if self.mode == "paper" and self.contrast == 0 and self.reconstruction == 0:
            msg = "mode paper without contrast and reconstruction learns nothing: keep one, or take mode fixed"
            raise HeadError(msg)
        grid = self._grid(table)
        self._published_epochs = 60 if grid is None else 10
        super().fit(table)
        if grid is None:
            self.chosen_["tokens"] = f"one per view ({len(table.columns)})"
        else:
            behind = [column.key for column in self.columns(table)[:-1]]
            self.chosen_["tokens"] = " + ".join([grid.key, *behind])
        return self

    @property
    def candidates(self) -> tuple[int, ...]:  # type: ignore[override]
        """Numbers of epochs to choose from: one, since every mode has its own."""
        return (20,) if self.tunes else (self._published_epochs,)

    @property
    def reads_tokens(self) -> bool:
        """Whether a grid would be taken where there is one."""
        return self.tokens == "grid" or (self.tokens == "auto" and self.mode == "paper")

    def columns(self, table: Table) -> tuple[FeatureColumn, ...]:
        """Views, and the grid; prediction in mode "fixed" does without a grid."""
        views = tuple(table.columns.values())
        if self.mode != "paper" and (table.targets is None or self.terms.reconstruction == 0):
            return views
        grid = self._grid(table)
        if self.mode != "paper":
            return views if grid is None else (*views, grid)
        if grid is None:
            if len({view.dim for view in views}) > 1:
                found = ", ".join(f"{view.key} {view.dim}" for view in views)
                msg = (
                    f"tokens of one width are wanted, and the views are {found}: give one backbone, or token grids. "
                    f"{how_to_get(table, GRIDS)}"
                )
                raise HeadError(msg)
            return views
        view = _view_of(grid, views)
        pooled = () if view is None or views[view].dim != grid.dim else (views[view],)
        return (*pooled, grid)

    def build(self, shape: NetworkShape) -> RetrievalModule:
        """Make the network."""
        if self.mode == "paper":
            return PublishedCMRC(shape, terms=self.terms)
        sizes = CMRCSizes(self.width, self.dim, self.rank, self.dropout, self.rows)
        n_views = sum(len(row) == 1 for row in shape.rows)
        place = None
        if n_views < len(shape.rows):
            encoder_view = _without_layout(shape.keys[-1])
            if encoder_view in shape.keys and shape.dims[shape.keys.index(encoder_view)] == shape.dims[-1]:
                place = shape.keys.index(encoder_view)
        return FixedCMRC(shape, terms=self.terms, sizes=sizes, grid_view=place)

    def _grid(self, table: Table) -> FeatureColumn | None:
        """The grid of the first view that has one."""
        if self.tokens not in TOKENS:
            msg = f"tokens={self.tokens!r}: choose {', '.join(TOKENS)}"
            raise HeadError(msg)
        grids = [
            one for one in table.token_columns.values() if (FeatureKey.parse(one.key).layout or "").startswith("grid")
        ]
        if not self.reads_tokens or (self.tokens == "auto" and not grids):
            return None
        if not grids:
            msg = f"tokens='grid', and there is no token grid. {how_to_get(table, GRIDS)}, or take tokens=auto"
            raise HeadError(msg)
        views = tuple(table.columns.values())
        return min(grids, key=lambda one: len(views) if (place := _view_of(one, views)) is None else place)


def _view_of(grid: FeatureColumn, views: tuple[FeatureColumn, ...]) -> int | None:
    """Place of the view that a grid was pooled from."""
    keys = [view.key for view in views]
    return keys.index(key) if (key := _without_layout(grid.key)) in keys else None


def _without_layout(key: str) -> str:
    return str(replace(FeatureKey.parse(key), layout=None))
