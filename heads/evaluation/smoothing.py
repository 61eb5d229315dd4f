"""Means over the three by three positions around a spot of the array, as NH2ST and TRIPLEX smooth their targets."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from ...store.arrays import Floats, Ints
from ...store.errors import ProtocolError
from ...store.lattice import lattice


def smooth_3x3(values: Floats, array: Ints | None, slide: Ints) -> Floats:
    """Return the mean over the spots at most one row and one column away, the spot itself among them.

    Parameters
    ----------
    values
        (n, n_columns), such as targets of all spots of the slides: a spot that was left out is missing from its
        neighbours' means.
    array
        (n, 2) row and column on the array. Where columns step by two along a row, as on Visium, that reaches the four
        diagonal spots and not the two beside, as in NH2ST's code.
    slide
        (n,) slide of each spot; means stay within it.

    Returns
    -------
    ndarray
        float64 (n, n_columns).

    Raises
    ------
    ProtocolError
        If array positions are not known.
    StoreError
        If two spots of a slide share a position.
    """
    if array is None:
        msg = "Targets are smoothed over array positions, which a slide lacks; choose a protocol without smoothing."
        raise ProtocolError(msg)
    n = len(array)
    window = lattice(array, 3, center_um=np.asarray(array, dtype=np.float64), kind="square", slide=slide)
    found = window.mask.sum(axis=1)  # (n,), at least 1: the spot itself
    starts = np.concatenate([[0], np.cumsum(found)])
    mean = sparse.csr_matrix((np.repeat(1.0 / found, found), window.index[window.mask], starts), shape=(n, n))
    return np.asarray(mean @ np.asarray(values, dtype=np.float64))
