"""Contrastive losses between an image code and an expression code: the published one, and one that means something."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from .engine.precision import in_full_precision


@in_full_precision
def published_contrast(
    image: Tensor, genes: Tensor, *, temperature: float, multiplier: float = 0.1, group: Tensor | None = None
) -> Tensor:
    """NH2ST's loss: image to genes alone, with the logits of other spots multiplied by 0.1.

    The multiplier is what it collapses by: if all codes are one and the same, a spot's own logit is 1 / temperature and
    the others' a tenth of it, so that nothing is left to learn.

    Parameters
    ----------
    image, genes
        (b, d) codes; row i of one belongs to row i of the other.
    temperature
        By which cosines are divided.
    multiplier
        Of the logits off the diagonal.
    group
        (b,) rows are compared within a group alone; groups below zero are padding. One group where not given.
    """
    cosine = functional.normalize(image, dim=1) @ functional.normalize(genes, dim=1).T
    own = torch.eye(len(cosine), dtype=torch.bool, device=cosine.device)
    logits = torch.where(own, cosine, multiplier * cosine) / temperature
    if group is None:
        return (torch.logsumexp(logits, dim=1) - logits.diagonal()).mean()
    real = (group >= 0).to(cosine.dtype)
    logits = logits.masked_fill(~(own | (group[:, None] == group[None])), float("-inf"))
    loss = torch.logsumexp(logits, dim=1) - logits.diagonal()
    return (loss * real).sum() / real.sum().clamp_min(1.0)


@in_full_precision
def symmetric_contrast(image: Tensor, genes: Tensor, *, temperature: Tensor, real: Tensor, negatives: Tensor) -> Tensor:
    """InfoNCE in both directions (van den Oord et al. 2018, as CLIP has it).

    Parameters
    ----------
    image, genes
        (b, d) codes; row i of one belongs to row i of the other.
    temperature
        By which cosines are divided.
    real
        (b,) rows that count; the others are neither positives nor negatives.
    negatives
        (b, b) True where two rows may be told apart.
    """
    logits = functional.normalize(image, dim=1) @ functional.normalize(genes, dim=1).T / temperature
    own = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    logits = logits.masked_fill(~(own | (negatives & real[None] & real[:, None])), float("-inf"))
    both = torch.logsumexp(logits, dim=1) + torch.logsumexp(logits, dim=0) - 2.0 * logits.diagonal()
    count = real.to(logits.dtype)
    return 0.5 * (both * count).sum() / count.sum().clamp_min(1.0)


def far_apart(place_um: Tensor, same_slide: Tensor, *, within_um: float) -> Tensor:
    """(b, b) True for rows of different slides, or farther from each other than `within_um`.

    Parameters
    ----------
    place_um
        (b, 2) positions on the slides.
    same_slide
        (b, b).
    """
    away = (place_um[:, None] - place_um[None]).square().sum(-1)
    return ~same_slide | (away > within_um**2)
