"""MMAP on stored features: views fused by cross-attention, and prototypes of the training cohort.

After the multi-magnification and prototype network of arXiv 2510.11344 (PRICAI 2025), on frozen features. This is the
project's own mode: prototypes are learnt over the training cohort on slide-centred features and enter through a gate
that starts at zero. (The published mode clusters every slide on its own, which acts mostly as a slide's name.)

On the cohorts tried so far the gate stays nearly shut (below 0.01): what this head gains over `ridge` comes from the
non-linear fusion of views, and the prototypes add nothing measurable. `chosen_["prototype_gate"]` tells.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ..store.arrays import Ints
from ..store.table import Table
from .contract import training_arrays
from .engine.training import TrainingOptions, TrainingRows, train
from .inner import inner_folds, mean_within_slide

EPOCHS = (5, 10, 20)
FIXED_EPOCHS = 10
MOST_INNER_FOLDS = 3


class CrossAttention(nn.Module):
    """Attention of one query per row over a set of keys, with a residual on the query.

    Parameters
    ----------
    dim
        Width of queries and keys.
    heads
        Number of heads; must divide `dim`.
    """

    def __init__(self, dim: int, *, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm_query, self.norm_keys = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.to_query, self.to_keys = nn.Linear(dim, dim, bias=False), nn.Linear(dim, 2 * dim, bias=False)
        self.out = nn.Linear(dim, dim)

    def forward(self, query: Tensor, keys: Tensor) -> Tensor:
        """Attend.

        Parameters
        ----------
        query
            (b, d).
        keys
            (b, m, d), or (m, d) shared by all rows, which then attend as one sequence of b queries.

        Returns
        -------
        Tensor
            (b, d).
        """
        b, d = query.shape
        own = keys.ndim == 3
        q = self._split(self.to_query(self.norm_query(query)).view(b if own else 1, -1, d))  # (b, h, 1, d/h)
        k, v = self.to_keys(self.norm_keys(keys if own else keys[None])).chunk(2, dim=-1)  # (b or 1, m, d)
        attended = functional.scaled_dot_product_attention(q, self._split(k), self._split(v))
        out: Tensor = self.out(attended.transpose(1, 2).reshape(b, d))
        return out

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)  # (b, m, d) -> (b, h, m, d/h)


class MultiViewPrototypes(nn.Module):
    """Views -> one vector -> plus what the prototypes say of it -> genes.

    Parameters
    ----------
    view_dims
        Length of the feature vector of each view; the first is the query.
    n_genes
        Outputs.
    dim, rank
        Width of the network, and rank of the output layer (genes are co-expressed).
    """

    def __init__(self, view_dims: tuple[int, ...], n_genes: int, *, dim: int, rank: int, prototypes: int) -> None:
        super().__init__()
        self.view_dims = view_dims
        self.adapters = nn.ModuleList(nn.Linear(d, dim) for d in view_dims)
        self.drop_in, self.drop_out = nn.Dropout(0.3), nn.Dropout(0.3)
        self.over_views = CrossAttention(dim)
        self.over_prototypes = CrossAttention(dim)
        self.prototypes = nn.Parameter(torch.zeros(prototypes, dim))
        self.gate = nn.Parameter(torch.zeros(dim))
        self.mix = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU())
        self.direct = nn.Linear(dim, rank)
        self.genes = nn.Linear(rank, n_genes)

    def fuse(self, x: Tensor) -> Tensor:
        """Views side by side (b, sum of view_dims) to one vector per row (b, dim)."""
        parts = torch.split(self.drop_in(x), list(self.view_dims), dim=1)
        views = torch.stack([adapt(part) for adapt, part in zip(self.adapters, parts, strict=True)], dim=1)  # (b, v, d)
        fused: Tensor = views.mean(1) + self.over_views(views[:, 0], views)
        return fused

    def forward(self, x: Tensor) -> Tensor:
        """Predict standardised targets (b, n_genes)."""
        fused = self.fuse(x)
        fused = fused + self.gate * self.over_prototypes(fused, self.prototypes)
        out: Tensor = self.genes(self.direct(self.drop_out(fused + self.mix(fused))))
        return out


class MMAP:
    """Multi-view fusion with cohort prototypes.

    Parameters
    ----------
    prototypes
        Number of prototypes, initialised by k-means on the fused, slide-centred training features.
    dim, rank
        Width of the network and rank of its output.
    epochs
        None chooses on inner folds, or takes 10 where there are too few training slides.
    members
        Networks, differing in seed, whose predictions are averaged.
    """

    def __init__(
        self,
        *,
        prototypes: int = 32,
        dim: int = 128,
        rank: int = 32,
        epochs: int | None = None,
        members: int = 3,
        seed: int = 0,
    ) -> None:
        self.prototypes, self.dim, self.rank = prototypes, dim, rank
        self.epochs, self.members, self.seed = epochs, members, seed

    def fit(self, table: Table) -> Self:
        """Choose the number of epochs, then train every member on all rows."""
        y, weights = training_arrays(table)
        self.spread_ = np.maximum(y.std(axis=0), 1e-3)  # genes that hardly vary are not blown up
        self.view_dims_ = tuple(column.dim for column in table.columns.values())
        rows = TrainingRows(
            x=torch.from_numpy(table.features()),
            y=torch.from_numpy(y / self.spread_),
            weight=torch.from_numpy(weights),
            slide=torch.from_numpy(table.slide.astype(np.int64)),
        )
        epochs, self.chosen_ = self._choose_epochs(table, rows)
        members = [self._train(rows, epochs, seed=self.seed + i) for i in range(self.members)]
        self.modules_ = [module for module, _ in members]
        # How far the gate opened says what the prototypes add to the views.
        self.chosen_["prototype_gate"] = float(np.mean([module.gate.detach().abs().mean() for module in self.modules_]))
        self.loss_curve_ = tuple(curve for _, curve in members)
        self.n_parameters_ = sum(p.numel() for module in self.modules_ for p in module.parameters())
        return self

    def predict(self, table: Table) -> NDArray[np.float32]:
        """Predict (n, n_panel), the mean over members."""
        x = torch.from_numpy(table.features())
        with torch.inference_mode():
            mean = torch.stack([module(x) for module in self.modules_]).mean(0)
        return np.asarray(mean.numpy() * self.spread_, dtype=np.float32)

    def _train(
        self, rows: TrainingRows, epochs: int, *, seed: int, after_epoch: Any = None
    ) -> tuple[MultiViewPrototypes, tuple[float, ...]]:
        torch.manual_seed(seed)
        module = MultiViewPrototypes(
            self.view_dims_, rows.y.shape[1], dim=self.dim, rank=self.rank, prototypes=self.prototypes
        )
        _initialise_prototypes(module, rows, seed=seed)
        hook = None if after_epoch is None else (lambda epoch: after_epoch(module, epoch))
        return module, train(module, rows, TrainingOptions(epochs=epochs), seed=seed, after_epoch=hook)

    def _choose_epochs(self, table: Table, rows: TrainingRows) -> tuple[int, dict[str, Any]]:
        """Epochs of best mean within-slide Pearson on held-out patients (slides)."""
        if self.epochs is not None:
            return self.epochs, {"epochs": self.epochs, "selection": "given"}
        rule, folds = inner_folds(table)
        if rule == "fixed":
            return FIXED_EPOCHS, {"epochs": FIXED_EPOCHS, "selection": "fixed"}
        scores = dict.fromkeys(EPOCHS, 0.0)
        for training, held in merge_folds(folds, MOST_INNER_FOLDS):
            x, truth, slide = rows.x[held], rows.y[held].numpy(), table.slide[held]
            share = len(np.unique(slide)) / len(table.slide_ids)
            # Each candidate gets its own run: under a cosine schedule an early stop is not a short training.
            for epochs in EPOCHS:
                module, _ = self._train(rows.rows(torch.from_numpy(training)), epochs, seed=self.seed)
                with torch.inference_mode():
                    scores[epochs] += share * mean_within_slide(module(x).numpy(), truth, slide)
        best = max(EPOCHS, key=lambda epochs: (scores[epochs], -epochs))
        return best, {"epochs": best, "selection": rule, "inner_scores": {str(e): s for e, s in scores.items()}}


def merge_folds(folds: tuple[tuple[Ints, Ints], ...], most: int) -> tuple[tuple[Ints, Ints], ...]:
    """At most `most` inner folds, held-out groups joined in turn; groups stay whole."""
    if len(folds) <= most:
        return folds
    held = [np.sort(np.concatenate([rows for _, rows in folds[i::most]])) for i in range(most)]
    every = np.sort(np.concatenate([rows for _, rows in folds]))
    return tuple((np.setdiff1d(every, rows, assume_unique=True), rows) for rows in held)


def _initialise_prototypes(module: MultiViewPrototypes, rows: TrainingRows, *, seed: int) -> None:
    """k-means centres of the untrained module's fused features, centred per slide."""
    from sklearn.cluster import KMeans

    module.eval()
    with torch.no_grad():
        fused = module.fuse(rows.x)
    for one in torch.unique(rows.slide):
        fused[rows.slide == one] -= fused[rows.slide == one].mean(0)
    k = min(len(module.prototypes), len(fused))
    centres = KMeans(k, n_init=1, random_state=seed).fit(fused.numpy()).cluster_centers_
    with torch.no_grad():
        module.prototypes[:k] = torch.from_numpy(centres.astype(np.float32))
