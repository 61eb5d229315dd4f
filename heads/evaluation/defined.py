"""Means and medians of what is defined; callers count what they leave out."""

from __future__ import annotations

import numpy as np

from ...store.arrays import Floats


def mean_of_defined(values: Floats, *, weights: Floats | None = None) -> Floats:
    """Return the mean over the last axis of what is not NaN, NaN where nothing is or weighs.

    Parameters
    ----------
    values
        Shape (..., n).
    weights
        Not negative, (n,); all alike where None.
    """
    defined = ~np.isnan(values)
    share = defined if weights is None else np.where(defined, weights, 0.0)
    weight = share.sum(axis=-1)
    total = np.where(defined, values if weights is None else values * weights, 0.0).sum(axis=-1)
    mean: Floats = np.divide(total, weight, out=np.full(weight.shape, np.nan), where=weight > 0)
    return mean


def median_of_defined(values: Floats) -> float:
    """Return the median of what is not NaN, (n,), NaN where nothing is."""
    defined = values[~np.isnan(values)]
    return float(np.median(defined)) if len(defined) else float("nan")


def mean_of_best(values: Floats, size: int) -> float:
    """Return the mean of the `size` highest of the values that are not NaN, (n,), or of all where they are fewer."""
    best = np.sort(values[~np.isnan(values)])[-size:]
    return float(best.mean()) if len(best) else float("nan")
