"""The loss of neural heads: weighted squared error plus one minus the within-slide Pearson correlation."""

from __future__ import annotations

import torch
from torch import Tensor

from .batch import Batch
from .precision import in_full_precision

EPSILON = 1e-6


@in_full_precision
def regression_loss(prediction: Tensor, batch: Batch, *, pearson_weight: float) -> Tensor:
    """Loss of the rows of a step, slide by slide; each slide counts by its share.

    Parameters
    ----------
    prediction
        (b, g); `batch.y` are targets, centred per slide and of unit spread per gene where the head wants it so.
    pearson_weight
        Weight of the correlation term; 0 leaves plain weighted least squares.
    """
    assert batch.y is not None
    w = slide_weights(batch)  # (s, b)
    loss = w @ ((prediction - batch.y) ** 2).mean(1)  # (s,)
    if pearson_weight > 0:
        loss = loss + pearson_weight * (1.0 - weighted_pearson(prediction, batch.y, w, batch.member).mean(1))
    return (batch.share * loss).sum()


def slide_weights(batch: Batch) -> Tensor:
    """Weights (s, b) of the rows of each slide, which sum to one."""
    w = batch.member * batch.weight
    return w / w.sum(1, keepdim=True).clamp_min(EPSILON)


def weighted_pearson(prediction: Tensor, target: Tensor, w: Tensor, member: Tensor) -> Tensor:
    """Pearson per slide and column (s, g) under weights (s, b) that sum to one on each slide.

    The small constant keeps the gradient finite where a prediction starts out constant.
    """
    p = prediction - member.T @ (w @ prediction)  # (b, g), each row less the mean of its slide
    t = target - member.T @ (w @ target)
    return (w @ (p * t)) / torch.sqrt((w @ p**2 + EPSILON) * (w @ t**2 + EPSILON))
