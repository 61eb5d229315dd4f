"""Whether half precision holds a block of features."""

from __future__ import annotations

import numpy as np

from .arrays import Floats

COLUMN_TOLERANCE = 0.1
"""Largest rounding error of a column, as a fraction of the column's own spread: 1 % of its variance."""

SILENT_COLUMN = 1e-3
"""Columns whose spread is below this fraction of the block's size carry rounding noise, not features."""


def loses_precision(block: Floats) -> bool:
    """Tell whether float16 would overflow, or blur a column of `block` beyond `COLUMN_TOLERANCE`.

    The check looks at the values **after** the cast. Spread matters, not size: 1000 +- 0.1 has a small relative
    error in fp16, yet nothing of the +-0.1 is left.

    Parameters
    ----------
    block
        (n, ..., dim) features.
    """
    values = np.asarray(block, dtype=np.float64).reshape(-1, block.shape[-1])  # (n * tokens, dim)
    with np.errstate(over="ignore"):
        cast = values.astype(np.float16).astype(np.float64)
    if not np.isfinite(cast).all():
        return True
    error = np.sqrt(np.mean((cast - values) ** 2, axis=0))  # (dim,)
    spread = values.std(axis=0)  # (dim,)
    speaks = spread > SILENT_COLUMN * np.median(spread)
    return bool((error[speaks] > COLUMN_TOLERANCE * spread[speaks]).any())
