"""What all neural heads share: rows and neighbours, epochs chosen on inner folds, members, the anchor, prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from ...store.arrays import Floats, Ints
from ...store.errors import HeadError
from ...store.files.column import FeatureColumn
from ...store.table import Table
from ..contract import training_arrays, with_views
from ..linear.principal import gene_spread
from .anchor import FIXED_GATE, Anchor, check_anchor, choose_gates, fit_anchor
from .device import device_of
from .neighbours import NeighbourRule, apart, groups_of, in_tissue, kinds_of, look_alikes
from .network import HeadModule, NetworkShape, start_at_zero
from .predicting import predict_rows
from .rows import RowData
from .selection import EPOCHS, choose_epochs
from .stacked import train_all
from .training import NetworkRun, TrainingOptions


@dataclass(frozen=True)
class FitContext:
    """What all trainings on one table share.

    Attributes
    ----------
    y
        (n, g) targets.
    x
        (n, d) all views side by side, for anchor and look-alikes; (n, 0) where neither is wanted.
    base
        Rows and neighbours in tissue, without targets.
    inner_base
        (n, g) what the anchors of inner folds predict for the rows that these hold out.
    """

    head: NeuralHead
    table: Table
    y: NDArray[np.float32]
    x: NDArray[np.float32]
    base: RowData
    shape: NetworkShape
    inner_base: Floats

    @classmethod
    def of(cls, head: NeuralHead, table: Table, *, rows: RowData) -> FitContext:
        """Gather what a head needs of its training table, beside its rows."""
        y, _ = training_arrays(table)
        wanted = kinds_of(head.neighbours)
        columns = head.columns(table)
        shape = NetworkShape(tuple(c.key for c in columns), tuple(c.row_shape for c in columns), y.shape[1])
        x = table.features() if head.anchor is not None or wanted[1] else np.empty((len(table), 0), dtype=np.float32)
        return cls(head, table, y, x, rows, shape, np.zeros(y.shape))

    def view(self, rows: Ints) -> tuple[RowData, Anchor | None]:
        """What a training on some rows sees: their look-alikes among themselves, and what their anchor leaves."""
        data, anchor, y = self.base, None, self.y
        if kinds_of(self.head.neighbours)[1]:
            found = look_alikes(self.table, self.head.rule, train=rows, vectors=self.x, seed=self.head.seed)
            data = replace(data, feature=found)
        if self.head.anchor is not None:
            anchor = fit_anchor(self.table, self.x, rows)
            y = y.copy()
            y[rows] -= anchor.held_out
        # A look-alike shows its targets, not what its anchor leaves: that anchor was fitted on the query's targets.
        return data.with_targets(y / self.head.spread_, shown=self.y / self.head.spread_), anchor


@dataclass(frozen=True)
class InnerFold:
    """A head trained on a part of its training rows.

    Attributes
    ----------
    rows, held
        Learnt from, and held out.
    data
        As the training saw it.
    modules
        One for every number of epochs that was tried.
    """

    rows: Ints
    held: Ints
    data: RowData
    modules: tuple[HeadModule, ...]


def as_unseen(data: RowData) -> RowData:
    """Rows as at prediction: their own targets out of sight, those of look-alikes in training rows still shown."""
    return replace(data, y=None, shown=None, reference=None if data.feature is None else data)


RINGS = NeighbourRule()
TRAINING = TrainingOptions()


class NeuralHead:
    """A head whose `build` makes a network; the engine does the rest.

    A user's own head overrides `build` and is done; `columns`, `prepare` and `training` are there to be overridden
    too.

    Parameters
    ----------
    neighbours
        "off", "space" (rings in tissue), "feature" (look-alikes among training spots of other patients) or "both".
        A network that ignores `batch.space` and `batch.feature` takes "off".
    rule
        How neighbours are looked for.
    expression
        Whether batches carry the targets of training rows (`Batch.expression`).
    anchor
        "ridge": the network learns what cross-fitted ridge leaves, and a gate per gene keeps what helps.
    epochs
        None chooses among `candidates` on inner folds, or takes 10 where there are too few training slides.
    members
        Networks, differing in seed, whose predictions are averaged.
    seed
        Of initial weights, batches, dropout, and shuffled neighbours.
    device
        "cpu", "cuda", or "auto": a GPU where torch sees one.

    Attributes
    ----------
    tunes
        Whether a head chooses more than epochs and gates on inner folds, so that these run even where epochs are given.
    """

    candidates: Sequence[int] = EPOCHS
    expression: bool = False
    tunes: bool = False

    def __init__(
        self,
        *,
        neighbours: str = "off",
        rule: NeighbourRule = RINGS,
        anchor: str | None = None,
        training: TrainingOptions = TRAINING,
        epochs: int | None = None,
        members: int = 3,
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        self.neighbours, self.rule, self.anchor, self.training = neighbours, rule, anchor, training
        self.epochs, self.members, self.seed, self.device = epochs, members, seed, device

    @property
    def context_um(self) -> float | None:
        """How far from a row its prediction looks in tissue: 0 for the row alone, None for its whole slide.

        A head whose network relates rows of a slide by more than its neighbours (`Batch.same_slide`) says None.
        """
        if self.rule.shuffled and self.neighbours != "off":
            return None
        if not kinds_of(self.neighbours)[0]:
            return 0.0
        return None if self.rule.nearest else float(self.rule.edges_um[-1])

    # --- what a head overrides

    def build(self, shape: NetworkShape) -> HeadModule:
        """Make the network; torch's generator is seeded before."""
        raise NotImplementedError

    def columns(self, table: Table) -> tuple[FeatureColumn, ...]:
        """Features that the network sees: those of the table, in its order."""
        return tuple(table.columns.values())

    def prepare(self, module: HeadModule, data: RowData, rows: Ints, *, seed: int) -> None:
        """Start a new network from its training rows, such as prototypes by k-means; nothing by default."""

    def finish(self, data: RowData) -> None:
        """Keep what prediction needs beside the members, once they are trained on `data`; nothing by default."""

    def outputs(self, data: RowData) -> NDArray[np.float32]:
        """Predict (n, n_panel) in units of `spread_`: the mean over members."""
        return predict_rows(self.modules_, data)

    # --- the contract of a head

    def fit(self, table: Table) -> Self:
        """Choose epochs and gates on inner folds, then train every member on all rows.

        Raises
        ------
        HeadError
            If an option does not exist, or the table was not prepared for training.
        """
        check_anchor(self.anchor)
        self._check_numbers()
        y, weights = training_arrays(table)
        self.spread_ = gene_spread(y, weights) if self.training.unit_spread else np.ones(y.shape[1], dtype=np.float32)
        learner = FitContext.of(self, table, rows=self._rows(table))
        self.shape_, self.views_ = learner.shape, self._views(table, learner)
        choice = choose_epochs(
            table,
            y,
            epochs=self.epochs,
            candidates=self.candidates,
            held_needed=self.anchor is not None or self.tunes,
            predict=lambda folds, tried: self._inner(learner, folds, tried),
        )
        self.epochs_, self.chosen_ = choice.epochs, choice.told
        every = np.arange(len(table))
        data, self.anchor_ = learner.view(every)
        seeds = member_seeds(self.seed, self.members)
        runs = [self._run(learner, data, every, epochs=self.epochs_, seed=seed) for seed in seeds]
        self.loss_curve_ = tuple(train_all(runs))
        self.modules_ = [run.module for run in runs]
        self.finish(data)
        if data.feature is not None:
            self.chosen_["look_alikes"] = f"of other {apart(table, every)}s"
        self.n_parameters_ = sum(p.numel() for module in self.modules_ for p in module.parameters())
        if self.anchor_ is not None:
            self._set_gate(learner, choice.held, choice.prediction)
            self.n_parameters_ += (learner.x.shape[1] + 1) * y.shape[1]
        self.reference_ = table if data.feature is not None else None
        self._reference_rows = data if data.feature is not None else None
        return self

    def predict(self, table: Table) -> NDArray[np.float32]:
        """Predict (n, n_panel), the mean over members.

        Raises
        ------
        HeadError
            If the table lacks a view of training.
        """
        table = with_views(table, self.views_)
        if not len(table):
            return np.empty((0, len(self.spread_)), dtype=np.float32)
        data = self._rows(table)
        if self.reference_ is not None:
            found = look_alikes(
                self.reference_,
                self.rule,
                train=np.arange(len(self.reference_)),
                vectors=self.reference_.features(),
                queries=table,
                query_vectors=table.features(),
                seed=self.seed,
            )
            data = replace(data, feature=found, reference=self._reference_rows)
        out = self.outputs(data) * self.spread_
        if self.anchor_ is not None:
            out = self.anchor_.predict(table.features()) + self.gate_ * out
        return np.asarray(out, dtype=np.float32)

    # --- the inside

    def _check_numbers(self) -> None:
        if self.members < 1 or (self.epochs is not None and self.epochs < 0):
            msg = f"members={self.members}, epochs={self.epochs}: one member at least, and no fewer epochs than none"
            raise HeadError(msg)

    def _views(self, table: Table, learner: FitContext) -> tuple[str, ...]:
        """Views that prediction reads: those of the network, and all where an anchor or look-alikes read them."""
        return tuple(key for key in table.columns if learner.x.shape[1] or key in learner.shape.keys)

    def _rows(self, table: Table) -> RowData:
        device = device_of(self.device)
        data = RowData.of(table, self.columns(table), device)
        if not self.training.weighted:
            data = replace(data, weight=torch.ones_like(data.weight))
        in_space, _ = kinds_of(self.neighbours)
        if in_space:
            space, donor = in_tissue(table, self.rule, seed=self.seed)
            data = replace(data, space=space, donor=donor)
        return replace(data, expression=self.expression)

    def _run(self, learner: FitContext, data: RowData, rows: Ints, *, epochs: int, seed: int) -> NetworkRun:
        torch.manual_seed(seed)
        module = self.build(learner.shape)
        if self.anchor is not None:
            start_at_zero(module)
        module.to(data.features.device)
        self.prepare(module, data, rows, seed=seed)
        return NetworkRun(module, data, rows, replace(self.training, epochs=epochs), seed)

    def _inner(
        self, learner: FitContext, folds: Sequence[tuple[Ints, Ints]], tried: Sequence[int]
    ) -> list[list[Floats]]:
        """Predictions of every fold's held-out rows by every candidate, anchor included."""
        trained = self.train_inside(learner, folds, tried)
        bases = [0.0 if self.anchor is None else learner.inner_base[fold.held] for fold in trained]
        return [
            [base + self._held_out(module, fold) for module in fold.modules]
            for base, fold in zip(bases, trained, strict=True)
        ]

    def _held_out(self, module: HeadModule, fold: InnerFold) -> NDArray[np.float32]:
        return np.asarray(predict_rows([module], as_unseen(fold.data), rows=fold.held) * self.spread_)

    def train_inside(
        self, learner: FitContext, folds: Sequence[tuple[Ints, Ints]], tried: Sequence[int]
    ) -> list[InnerFold]:
        """Train the first member on every inner fold for every number of epochs, all of them together."""
        seed = member_seeds(self.seed, 1)[0]
        views = [learner.view(rows) for rows, _ in folds]
        runs = [
            [self._run(learner, data, rows, epochs=epochs, seed=seed) for epochs in tried]
            for (rows, _), (data, _) in zip(folds, views, strict=True)
        ]
        train_all([run for fold in runs for run in fold])
        for (_, held), (_, anchor) in zip(folds, views, strict=True):
            learner.inner_base[held] = 0.0 if anchor is None else anchor.predict(learner.x[held])
        return [
            InnerFold(rows, held, data, tuple(run.module for run in fold))
            for (rows, held), (data, _), fold in zip(folds, views, runs, strict=True)
        ]

    def _set_gate(self, learner: FitContext, held: Ints | None, prediction: Floats | None) -> None:
        if held is None or prediction is None:
            self.gate_ = np.full(learner.y.shape[1], FIXED_GATE)
        else:
            base = learner.inner_base[held]
            patient = groups_of(learner.table, "patient")[held]
            slide = learner.table.slide[held]
            self.gate_ = choose_gates(base, prediction - base, learner.y[held], slide, patient=patient)
        assert self.anchor_ is not None
        shares = {str(gate): float((self.gate_ == gate).mean()) for gate in (0.0, 0.5, 1.0)}
        self.chosen_ |= {"anchor_alpha": self.anchor_.alpha, "cross_fit": self.anchor_.groups, "gates": shares}


def member_seeds(seed: int, members: int) -> tuple[int, ...]:
    """Seeds of the networks of a head: two heads of different seeds share none, so that they are repeats."""
    return tuple(int(np.random.SeedSequence([seed, i]).generate_state(1)[0]) for i in range(members))
