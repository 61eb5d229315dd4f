"""Expression by retrieval: training spots of largest cosine by the store's exact search, and their weighted mean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from ..store.arrays import Floats
from ..store.nearest import Groups, flat_index, search_exact, unit_rows

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
class Found:
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


def find(keys: Floats, queries: Floats, k: int, *, groups: Groups | None = None) -> Found:
    """The k keys (n, e) of largest cosine for each of the queries (m, e), exactly, ties by row.

    Parameters
    ----------
    groups
        Leaves keys of each query's own group out, such as those of its patient.
    """
    index = flat_index(unit_rows(keys))
    return Found(*search_exact(index, unit_rows(queries), k, groups=groups))


def weighted_means(
    found: Found,
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
class HeldOut:
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

    found: Found
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
