"""Principal components of weighted rows: fewer features to split on, fewer targets to fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch

from ...store.arrays import Floats
from .closed_form import decompose


@dataclass(frozen=True)
class Principal:
    """The directions of largest weighted variance, exactly.

    Attributes
    ----------
    mean
        Weighted mean, (d,).
    basis
        Orthonormal, (d, k), the leading direction first; the largest entry of each is positive.
    """

    mean: Floats
    basis: Floats

    @classmethod
    def fit(cls, values: Floats, weights: Floats, *, size: int) -> Self:
        """Of rows (n, d) with weights (n,): `size` components, or as many as the rows span."""
        x = torch.from_numpy(np.asarray(values, dtype=np.float64))
        w = torch.from_numpy(np.asarray(weights, dtype=np.float64))
        basis = decompose(x, w).basis[:, -size:].flip(1).numpy()
        sign = np.sign(basis[np.abs(basis).argmax(axis=0), np.arange(basis.shape[1])])
        return cls((w @ x / w.sum()).numpy(), basis * sign)

    def transform(self, values: Floats) -> Floats:
        """Coordinates (m, k) of rows (m, d)."""
        coordinates: Floats = (values - self.mean) @ self.basis
        return coordinates

    def restore(self, coordinates: Floats) -> Floats:
        """Rows (m, d) from their coordinates (m, k)."""
        values: Floats = coordinates @ self.basis.T + self.mean
        return values


def gene_spread(targets: Floats, weights: Floats) -> Floats:
    """Weighted standard deviation of each column of (n, g), at least 1e-3: genes that hardly vary are not blown up."""
    mean = np.average(targets, axis=0, weights=weights)
    spread = np.sqrt(np.average((targets - mean) ** 2, axis=0, weights=weights))
    return np.maximum(spread, 1e-3).astype(targets.dtype)
