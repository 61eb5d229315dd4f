"""MMAP (arXiv 2510.11344, PRICAI 2025) on stored features: views fused from the finest, and prototypes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray

from ....store.arrays import Ints
from ....store.errors import HeadError
from ....store.files.column import FeatureColumn
from ....store.naming import FeatureKey
from ....store.table import Table
from ...contract import training_arrays, with_views
from ...engine.head import NeuralHead, member_seeds
from ...engine.neighbours import NEIGHBOURS, NeighbourRule, kinds_of
from ...engine.network import HeadModule, NetworkShape
from ...engine.rows import RowData
from ...engine.training import TrainingOptions
from ..tokens import GRIDS, how_to_get
from .network import MultiViewPrototypes, Widths, finest_view
from .paper import BANKS, EPOCHS, PUBLISHED, STACKING, PublishedMMAP, fit_stages, predict_stages
from .prototypes import MOST_CLUSTERED, cohort_prototypes

MODES = ("default", "paper")
DIM, PAPER_DIM = 128, 512
MEMBERS = 3


class MMAP(NeuralHead):
    """Views fused by cross-attention from the finest, neighbours, and prototypes.

    Mode `default`: prototypes of the training cohort, started by k-means on slide-centred fused features, learnt, and
    added through a gate that starts at zero; one network, trained as all neural heads are. How far the gate opened is
    in `chosen_["prototype_gate"]`: on the cohorts tried it stays nearly shut, and what is gained over `ridge` comes
    from the fusion of views and from neighbours in tissue.

    Mode `paper`: the two published stages on frozen features. Stage 1 predicts from the spot; stage 2 attends from its
    fused vector to k-means prototypes of the spot's own slide (the half that is nearest), and averages. Adam at 1e-5,
    cosine to 1e-6, batches of 16 spots pooled over slides, 50 epochs, squared error plus `L_sim`, every spot alike. The
    original pads prototypes with zeros that take part in the softmax, clusters random crops, and trains stage 2 on what
    stage 1 says of its own training spots; here pads are masked, crops are whatever the store holds, and stacking is
    cross-fitted unless told otherwise. It has no neighbours and no anchor.

    Parameters
    ----------
    mode
        "default" or "paper".
    dim
        Width; 128, or 512 in `paper`, where a view of that very length is taken as it is.
    rank
        Of the output layer; 0 for a full one. `default` only.
    dropout
        Of features and of the last hidden layer. `default` only.
    prototypes
        Of the cohort; 0 leaves them out. `default` only: `paper` takes min(clip(n // 5, 32, 80), n) of n spots.
    bank
        `paper`: "prototypes", or "slide-mean", the control that replaces them by the mean of the slide.
    stacking
        `paper`: "cross-fitted", or "in-sample" as published.
    tokens
        `paper`: whether views other than the finest come as their token grids.
    neighbours, shuffled, per_ring, look_alikes
        As in `NeuralHead` and `NeighbourRule`; "space" where not told. `default` only.
    anchor, epochs, members, seed, device
        As in `NeuralHead`; `paper` takes 50 epochs and one member where not told.
    """

    choices: ClassVar = {"neighbours": NEIGHBOURS, "bank": BANKS, "stacking": STACKING}

    def __init__(
        self,
        *,
        mode: str = "default",
        dim: int | None = None,
        rank: int = 0,
        dropout: float = 0.3,
        prototypes: int = 32,
        bank: str = "prototypes",
        stacking: str = "cross-fitted",
        tokens: bool = False,
        neighbours: str | None = None,
        shuffled: bool = False,
        per_ring: int = 8,
        look_alikes: int = 8,
        anchor: str | None = None,
        epochs: int | None = None,
        members: int | None = None,
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        paper = mode == "paper"
        super().__init__(
            neighbours=("off" if paper else "space") if neighbours is None else neighbours,
            rule=NeighbourRule(per_ring=per_ring, look_alikes=look_alikes, shuffled=shuffled),
            anchor=anchor,
            training=PUBLISHED if paper else TrainingOptions(),
            epochs=epochs,
            members=(1 if paper else MEMBERS) if members is None else members,
            seed=seed,
            device=device,
        )
        self.mode, self.dim, self.rank, self.dropout, self.prototypes = mode, dim, rank, dropout, prototypes
        self.bank, self.stacking, self.tokens = bank, stacking, tokens
        self.shuffled, self.per_ring, self.look_alikes = shuffled, per_ring, look_alikes

    @property
    def expression(self) -> bool:  # type: ignore[override]
        """Look-alikes come with their training expression."""
        return kinds_of(self.neighbours)[1]

    @property
    def context_um(self) -> float | None:
        """As every neural head; `paper` clusters whole slides."""
        return None if self.mode == "paper" else super().context_um

    def build(self, shape: NetworkShape) -> HeadModule:
        """Make the network."""
        if self.mode == "paper":
            return PublishedMMAP(shape, dim=PAPER_DIM if self.dim is None else self.dim)
        space, feature = kinds_of(self.neighbours)
        widths = Widths(DIM if self.dim is None else self.dim, self.rank, self.prototypes, self.dropout)
        return MultiViewPrototypes(shape, widths, space=space, feature=feature)

    @property
    def reads_tokens(self) -> bool:
        """Whether views are seen as token grids."""
        return self.tokens

    def columns(self, table: Table) -> tuple[FeatureColumn, ...]:
        """Features of all views; with `tokens`, the finest as it is and the others as token grids.

        Raises
        ------
        HeadError
            If a view has no token grid, or there is none beyond the finest.
        """
        pooled = tuple(table.columns.values())
        if not self.tokens:
            return pooled
        if len(pooled) < 2:
            msg = (
                f"tokens=True shows the views beyond the finest as token grids, and there is one column of features "
                f"({pooled[0].key}): compare several views, under a protocol or `--standardise` that keeps them apart"
            )
            raise HeadError(msg)
        query = pooled[finest_view(tuple(table.columns))]
        return (query, *(_grid_of(column, table) for column in pooled if column.key != query.key))

    def prepare(self, module: HeadModule, data: RowData, rows: Ints, *, seed: int) -> None:
        """Start prototypes at k-means centres of what the untrained network makes of training rows."""
        if not isinstance(module, MultiViewPrototypes) or not self.prototypes:
            return
        if len(rows) > MOST_CLUSTERED:
            rows = np.random.default_rng(seed).choice(rows, MOST_CLUSTERED, replace=False)
        module.eval()
        with torch.no_grad():
            fused = module.fuse(data.features.take(rows)).cpu().numpy()
            centres = cohort_prototypes(fused, data.slide[rows], self.prototypes, seed=seed)
            module.prototypes[: len(centres)] = torch.from_numpy(centres).to(module.prototypes)

    def fit(self, table: Table) -> Self:
        """Train; see the modes.

        Raises
        ------
        HeadError
            If an option does not exist or not in this mode, or the table was not prepared for training.
        """
        self._check()
        if self.mode == "paper":
            return self._fit_paper(table)
        super().fit(table)
        networks = [module for module in self.modules_ if isinstance(module, MultiViewPrototypes)]
        if self.prototypes:
            self.chosen_["prototype_gate"] = float(np.mean([one.gate.detach().abs().mean().cpu() for one in networks]))
        return self

    def predict(self, table: Table) -> NDArray[np.float32]:
        """Predict (n, n_panel), the mean over members; in `paper` whole slides, since each is clustered by itself."""
        if self.mode != "paper":
            return super().predict(table)
        table = with_views(table, self.views_)
        if not len(table):
            return np.empty((0, self.shape_.n_genes), dtype=np.float32)
        data = self._rows(table)
        parts = [
            predict_stages(module, data, bank=self.bank, seed=seed)
            for seed, module in zip(member_seeds(self.seed, self.members), self.modules_, strict=True)
            if isinstance(module, PublishedMMAP)
        ]
        return np.asarray(np.mean(parts, axis=0), dtype=np.float32)

    def _fit_paper(self, table: Table) -> Self:
        self._check_numbers()
        y, _ = training_arrays(table)
        data = self._rows(table).with_targets(y)
        columns, self.views_ = self.columns(table), tuple(table.columns)
        self.shape_ = NetworkShape(tuple(c.key for c in columns), tuple(c.row_shape for c in columns), y.shape[1])
        self.epochs_ = EPOCHS if self.epochs is None else self.epochs
        options = replace(self.training, epochs=self.epochs_)
        self.modules_, curves, rule = [], [], "nothing"
        for seed in member_seeds(self.seed, self.members):
            torch.manual_seed(seed)
            network = self.build(self.shape_).to(data.features.device)
            assert isinstance(network, PublishedMMAP)
            rule, losses = fit_stages(
                network, data, table, options=options, stacking=self.stacking, bank=self.bank, seed=seed
            )
            self.modules_.append(network.eval())
            curves += losses
        self.loss_curve_ = tuple(curves)
        self.n_parameters_ = sum(p.numel() for module in self.modules_ for p in module.parameters())
        selection = "published" if self.epochs is None else "given"
        self.chosen_: dict[str, Any] = {"epochs": self.epochs_, "selection": selection, "cross_fit": rule}
        self.spread_ = np.ones(y.shape[1], dtype=np.float32)
        self.anchor_, self.reference_, self._reference_rows = None, None, None
        return self

    def _check(self) -> None:
        """Refuse options that do not exist, or not in this mode.

        Raises
        ------
        HeadError
            If there are some.
        """
        for name, allowed in (("mode", MODES), ("bank", BANKS), ("stacking", STACKING)):
            if getattr(self, name) not in allowed:
                msg = f"{name}={getattr(self, name)!r}: choose {', '.join(allowed)}"
                raise HeadError(msg)
        if self.mode == "paper" and (self.neighbours != "off" or self.anchor is not None):
            msg = "mode='paper' is the published method, without neighbours and anchor: use them in the default mode"
            raise HeadError(msg)
        if self.mode != "paper" and (self.tokens or self.bank != BANKS[0] or self.stacking != STACKING[0]):
            msg = (
                "tokens, bank and stacking are options of mode='paper': in the default mode prototypes=0 is the control"
            )
            raise HeadError(msg)


def _grid_of(column: FeatureColumn, table: Table) -> FeatureColumn:
    """The token grid of a view."""
    own = FeatureKey.parse(column.key)
    for key, grid in table.token_columns.items():
        other = FeatureKey.parse(key)
        if (other.encoder, other.view) == (own.encoder, own.view) and (other.layout or "").startswith("grid"):
            return grid
    msg = f"tokens=True, and there is no token grid of {column.key}. {how_to_get(table, GRIDS)}"
    raise HeadError(msg)
