"""Expression by retrieval: training spots of largest cosine by the store's exact search, and their weighted mean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from torch import Tensor

from ...store.arrays import Floats, Ints
from ...store.errors import HeadError
from ...store.search.exact import flat_index, search_exact, unit_rows
from ...store.search.flat import Groups
from ...store.table import Table
from ..contract import training_arrays
from ..engine.batch import Batch
from ..engine.head import FitContext, InnerFold, NeuralHead, as_unseen
from ..engine.neighbours import apart, groups_of
from ..engine.network import HeadModule
from ..engine.predicting import predict_rows
from ..engine.rows import RowData
from ..engine.training import TrainingOptions
from ..protocols.inner import mean_within_slide
from ..protocols.targets import centre_by_slide, slide_mean

SIZES = (10, 50, 200)
TEMPERATURES = (0.05, 0.1, 0.2, 0.4)
BLENDS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Settings:
    """How what was retrieved becomes a prediction.

    Attributes
    ----------
    k
        Training spots.
    temperature
        Of the softmax over their cosines; None weighs all alike.
    blend
        Share of retrieval in the prediction, beside the regression head; 1 is retrieval alone.
    """

    k: int = 50
    temperature: float | None = None
    blend: float = 1.0


@dataclass(frozen=True)
class RetrievedSpots:
    """The best training spots of m queries.

    Attributes
    ----------
    cosine
        (m, k) float64, best first; -inf where a query has fewer.
    rows
        (m, k) rows of the memory; -1 where a query has fewer.
    """

    cosine: NDArray[np.float64]
    rows: NDArray[np.int64]


def find(keys: Floats, queries: Floats, k: int, *, groups: Groups | None = None) -> RetrievedSpots:
    """The k keys (n, e) of largest cosine for each of the queries (m, e), exactly, ties by row.

    Parameters
    ----------
    groups
        Leaves keys of each query's own group out, such as those of its patient.
    """
    index = flat_index(unit_rows(keys))
    return RetrievedSpots(*search_exact(index, unit_rows(queries), k, groups=groups))


def weighted_means(
    found: RetrievedSpots,
    values: Floats,
    *,
    k: int | None = None,
    temperature: float | None = None,
    weights: Floats | None = None,
) -> NDArray[np.float64]:
    """Means (m, g) of the values (n, g) of what was found.

    Parameters
    ----------
    k
        Only the first so many; all where not given.
    temperature
        Weights are softmax(cosine / temperature) over them; None weighs all alike.
    weights
        (n,) of the memory's rows, such as how well a spot was measured; they multiply.

    Returns
    -------
    ndarray
        Zeros for a query that found nothing.
    """
    cosine, rows = found.cosine[:, :k], found.rows[:, :k]
    seen = rows >= 0
    best = np.where(seen.any(axis=1), cosine.max(axis=1, initial=-np.inf), 0.0)[:, None]
    w = seen.astype(np.float64)
    if temperature is not None:
        w = np.exp(np.where(seen, cosine - best, -np.inf) / temperature)
    if weights is not None:
        w *= weights[np.maximum(rows, 0)]
    w /= np.maximum(w.sum(axis=1, keepdims=True), 1e-12)
    m, width = rows.shape
    start = np.arange(m + 1) * width
    sparse = csr_matrix((w.ravel(), np.maximum(rows, 0).ravel(), start), shape=(m, len(values)))
    return np.asarray(sparse @ np.asarray(values, dtype=np.float64))


@dataclass(frozen=True)
class HeldOutRows:
    """What an inner fold knows of its held-out rows: found training rows, their values, and the regression head's word.

    Attributes
    ----------
    values, weights
        (n, g) and (n,) of the training rows of the fold.
    regression
        (m, g); None where there is no regression head.
    base, spread
        A prediction is `base + spread * (blend * retrieved + (1 - blend) * regression)`.
    """

    found: RetrievedSpots
    values: Floats
    weights: Floats | None
    regression: Floats | None
    base: Floats | float
    spread: Floats

    def retrieved(self, settings: Settings) -> Floats:
        """Mean (m, g) of what was found, under some settings."""
        return weighted_means(
            self.found, self.values, k=settings.k, temperature=settings.temperature, weights=self.weights
        )

    def predicted(self, retrieved: Floats, blend: float) -> Floats:
        """Prediction (m, g) in units of the targets."""
        return self.base + self.spread * blended(retrieved, self.regression, blend)


def blended(retrieved: Floats, regression: Floats | None, blend: float) -> Floats:
    """`blend` of retrieval, and the rest of regression."""
    return retrieved if regression is None else blend * retrieved + (1.0 - blend) * regression


def candidates(
    k: int | None, temperature: float | None, *, temperatures: Sequence[float | None] = TEMPERATURES
) -> Iterator[tuple[int, float | None]]:
    """Pairs of k and temperature to choose from; what is given stands."""
    for size in SIZES if k is None else (k,):
        for one in temperatures if temperature is None else (temperature,):
            yield size, one


OWN = TrainingOptions(batch=128)
"""Of the modes that are the project's own. Small cohorts have few steps in an epoch, and contrast wants steps."""


class RetrievalModule(HeadModule):
    """A network that embeds spots by what they look like and by what they express, in one space.

    Attributes
    ----------
    regresses
        Whether `forward` predicts genes; else prediction is retrieval alone.
    """

    regresses: bool = False

    def embed(self, batch: Batch) -> Tensor:
        """Embed what the rows look like, (b, e)."""
        raise NotImplementedError

    def keys(self, y: Tensor) -> Tensor:
        """Embed expression (n, g) to (n, e), under which training spots are found."""
        raise NotImplementedError

    def forward(self, batch: Batch) -> Tensor:
        """The embedding, where nothing is regressed."""
        return self.embed(batch)


class _Both(HeadModule):
    """Regression and embedding side by side, from one pass."""

    def __init__(self, module: RetrievalModule) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: Batch) -> Tensor:
        embedding = self.module.embed(batch).float()
        return torch.cat([self.module(batch).float(), embedding], dim=1) if self.module.regresses else embedding


class RetrievalHead(NeuralHead):
    """A neural head that predicts from the training spots whose expression lies nearest to a spot's image embedding.

    It keeps the embeddings (members, n, e) of all training spots in `keys_`, their targets in `values_` (n, g), in
    units of `spread_`, and their weights in `memory_weights_` (n,).

    In mode "paper" nothing is chosen: the plain mean of the 50 nearest. Else what is retrieved are deviations from the
    spots' own slides (under protocols that centre, targets are so anyway; elsewhere the mean over slides is added
    back), and spots count by softmax(cosine / temperature) and by their weight.

    Attributes
    ----------
    modes
        Of the head.
    k, temperature, blend
        Given, or None to choose on inner folds. There a query never finds spots of its own patient: folds hold out
        whole patients, and where they hold out slides, those of the same patient are left out of the search.
    """

    candidates: Sequence[int] = (20,)
    modes: tuple[str, ...] = ("default", "paper")
    mode: str
    k: int | None = None
    temperature: float | None = None
    blend: float | None = None

    @property
    def tunes(self) -> bool:  # type: ignore[override]
        """Whether inner folds choose how to retrieve."""
        return self.mode != "paper"

    def fit(self, table: Table) -> Self:
        """Choose epochs, k, temperature and blend on inner folds, train every member, and keep the training spots.

        Raises
        ------
        HeadError
            If there is no such mode, or mode "paper" is given an anchor.
        """
        if self.mode not in self.modes:
            msg = f"{type(self).__name__} has no mode {self.mode!r}: choose {', '.join(self.modes)}"
            raise HeadError(msg)
        if self.mode == "paper" and self.anchor is not None:
            msg = f"anchor={self.anchor!r} in mode paper, which has no last layer to start at zero: take another mode"
            raise HeadError(msg)
        y, _ = training_arrays(table)
        self.level_ = np.zeros(y.shape[1], dtype=np.float32)
        if self.tunes:
            self.level_ = slide_mean(y, table.slide)[1].mean(axis=0).astype(np.float32)
            table = replace(table, targets=centre_by_slide(y, table.slide).astype(np.float32))
        self._tuned: dict[int, tuple[Settings, dict[str, float]]] = {}
        super().fit(table)
        settings, scores = self._tuned.get(self.epochs_, (self._given(), {}))
        self.k_, self.temperature_, self.blend_ = settings.k, settings.temperature, settings.blend
        self.chosen_ |= {"k": self.k_, "temperature": self.temperature_, "blend": self.blend_}
        if scores:
            self.chosen_["retrieval_scores"] = scores
        return self

    def predict(self, table: Table) -> NDArray[np.float32]:
        """Predict (n, n_panel)."""
        return super().predict(table) + self.level_

    def finish(self, data: RowData) -> None:
        """Embed the training spots with every member."""
        assert data.y is not None
        self.values_ = data.y.cpu().numpy()
        self.memory_weights_ = data.weight.cpu().numpy()
        self.keys_ = np.stack([_keys(module, data, np.arange(len(data))) for module in self.modules_])

    def outputs(self, data: RowData) -> NDArray[np.float32]:
        """Mean over members of retrieval blended with regression, in units of `spread_`."""
        weights, parts = self.memory_weights_ if self.tunes else None, []
        for module, keys in zip(self.modules_, self.keys_, strict=True):
            regression, queries = _predicted(module, data, None)
            found = find(keys, queries, self.k_)
            retrieved = weighted_means(found, self.values_, temperature=self.temperature_, weights=weights)
            parts.append(blended(retrieved, regression, self.blend_))
        return np.asarray(np.mean(parts, axis=0), dtype=np.float32)

    # --- the inside

    def _given(self) -> Settings:
        """What holds where nothing can be chosen."""
        settings = Settings(50, 0.1, 0.5) if self.tunes else Settings(50)
        given = {name: getattr(self, name) for name in ("k", "temperature", "blend")}
        return replace(settings, **{name: value for name, value in given.items() if value is not None})

    def _inner(
        self, learner: FitContext, folds: Sequence[tuple[Ints, Ints]], tried: Sequence[int]
    ) -> list[list[Floats]]:
        trained, held = self.train_inside(learner, folds, tried), np.concatenate([held for _, held in folds])
        by_epochs = []
        for i, epochs in enumerate(tried):
            parts = [self._searched(learner, fold.modules[i], fold) for fold in trained]
            by_epochs.append(self._tune(learner, parts, held, epochs))
        return [list(fold) for fold in zip(*by_epochs, strict=True)]

    def _searched(self, learner: FitContext, module: HeadModule, fold: InnerFold) -> HeldOutRows:
        """What the rows held out find among the others."""
        data, rows, held = fold.data, fold.rows, fold.held
        assert data.y is not None
        regression, queries = _predicted(module, as_unseen(data), held)
        group = np.unique(groups_of(learner.table, apart(learner.table, rows)), return_inverse=True)[1]
        groups = Groups(group[rows], group[held]) if np.isin(group[held], group[rows]).any() else None
        most = max(SIZES) if self.k is None else self.k
        return HeldOutRows(
            found=find(_keys(module, data, rows), queries, most, groups=groups),
            values=data.y.cpu().numpy()[rows],
            weights=data.weight.cpu().numpy()[rows] if self.tunes else None,
            regression=regression,
            base=learner.inner_base[held],
            spread=self.spread_,
        )

    def _tune(self, learner: FitContext, parts: Sequence[HeldOutRows], held: Ints, epochs: int) -> list[Floats]:
        """Choose k and temperature by retrieval alone, then the blend; predictions of every fold by what was chosen."""
        truth, slide = learner.y[held], learner.table.slide[held]

        def score(predictions: Sequence[Floats]) -> float:
            return mean_within_slide(np.concatenate(predictions), truth, slide)

        scores, best = {}, (-np.inf, self._given())
        for k, temperature in candidates(self.k, self.temperature):
            settings = replace(best[1], k=k, temperature=temperature)
            reached = score([part.predicted(part.retrieved(settings), 1.0) for part in parts])
            scores[f"k={k}, temperature={temperature:g}"] = reached
            best = max(best, (reached, settings), key=lambda pair: pair[0])
        settings = best[1]
        retrieved = [part.retrieved(settings) for part in parts]
        if self.blend is None and parts[0].regression is not None:
            for blend in BLENDS:
                mixed = [part.predicted(one, blend) for part, one in zip(parts, retrieved, strict=True)]
                scores[f"blend={blend:g}"] = score(mixed)
            settings = replace(settings, blend=max(BLENDS, key=lambda blend: scores[f"blend={blend:g}"]))
        self._tuned[epochs] = (settings, scores)
        return [part.predicted(one, settings.blend) for part, one in zip(parts, retrieved, strict=True)]


def _predicted(module: HeadModule, data: RowData, rows: Ints | None) -> tuple[Floats | None, NDArray[np.float32]]:
    """Regression (m, g), if there is any, and embeddings (m, e) of rows."""
    assert isinstance(module, RetrievalModule)
    out = predict_rows([_Both(module)], data, rows=rows)
    if not module.regresses:
        return None, out
    n_genes = module.genes.out_features
    return out[:, :n_genes], out[:, n_genes:]


def _keys(module: HeadModule, data: RowData, rows: Ints) -> NDArray[np.float32]:
    """Embeddings (m, e) of the expression of training rows."""
    assert isinstance(module, RetrievalModule)
    assert data.y is not None
    with torch.inference_mode():
        return module.keys(data.y[torch.from_numpy(rows).to(data.y.device)]).float().cpu().numpy()
