"""Ridge regression for many penalties from one decomposition."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..store.arrays import Floats
from ..store.errors import HeadError


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
        basis, projected = torch.from_numpy(self.basis), torch.from_numpy(self.projected)
        rotated = torch.from_numpy(np.asarray(x, dtype=np.float64) - self.x_mean) @ basis  # (m, r)
        shrunk = [torch.from_numpy(self.spectrum + alpha)[:, None] for alpha in alphas]
        return [(rotated @ (projected / one)).numpy() + self.y_mean for one in shrunk]


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
    # torch and not numpy: its BLAS obeys torch.set_num_threads, where contending BLAS threads can cost a factor of 40.
    w = torch.from_numpy(np.asarray(weights, dtype=np.float64))
    if not float(w.sum()) > 0:
        msg = f"all {len(w)} training rows weigh nothing: train on spots with counts"
        raise HeadError(msg)
    xs, ys = (torch.from_numpy(np.asarray(values, dtype=np.float64)) for values in (x, y))
    x_mean, y_mean = (w @ values / w.sum() for values in (xs, ys))
    root = w.sqrt()[:, None]
    xw, yw = (xs - x_mean) * root, (ys - y_mean) * root  # (n, d), (n, g)
    n, d = xw.shape
    if n < d:
        spectrum, u = torch.linalg.eigh(xw @ xw.T)  # (n,), (n, n)
        keep = spectrum > spectrum[-1] * 1e-12
        spectrum, u = spectrum[keep], u[:, keep]
        scale = spectrum.sqrt()
        basis, projected = xw.T @ u / scale, scale[:, None] * (u.T @ yw)
    else:
        spectrum, basis = torch.linalg.eigh(xw.T @ xw)  # (d,), (d, d)
        spectrum = spectrum.clamp_min(0.0)
        projected = basis.T @ (xw.T @ yw)
    return RidgePath(*(part.numpy() for part in (basis, spectrum, projected, x_mean, y_mean)))
