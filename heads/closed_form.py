"""Ridge regression for many penalties from one decomposition."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..store.arrays import Floats


@dataclass(frozen=True)
class RidgePath:
    """Weighted ridge with an intercept, solved for every alpha at once.

    Minimises  sum_i w_i |y_i - b - x_i B|^2 + alpha |B|^2.  With X the centred rows scaled by sqrt(w_i), and
    X^T X = V diag(s) V^T,

        B(alpha) = V diag(1 / (s + alpha)) V^T X^T Y.

    For n < d the same V and s come from the n x n Gram matrix: X X^T = U diag(s) U^T, V = X^T U diag(s)^(-1/2).

    Attributes
    ----------
    basis
        V, (d, r).
    spectrum
        s, (r,).
    projected
        V^T X^T Y, (r, g).
    x_mean, y_mean
        Weighted means, (d,) and (g,).
    """

    basis: Floats
    spectrum: Floats
    projected: Floats
    x_mean: Floats
    y_mean: Floats

    def coefficients(self, alpha: float) -> Floats:
        """B, (d, g)."""
        coefficients: Floats = self.basis @ (self.projected / (self.spectrum + alpha)[:, None])
        return coefficients

    def predict(self, x: Floats, alphas: tuple[float, ...]) -> list[Floats]:
        """Predictions (m, g) for each alpha; rows are projected once."""
        rotated = (np.asarray(x, dtype=np.float64) - self.x_mean) @ self.basis  # (m, r)
        return [rotated @ (self.projected / (self.spectrum + alpha)[:, None]) + self.y_mean for alpha in alphas]


def ridge_path(x: Floats, y: Floats, weights: Floats) -> RidgePath:
    """Decompose the training rows.

    Parameters
    ----------
    x
        (n, d) features.
    y
        (n, g) targets.
    weights
        (n,) non-negative.
    """
    from scipy.linalg import eigh

    w = np.asarray(weights, dtype=np.float64)
    total = w.sum()
    x_mean, y_mean = (w @ x) / total, (w @ y) / total
    root = np.sqrt(w)[:, None]
    xw = (np.asarray(x, dtype=np.float64) - x_mean) * root  # (n, d)
    yw = (np.asarray(y, dtype=np.float64) - y_mean) * root  # (n, g)
    n, d = xw.shape
    if n < d:
        spectrum, u = eigh(xw @ xw.T)  # (n,), (n, n)
        keep = spectrum > spectrum[-1] * 1e-12
        spectrum, u = spectrum[keep], u[:, keep]
        scale = np.sqrt(spectrum)
        return RidgePath(xw.T @ u / scale, spectrum, scale[:, None] * (u.T @ yw), x_mean, y_mean)
    spectrum, v = eigh(xw.T @ xw)  # (d,), (d, d)
    return RidgePath(v, np.maximum(spectrum, 0.0), v.T @ (xw.T @ yw), x_mean, y_mean)
