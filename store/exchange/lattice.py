"""Whether corners lie on one regular lattice, and its step."""

from __future__ import annotations

import numpy as np

from ..arrays import Floats, Ints

TOLERANCE = 0.02
"""How far a corner may lie beside its place, in steps; rounding to float32 or whole pixels moves it far less."""


def lattice_step(corners: Floats) -> float | None:
    """Step of the square lattice that corners (n, 2) lie on; None where they lie on none, or are fewer than two.

    The smallest distance between two columns or rows is the first guess; the whole extent over its number of steps
    then takes the rounding of single coordinates out.

    Examples
    --------
    >>> lattice_step(np.array([[256.486, 0.0], [512.972, 0.0], [1025.944, 256.486]]))
    256.486
    """
    gaps = [np.diff(np.unique(axis)) for axis in np.asarray(corners, dtype=np.float64).T]
    joined = np.concatenate(gaps) if len(corners) else np.empty(0)
    largest = float(np.abs(corners).max()) if len(corners) else 0.0
    joined = joined[joined > 1e-6 * largest]  # the same column twice, but for rounding
    if not len(joined):
        return None
    guess = float(joined.min())
    steps = np.rint(joined / guess)
    refined = float(joined.sum() / steps.sum())
    if (np.abs(joined / refined - steps) > TOLERANCE).any():
        return None
    return round(refined, 6)


def array_of_lattice(corners: Floats) -> Ints | None:
    """Row and column (n, 2) of corners (n, 2) that lie on a lattice; None where they lie on none."""
    step = lattice_step(corners)
    return None if step is None else cells_of(corners, step)


def cells_of(corners: Floats, step: float) -> Ints:
    """Row and column (n, 2) int32 of corners (n, 2) on a lattice, counted from its upper left."""
    cells: Ints = np.rint((corners - corners.min(axis=0)) / step).astype(np.int32)
    return cells[:, ::-1]
