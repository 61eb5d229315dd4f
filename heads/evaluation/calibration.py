"""Calibration: predicted against measured values, in bins of as many values each, with the slope.

Values come in blocks, so that a cohort of any size is read twice and never copied whole: once for the range of the
predictions, once into narrow bins that are merged to those shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from ...store.arrays import Floats, Ints
from .detail import Calibration

SHOWN_BINS = 12
NARROW_BINS = 4096

Blocks = Callable[[], Iterable[tuple[Floats, Floats]]]
"""Starts a reading of all values: (prediction, measured) of one shape, block by block."""


def calibration(blocks: Blocks, *, bins: int = SHOWN_BINS) -> Calibration:
    """Return what was measured where so much was predicted.

    Parameters
    ----------
    blocks
        Called twice; it must give the same values each time.
    bins
        How many bins to make at most; fewer where predictions are the same.
    """
    low, high = _range(blocks)
    if not low < high:
        return _constant(blocks)
    sums = np.zeros((3, NARROW_BINS))  # values, predicted, measured
    scale, moments = NARROW_BINS / (high - low), np.zeros(3)
    shift = _means(blocks)
    for prediction, measured in blocks():
        p, m = (np.asarray(side, dtype=np.float64).ravel() for side in (prediction, measured))
        narrow = np.minimum(((p - low) * scale).astype(np.int64), NARROW_BINS - 1)
        for row, weights in enumerate((None, p, m)):
            sums[row] += np.bincount(narrow, weights=weights, minlength=NARROW_BINS)
        x, y = p - shift[0], m - shift[1]
        moments += (x @ x, x @ y, y @ y)
    return _merged(sums, slope=float(moments[1] / moments[0]), bins=bins)


def slide_centred(values: Floats, slide: Ints) -> Iterable[Floats]:
    """Yield, slide by slide, the deviations of each column from its mean on the slide, float64."""
    for one in np.unique(slide):
        here = np.asarray(values[slide == one], dtype=np.float64)
        yield here - here.mean(axis=0)


def _range(blocks: Blocks) -> tuple[float, float]:
    ends = [(float(np.min(p)), float(np.max(p))) for p, _ in blocks() if np.size(p)]
    if not ends:
        return 0.0, 0.0
    return min(low for low, _ in ends), max(high for _, high in ends)


def _means(blocks: Blocks) -> tuple[float, float]:
    """Mean prediction and mean measured value: moments about them keep the digits that sums of squares lose."""
    n, total = 0, np.zeros(2)
    for prediction, measured in blocks():
        n += np.size(prediction)
        total += np.sum(prediction, dtype=np.float64), np.sum(measured, dtype=np.float64)
    return float(total[0] / max(n, 1)), float(total[1] / max(n, 1))


def _constant(blocks: Blocks) -> Calibration:
    """One bin, without a slope; none where there are no values."""
    n = sum(np.size(prediction) for prediction, _ in blocks())
    predicted, measured = _means(blocks)
    filled = 1 if n else 0
    return Calibration(
        predicted=np.array([predicted][:filled]),
        measured=np.array([measured][:filled]),
        values=np.array([n][:filled], dtype=np.int64),
        slope=float("nan"),
    )


def _merged(sums: Floats, *, slope: float, bins: int) -> Calibration:
    """Merge narrow bins (3, NARROW_BINS) to at most so many of about as many values each."""
    used = sums[:, sums[0] > 0]
    middle = np.cumsum(used[0]) - used[0] / 2
    _, group = np.unique((middle * bins / used[0].sum()).astype(np.int64), return_inverse=True)
    n, predicted, measured = (np.bincount(group, weights=row) for row in used)
    return Calibration(predicted / n, measured / n, np.round(n).astype(np.int64), slope)
