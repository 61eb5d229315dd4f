"""Ridge regression for every penalty from one decomposition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from ...store.arrays import Floats
from ...store.errors import HeadError


@dataclass(frozen=True)
class CoMoments:
    """What a weighted regression needs of a group of rows.

    Attributes
    ----------
    weight
        Sum of the rows' weights.
    x_mean, y_mean
        Weighted means, float64 (d,) and (g,).
    products
        Sum over rows of w (x - x_mean)^T (y - y_mean), float64 (d, g); the scatter matrix where y is x.
    """

    weight: float
    x_mean: Tensor
    y_mean: Tensor
    products: Tensor


def comoments(x: Tensor, y: Tensor, weights: Tensor) -> CoMoments:
    """Of one group of rows, each about the group's own mean.

    Parameters
    ----------
    x, y
        float64 (n, d) and (n, g).
    weights
        float64 (n,), not negative; a group that weighs nothing has means of zero.
    """
    total = float(weights.sum())
    share = weights / total if total > 0 else weights
    x_mean, y_mean = share @ x, share @ y
    root = weights.sqrt()[:, None]
    left = (x - x_mean) * root  # (n, d)
    right = left if y is x else (y - y_mean) * root
    return CoMoments(total, x_mean, y_mean, left.T @ right)


def pooled(parts: Sequence[CoMoments]) -> CoMoments:
    """Of the union of groups, by the update of Chan, Golub and LeVeque (1983).

    The products add up, and what the groups' means differ by is a correction of as many ranks as there are groups.
    Everything that is added is a sum of squares on the diagonal, so that no digits cancel: a fold is made by adding
    the groups it trains on. (Subtracting the group it leaves out costs the same beside the decomposition, and loses
    digits where that group holds most of a feature's variance.)

    Raises
    ------
    HeadError
        If all groups together weigh nothing.
    """
    weights = torch.tensor([part.weight for part in parts], dtype=torch.float64)
    total = float(weights.sum())
    if not total > 0:
        msg = "the training rows weigh nothing: train on spots with counts"
        raise HeadError(msg)
    x_means, y_means = (torch.stack([getattr(part, name) for part in parts]) for name in ("x_mean", "y_mean"))
    share = weights / total
    x_mean, y_mean = share @ x_means, share @ y_means
    products = (weights[:, None] * (x_means - x_mean)).T @ (y_means - y_mean)
    for part in parts:
        products += part.products
    return CoMoments(total, x_mean, y_mean, products)


# Directions of the dual whose variance is below this fraction of the largest are rounding.
SILENT = 1e-12


@dataclass(frozen=True)
class Spectrum:
    """The half of a ridge regression that knows no targets: X^T X = V diag(s) V^T, X centred and weighted.

    Attributes
    ----------
    basis
        V, float64 (d, r).
    spectrum
        s, float64 (r,), ascending.
    """

    basis: Tensor
    spectrum: Tensor

    @classmethod
    def primal(cls, scatter: Tensor) -> Self:
        """From X^T X, (d, d)."""
        spectrum, basis = torch.linalg.eigh(scatter)
        return cls(basis, spectrum.clamp_min(0.0))

    @classmethod
    def dual(cls, x: Tensor) -> Self:
        """From fewer rows than features: X X^T = U diag(s) U^T and V = X^T U diag(s)^(-1/2), X (n, d)."""
        spectrum, u = torch.linalg.eigh(x @ x.T)  # (n,), (n, n)
        keep = spectrum > spectrum[-1] * SILENT
        spectrum, u = spectrum[keep], u[:, keep]
        return cls(x.T @ u / spectrum.sqrt(), spectrum)

    def leading(self, size: int | None) -> Spectrum:
        """The directions of largest variance: ridge on them is ridge on that many principal components.

        Raises
        ------
        HeadError
            If there are not so many.
        """
        if size is None:
            return self
        if not 1 <= size <= len(self.spectrum):
            msg = (
                f"pca={size} components of training rows that span {len(self.spectrum)} dimensions: "
                f"give pca between 1 and {len(self.spectrum)}, or pca=None"
            )
            raise HeadError(msg)
        return replace(self, basis=self.basis[:, -size:], spectrum=self.spectrum[-size:])

    def path(self, cross: CoMoments) -> RidgePath:
        """Join with X^T Y of the same rows."""
        projected = self.basis.T @ cross.products
        parts = (self.basis, self.spectrum, projected, cross.x_mean, cross.y_mean)
        return RidgePath(*(part.numpy() for part in parts))


@dataclass(frozen=True)
class RidgePath:
    """Weighted ridge with an intercept, solved for every alpha at once.

    Minimises  sum_i w_i |y_i - b - x_i B|^2 + alpha |B|^2.  With X the centred rows scaled by sqrt(w_i), and
    X^T X = V diag(s) V^T,

        B(alpha) = V diag(1 / (s + alpha)) V^T X^T Y.

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

    def single(self) -> RidgePath:
        """The same in float32: six digits in half the time, enough to score penalties."""
        basis, spectrum, projected = (part.astype(np.float32) for part in (self.basis, self.spectrum, self.projected))
        return replace(self, basis=basis, spectrum=spectrum, projected=projected)

    def predict(self, x: Floats, alphas: tuple[float, ...]) -> list[Floats]:
        """Predictions (m, g) for each alpha; rows are projected once."""
        basis, projected = torch.from_numpy(self.basis), torch.from_numpy(self.projected)
        centred = torch.from_numpy(np.asarray(x - self.x_mean, dtype=self.basis.dtype))
        rotated = centred @ basis  # (m, r)
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

    Raises
    ------
    HeadError
        If all rows weigh nothing.
    """
    # torch and not numpy: its BLAS obeys torch.set_num_threads, where contending BLAS threads can cost a factor of 40.
    xs, ys, w = (torch.from_numpy(np.asarray(values, dtype=np.float64)) for values in (x, y, weights))
    cross = pooled([comoments(xs, ys, w)])
    return decompose(xs, w).path(cross)


def decompose(x: Tensor, weights: Tensor) -> Spectrum:
    """Spectrum of weighted rows (n, d) about their mean, from the smaller of the two Gram matrices."""
    n, d = x.shape
    if n >= d:
        return Spectrum.primal(comoments(x, x, weights).products)
    return Spectrum.dual((x - weights @ x / weights.sum()) * weights.sqrt()[:, None])
