"""Projections of two kinds of data into one space, and the contrast of their pairs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..engine.network import SeededDropout
from ..engine.training import in_full_precision

BARRED = -1e9
"""Logit of a padded row: its probability underflows to 0, and 0 times it is 0."""


class ProjectionHead(nn.Module):
    """p = Linear(x); LayerNorm(dropout(Linear(GELU(p))) + p): the projection of BLEEP (NeurIPS 2023) and CMRCNet.

    Parameters
    ----------
    width, dim
        Of what comes in and of the embedding.
    """

    def __init__(self, width: int, dim: int, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.project, self.mix = nn.Linear(width, dim), nn.Linear(dim, dim)
        self.drop, self.norm = SeededDropout(dropout), nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(b, width) to (b, dim)."""
        p = self.project(x)
        out: Tensor = self.norm(self.drop(self.mix(functional.gelu(p))) + p)
        return out


def soft_targets(image: Tensor, spot: Tensor, valid: Tensor, *, temperature: Tensor | float = 1.0) -> Tensor:
    """Which pairs belong together, (b, b): row-wise softmax of the mean of both kinds' own similarities.

    Parameters
    ----------
    image, spot
        (b, e) embeddings.
    valid
        (b,) False for padding, which gets no share and has none.
    """
    similarity = (image @ image.T + spot @ spot.T) / 2.0 / temperature
    share = torch.softmax(torch.where(valid[None], similarity, BARRED), dim=1)
    return share * valid[:, None].to(share.dtype)


def cross_entropies(logits: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
    """Per row -sum_j targets_ij log softmax(logits_i)_j over the valid columns, (b,)."""
    log_p = torch.log_softmax(torch.where(valid[None], logits, BARRED), dim=1)
    return -(targets * log_p).sum(1)


@in_full_precision
def published_contrast(image: Tensor, spot: Tensor, valid: Tensor, *, log: bool) -> Tensor:
    """The contrast of BLEEP and, with `log`, CMRCNet: T = 1, nothing normalised, soft targets.

    With T = softmax((I I^T + S S^T) / 2) row by row, and logits S I^T, the mean over rows of
    l = (CE(logits, T) + CE(logits^T, T^T)) / 2, or of log(1 + l). The rows of T^T do not sum to one; gradients flow
    through T.
    """
    targets, logits = soft_targets(image, spot, valid), spot @ image.T
    each = (cross_entropies(logits, targets, valid) + cross_entropies(logits.T, targets.T, valid)) / 2.0
    return mean_of(torch.log1p(each) if log else each, valid.to(each.dtype))


@in_full_precision
def contrast(image: Tensor, spot: Tensor, weight: Tensor, *, temperature: Tensor, soft: bool = True) -> Tensor:
    """Symmetric cross-entropy of unit rows at a temperature; targets sum to one both ways and carry no gradient.

    Parameters
    ----------
    image, spot
        (b, e) of length one.
    weight
        (b,) of the rows; 0 for padding.
    soft
        Whether spots that are alike share the target; else each pair stands alone.
    """
    valid = weight > 0
    logits = spot @ image.T / temperature
    if soft:
        with torch.no_grad():
            targets = soft_targets(image, spot, valid, temperature=temperature)
    else:
        targets = torch.diag_embed(valid.to(logits.dtype))
    # The similarities are symmetric, so that the same rows serve both ways.
    each = (cross_entropies(logits, targets, valid) + cross_entropies(logits.T, targets, valid)) / 2.0
    return mean_of(each, weight)


@in_full_precision
def log_squared_error(found: Tensor, wanted: Tensor, weight: Tensor) -> Tensor:
    """log(1 + mean squared error) of (b, e), rows weighted."""
    return torch.log1p(mean_of((found - wanted).square().mean(1), weight))


def mean_of(each: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean over rows."""
    return (each * weight).sum() / weight.sum().clamp_min(1e-6)
