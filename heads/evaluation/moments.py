"""Means, variances, co-variances and errors of predicted against measured columns, in one pass over blocks of rows.

Blocks are merged by the update of Chan, Golub and LeVeque (1983), which keeps the digits that sums of squares lose;
slides merge into a fold the same way, so that per-slide and pooled scores come from one reading.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ...store.arrays import Bools, Floats, Ints

# A column whose standard deviation is within this fraction of its root mean square is constant. Rounding a constant to
# float32, or summing it in another order, moves it by some 1e-7 of its size; real predictions vary by far more.
CONSTANT_RTOL = 1e-6

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
        return _constant(self.n, self.mean_prediction, self.ss_prediction)

    @property
    def constant_truth(self) -> Bools:
        """Columns on which the truth does not vary beyond rounding, (n_columns,)."""
        return _constant(self.n, self.mean_truth, self.ss_truth)

    def pearson(self) -> Floats:
        """Return the Pearson correlation of each column, NaN where either side is constant, (n_columns,)."""
        undefined = self.constant_prediction | self.constant_truth
        # Two roots and not the root of the product, which under- or overflows first.
        scale = np.sqrt(self.ss_prediction) * np.sqrt(self.ss_truth)
        correlation = np.full(len(scale), np.nan)
        np.divide(self.cross, scale, out=correlation, where=~undefined)
        clipped: Floats = np.clip(correlation, -1.0, 1.0)
        return clipped


def moments(prediction: Floats, truth: Floats, *, rows: Ints | None = None) -> Moments:
    """Return the moments of some rows of two arrays.

    Parameters
    ----------
    prediction, truth
        Shape (n_rows, n_columns), any float type; read in blocks, so they may be memory-mapped.
    rows
        Positions of the rows to read; all of them where None.
    """
    if rows is None:
        rows = np.arange(len(prediction))
    n_columns = prediction.shape[1]
    step = max(1, min(len(rows), BLOCK_ELEMENTS // max(1, n_columns)))
    # One work space for all blocks: fresh memory of this size costs more than the arithmetic in it.
    work = np.empty((3, step, n_columns))
    starts = range(0, max(1, len(rows)), step)
    return merged(_of_block(prediction, truth, rows=rows[i : i + step], work=work) for i in starts)


def merged(parts: Iterable[Moments]) -> Moments:
    """Return the moments of all rows of at least one part."""
    remaining = iter(parts)
    whole = next(remaining)
    for part in remaining:
        whole = _merge(whole, part)
    return whole


def _of_block(prediction: Floats, truth: Floats, *, rows: Ints, work: Floats) -> Moments:
    """Moments of a few rows, computed in `work`, float64 (3, at least n_rows, n_columns)."""
    n = len(rows)
    at = _span(rows)
    p, t, error = work[:, :n]  # (n, n_columns) each
    # NaN and infinity pass through to the caller, who refuses or reports them; numpy need not warn as well.
    with np.errstate(invalid="ignore", over="ignore"):
        p[...] = prediction[at]
        t[...] = truth[at]
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


def _span(rows: Ints) -> slice | Ints:
    """Turn rows that are neighbours into a slice, which is faster than gathering."""
    if len(rows) and rows[-1] - rows[0] + 1 == len(rows) and (np.diff(rows) == 1).all():
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows


def _products(a: Floats, b: Floats) -> Floats:
    """Sum over rows of a * b, (n_columns,)."""
    total: Floats = np.einsum("ij,ij->j", a, b)
    return total


def _constant(n: int, mean: Floats, ss: Floats) -> Bools:
    variance = ss / max(n, 1)
    constant: Bools = variance <= CONSTANT_RTOL**2 * (variance + mean**2)
    return constant
