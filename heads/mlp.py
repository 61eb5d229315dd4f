"""A multilayer perceptron: the plainest network on frozen features."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..store.arrays import Floats, Ints
from ..store.table import Table
from .contract import training_arrays
from .engine.training import TrainingOptions, TrainingRows, train
from .inner import choose, inner_folds
from .mmap import EPOCHS, FIXED_EPOCHS, MOST_INNER_FOLDS, merge_folds
from .principal import gene_spread


class MLP:
    """Two layers with dropout on all views side by side, trained as all neural heads are.

    What a network gains over `ridge` here is the non-linearity alone: no attention, no neighbours, no prototypes. Cost:
    one training for each of three numbers of epochs on at most three inner folds, then one a member; 1,500 spots x
    1,000 features some twenty seconds on one core.

    Parameters
    ----------
    hidden
        Width of the hidden layer.
    dropout
        Of features and of hidden units.
    weight_decay
        Of AdamW.
    epochs
        None chooses among 5, 10 and 20 on inner folds, or takes 10 where there are too few training slides.
    members
        Networks, differing in seed, whose predictions are averaged.
    seed
        Of initial weights, batches and dropout.
    """

    def __init__(
        self,
        *,
        hidden: int = 256,
        dropout: float = 0.3,
        weight_decay: float = 0.05,
        epochs: int | None = None,
        members: int = 3,
        seed: int = 0,
    ) -> None:
        self.hidden, self.dropout, self.weight_decay = hidden, dropout, weight_decay
        self.epochs, self.members, self.seed = epochs, members, seed

    def fit(self, table: Table) -> Self:
        """Choose the number of epochs, then train every member on all rows."""
        y, weights = training_arrays(table)
        self.spread_ = gene_spread(y, weights)
        rows = TrainingRows(
            x=torch.from_numpy(table.features()),
            y=torch.from_numpy(y / self.spread_),
            weight=torch.from_numpy(weights),
            slide=torch.from_numpy(table.slide.astype(np.int64)),
        )
        self.epochs_, self.chosen_ = self._choose_epochs(table, rows)
        trained = [self._train(rows, self.epochs_, seed=self.seed + i) for i in range(self.members)]
        self.modules_ = [module for module, _ in trained]
        self.loss_curve_ = tuple(curve for _, curve in trained)
        self.n_parameters_ = sum(p.numel() for module in self.modules_ for p in module.parameters())
        return self

    def predict(self, table: Table) -> NDArray[np.float32]:
        """Predict (n, n_panel), the mean over members."""
        x = torch.from_numpy(table.features())
        with torch.inference_mode():
            mean = torch.stack([module(x) for module in self.modules_]).mean(0)
        return np.asarray(mean.numpy() * self.spread_, dtype=np.float32)

    def _train(self, rows: TrainingRows, epochs: int, *, seed: int) -> tuple[nn.Module, tuple[float, ...]]:
        torch.manual_seed(seed)
        module = nn.Sequential(
            nn.Dropout(self.dropout),
            nn.Linear(rows.x.shape[1], self.hidden),
            nn.GELU(),
            nn.Dropout(self.dropout),
            nn.Linear(self.hidden, rows.y.shape[1]),
        )
        return module, train(module, rows, TrainingOptions(epochs=epochs, weight_decay=self.weight_decay), seed=seed)

    def _choose_epochs(self, table: Table, rows: TrainingRows) -> tuple[int, dict[str, Any]]:
        if self.epochs is not None:
            return self.epochs, {"epochs": self.epochs, "selection": "given"}
        rule, folds = inner_folds(table)
        if rule == "fixed":
            return FIXED_EPOCHS, {"epochs": FIXED_EPOCHS, "selection": "fixed"}

        def predict(training: Ints, held: Ints) -> list[Floats]:
            part, x = rows.rows(torch.from_numpy(training)), rows.x[held]
            # Each candidate gets its own run: under a cosine schedule an early stop is not a short training.
            modules = [self._train(part, epochs, seed=self.seed)[0] for epochs in EPOCHS]
            with torch.inference_mode():
                return [module(x).numpy() for module in modules]

        folds = merge_folds(folds, MOST_INNER_FOLDS)
        best, scores = choose(EPOCHS, folds, truth=rows.y.numpy(), slide=table.slide, predict=predict)
        scored = dict(zip(map(str, EPOCHS), scores, strict=True))
        return int(best), {"epochs": int(best), "selection": rule, "inner_scores": scored}
