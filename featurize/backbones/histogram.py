"""Percentiles and label counts through histograms: linear in the pixels, where sorting is not."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

BINS = 256


def percentiles(values: Tensor, quantiles: Sequence[float], *, low: float, high: float) -> Tensor:
    """Percentiles of each row, linear inside a bin.

    Parameters
    ----------
    values
        (..., k); what lies outside `low`..`high` counts as lying at that end.
    quantiles
        Between 0 and 1, both excluded.
    low, high
        Range of the histogram's `BINS` bins; a percentile is exact to one bin.

    Returns
    -------
    Tensor
        (..., q) float32.
    """
    width = (high - low) / BINS
    bins = values.sub(low).mul_(1 / width).clamp_(0, BINS - 1)  # (..., k)
    below = label_counts(bins, BINS).cumsum(dim=-1)  # (..., BINS) values up to and with each bin
    wanted = torch.tensor(quantiles, device=values.device) * values.shape[-1]
    wanted = wanted.expand(*values.shape[:-1], len(quantiles)).contiguous()  # (..., q)
    at = torch.searchsorted(below, wanted).clamp_(max=BINS - 1)
    upto = below.gather(-1, at)
    before = below.gather(-1, (at - 1).clamp(min=0)).masked_fill(at == 0, 0)
    part = (wanted - before) / (upto - before).clamp(min=1)
    return low + width * (at + part)


def label_counts(labels: Tensor, n: int) -> Tensor:
    """How often each label 0..n-1 (whole part of the value) occurs in each row of (..., k): (..., n) float32."""
    rows = labels.shape[:-1].numel()
    narrow = torch.int16 if rows * n <= 2**15 else torch.int32  # counting is bound by memory
    first = torch.arange(rows, device=labels.device, dtype=narrow) * n
    shifted = labels.reshape(rows, -1).to(narrow).add_(first[:, None])  # each row counts into bins of its own
    return torch.bincount(shifted.flatten(), minlength=rows * n).float().view(*labels.shape[:-1], n)
