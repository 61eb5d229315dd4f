"""The loss of neural heads: weighted squared error plus one minus the within-slide Pearson correlation."""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 1e-6


def regression_loss(prediction: Tensor, target: Tensor, weight: Tensor, *, pearson_weight: float) -> Tensor:
    """Loss of rows of **one** slide.

    Parameters
    ----------
    prediction, target
        (b, g), targets centred per slide and of unit spread per gene.
    weight
        (b,).
    pearson_weight
        Weight of the correlation term; 0 leaves plain weighted least squares.
    """
    w = (weight / weight.sum().clamp_min(EPSILON))[:, None]  # (b, 1)
    loss = (w * (prediction - target) ** 2).sum(0).mean()
    if pearson_weight > 0:
        loss = loss + pearson_weight * (1.0 - weighted_pearson(prediction, target, w).mean())
    return loss


def weighted_pearson(prediction: Tensor, target: Tensor, w: Tensor) -> Tensor:
    """Pearson per column (g,) under weights (b, 1) that sum to one.

    The small constant keeps the gradient finite where a prediction starts out constant.
    """
    p = prediction - (w * prediction).sum(0)
    t = target - (w * target).sum(0)
    covariance = (w * p * t).sum(0)
    return covariance / torch.sqrt(((w * p**2).sum(0) + EPSILON) * ((w * t**2).sum(0) + EPSILON))
