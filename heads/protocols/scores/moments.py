"""Means, variances, co-variances and errors of predicted against measured columns, in one pass over blocks of rows.

Blocks are merged by the update of Chan, Golub and LeVeque (1983), which keeps the digits that sums of squares lose;
slides merge into a fold the same way, so that per-slide and pooled scores come from one reading.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ....store.arrays import Bools, Floats

# A column whose standard deviation is within this fraction of its root mean square is constant. Rounding a constant to
# float32, or summing it in another order, moves it by some 1e-7 of its size; real predictions vary by far more.
CONSTANT_RTOL = 1e-6

# The same for statistics of columns, such as correlations of genes or Moran's I: rounding the columns to float32 moves
# them by far more than it moves the columns.
AGREEMENT_RTOL = 1e-4

# 2 MB of float64 a block: it stays in the processor's cache while its moments are taken.
BLOCK_ELEMENTS = 1 << 18


@dataclass(frozen=True)
class Moments:
    """Moments of `n` rows; every array is float64 (n_columns,).

    Parameters
    ----------
    n
        Number of rows.
    mean_prediction, mean_truth
        Means.
    ss_prediction, ss_truth, cross
        Sums of squared deviations from the means, and of their products.
    squared_error, absolute_error
        Sums of squared and absolute differences.
    """

    n: int
    mean_prediction: Floats
    mean_truth: Floats
    ss_prediction: Floats
    ss_truth: Floats
    cross: Floats
    squared_error: Floats
    absolute_error: Floats

    @property
    def constant_prediction(self) -> Bools:
        """Columns on which the prediction does not vary beyond rounding, (n_columns,)."""
        return is_constant(self.n, self.mean_prediction, self.ss_prediction)

    @property
    def constant_truth(self) -> Bools:
        """Columns on which the truth does not vary beyond rounding, (n_columns,)."""
        return is_constant(self.n, self.mean_truth, self.ss_truth)

    def pearson(self) -> Floats:
        """Return the Pearson correlation of each column, NaN where either side is constant, (n_columns,)."""
        undefined = self.constant_prediction | self.constant_truth
        # Two roots and not the root of the product, which under- or overflows first.
        scale = np.sqrt(self.ss_prediction) * np.sqrt(self.ss_truth)
        correlation = np.full(len(scale), np.nan)
        np.divide(self.cross, scale, out=correlation, where=~undefined)
        clipped: Floats = np.clip(correlation, -1.0, 1.0)
        return clipped

    def scored_pearson(self, *, rtol: float = CONSTANT_RTOL) -> Floats:
        """Return `pearson`, but 0 where the prediction alone is constant within `rtol`, (n_columns,)."""
        still_truth = is_constant(self.n, self.mean_truth, self.ss_truth, rtol=rtol)
        still_prediction = is_constant(self.n, self.mean_prediction, self.ss_prediction, rtol=rtol)
        scored: Floats = np.where(still_truth, np.nan, np.where(still_prediction, 0.0, self.pearson()))
        return scored


def moments(prediction: Floats, truth: Floats) -> Moments:
    """Return the moments of the columns of two arrays.

    Parameters
    ----------
    prediction, truth
        Shape (n_rows, n_columns), any float type; read in blocks, so they may be memory-mapped.
    """
    n_rows, n_columns = prediction.shape
    step = max(1, min(n_rows, BLOCK_ELEMENTS // max(1, n_columns)))
    # One work space for all blocks: fresh memory of this size costs more than the arithmetic in it.
    work = np.empty((3, step, n_columns))
    starts = range(0, max(1, n_rows), step)
    return merged(_of_block(prediction[i : i + step], truth[i : i + step], work=work) for i in starts)


def merged(parts: Iterable[Moments]) -> Moments:
    """Return the moments of all rows of at least one part."""
    remaining = iter(parts)
    whole = next(remaining)
    for part in remaining:
        whole = _merge(whole, part)
    return whole


def is_constant(n: int, mean: Floats, ss: Floats, *, rtol: float = CONSTANT_RTOL) -> Bools:
    """Return which columns do not vary beyond rounding, from n, their means and sums of squared deviations."""
    variance = ss / max(n, 1)
    constant: Bools = variance <= rtol**2 * (variance + mean**2)
    return constant


def _of_block(prediction: Floats, truth: Floats, *, work: Floats) -> Moments:
    """Moments of a few rows, computed in `work`, float64 (3, at least n_rows, n_columns)."""
    n = len(truth)
    p, t, error = work[:, :n]  # (n, n_columns) each
    # NaN and infinity pass through to the caller, who refuses or reports them; numpy need not warn as well.
    with np.errstate(invalid="ignore", over="ignore"):
        p[...] = prediction
        t[...] = truth
        np.subtract(p, t, out=error)
        squared_error = _products(error, error)
        absolute_error = np.abs(error, out=error).sum(axis=0)
        mean_prediction = p.sum(axis=0) / max(n, 1)
        mean_truth = t.sum(axis=0) / max(n, 1)
        p -= mean_prediction
        t -= mean_truth
        return Moments(
            n=n,
            mean_prediction=mean_prediction,
            mean_truth=mean_truth,
            ss_prediction=_products(p, p),
            ss_truth=_products(t, t),
            cross=_products(p, t),
            squared_error=squared_error,
            absolute_error=absolute_error,
        )


def _merge(a: Moments, b: Moments) -> Moments:
    n = max(a.n + b.n, 1)
    with np.errstate(invalid="ignore", over="ignore"):
        step_prediction = b.mean_prediction - a.mean_prediction
        step_truth = b.mean_truth - a.mean_truth
        between = a.n * b.n / n
        return Moments(
            n=a.n + b.n,
            mean_prediction=a.mean_prediction + step_prediction * (b.n / n),
            mean_truth=a.mean_truth + step_truth * (b.n / n),
            ss_prediction=a.ss_prediction + b.ss_prediction + between * step_prediction**2,
            ss_truth=a.ss_truth + b.ss_truth + between * step_truth**2,
            cross=a.cross + b.cross + between * step_prediction * step_truth,
            squared_error=a.squared_error + b.squared_error,
            absolute_error=a.absolute_error + b.absolute_error,
        )


def _products(a: Floats, b: Floats) -> Floats:
    """Sum over rows of a * b, (n_columns,)."""
    total: Floats = np.einsum("ij,ij->j", a, b)
    return total
