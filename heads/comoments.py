"""Weighted means and products of deviations of groups of rows, and of their unions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..store.errors import HeadError


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
