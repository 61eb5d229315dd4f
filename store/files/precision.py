"""Whether half precision holds a block of features."""

from __future__ import annotations

import os
import sys
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import Bools, Floats


def to_half(values: Floats) -> NDArray[np.float16]:
    """Cast float32 (any shape) to float16, to nearest, ties to even; beyond 65,520 to infinity."""
    torch = _torch()
    if torch is None or not values.flags.writeable or values.dtype != np.float32 or not values.dtype.isnative:
        with np.errstate(over="ignore", invalid="ignore"):
            return values.astype("<f2")
    half: NDArray[np.float16] = torch.from_numpy(values).half().numpy()
    return half


def to_single(stored: NDArray[Any], out: NDArray[np.float32]) -> None:
    """Copy float16 or float32 into `out` of the same shape, exactly."""
    if stored.dtype != np.float16 or not stored.dtype.isnative:
        out[...] = stored
        return
    torch = _torch()
    if torch is not None and stored.flags.writeable:
        torch.from_numpy(out).copy_(torch.from_numpy(stored))
    else:
        out[...] = _singles()[stored.view(np.uint16)]


def _torch() -> Any:
    """Torch where it is loaded; none in a forked child, which would wait for threads that did not come along."""
    return None if _forked else sys.modules.get("torch")


_forked = False


def _mark_child() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_mark_child)


@cache
def _singles() -> NDArray[np.float32]:
    """Every float16 as float32, (65536,), by its bits: looking up beats converting."""
    return np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)


FP16, FP32 = np.dtype("<f2"), np.dtype("<f4")

COLUMN_TOLERANCE = 0.1
"""Largest rounding error of a column, as a fraction of the column's own spread: 1 % of its variance."""

CHANCE = 1e-6
"""That a column of a block looks so even by chance alone that fp16 is refused for it."""

SILENT_COLUMN = 1e-3
"""Columns whose spread is below this fraction of the block's size carry rounding noise, not features."""

_OVERFLOW = 65_520.0  # IEEE 754 binary16: from here on rounding gives infinity
_SUBNORMAL = 2.0**-14  # below, the steps of binary16 no longer shrink with the value
_CLEAR_SPREAD = 0.05
"""A column whose spread is this fraction of its size needs no closer look: rounding changes a value by 1/2048 of
itself at most, and the plain formula for a variance, mean square minus squared mean, loses few digits."""


def half(block: Floats) -> Floats | None:
    """Cast `block` to float16, or give None where that would overflow, or blur a column beyond `COLUMN_TOLERANCE`.

    Spread matters, not size: 1000 +- 0.1 has a small relative error in fp16, yet nothing of the +-0.1 is left.

    Parameters
    ----------
    block
        (n, ..., dim) float32 features.

    Returns
    -------
    ndarray or None
        (n, ..., dim) little-endian float16; None also where a value is NaN or infinite.
    """
    values = np.asarray(block, dtype=np.float32).reshape(len(block), -1, block.shape[-1])  # (n, tokens, dim)
    with np.errstate(over="ignore", invalid="ignore"):
        # Over rows, then over tokens: short sums stay exact enough in fp32.
        mean = values.mean(axis=0).mean(axis=0)  # (dim,)
        squares = np.einsum("ntd,ntd->td", values, values)  # (tokens, dim)
    if not squares.max() < _OVERFLOW**2 and not np.abs(values).max() < _OVERFLOW:
        return None
    cast = to_half(values)
    power = squares.mean(axis=0) / len(values)  # (dim,) mean square
    variance = power - mean**2
    doubtful = (variance < _CLEAR_SPREAD**2 * power) | (power < _SUBNORMAL**2)
    if doubtful.any() and _blurs(values, cast, variance, doubtful):
        return None
    return cast.reshape(block.shape)


def _blurs(values: Floats, cast: Floats, variance: Floats, doubtful: Bools) -> bool:
    """Measure the rounding error of the `doubtful` columns; (n, tokens, dim) values, (dim,) variance."""
    exact = values[..., doubtful].astype(np.float64)
    error = np.sqrt(np.mean((cast[..., doubtful] - exact) ** 2, axis=(0, 1)))
    own = exact.std(axis=(0, 1))
    spread = np.sqrt(variance, dtype=np.float64, where=~doubtful, out=np.empty(len(variance)))
    spread[doubtful] = own
    speaks = own > SILENT_COLUMN * np.median(spread)
    return bool((error[speaks] > COLUMN_TOLERANCE * _largest_spread(len(values)) * own[speaks]).any())


@cache
def _largest_spread(rows: int) -> float:
    """How many times larger than it looks in `rows` rows a column's spread may be, short of a `CHANCE`.

    The rows of a file's last block may be few, and two that happen to agree in a column say nothing about it. From
    the chi-squared distribution of a normal column's variance.
    """
    from scipy.special import gammaincinv

    if rows < 2:
        return float("inf")
    return float(np.sqrt((rows - 1) / (2.0 * gammaincinv((rows - 1) / 2.0, CHANCE))))
