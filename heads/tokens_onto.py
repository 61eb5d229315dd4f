"""From the cells of one square onto those of another around the same centre: repeated, pooled or cropped by area."""

from __future__ import annotations

import torch
from torch import Tensor


def cells_onto(side: int, field_um: float, *, to: int, to_field_um: float) -> Tensor:
    """Weights (to * to, side * side) of stored cells in wanted ones.

    Stored cells are a map that is constant over each cell; a wanted cell is the mean of that map over itself. So
    2 x 2 -> 4 x 4 repeats, 14 x 14 -> 7 x 7 averages 2 x 2, and a smaller field crops, with shares where borders do
    not meet. Every row sums to one.

    Parameters
    ----------
    side, field_um
        Of the stored cells: cells a side, and side of the square that they fill.
    to, to_field_um
        Of the wanted ones; not beyond the stored square.
    """
    edges = torch.linspace(0.0, 1.0, side + 1, dtype=torch.float64)
    share = to_field_um / field_um
    wanted = 0.5 - share / 2 + share * torch.linspace(0.0, 1.0, to + 1, dtype=torch.float64)
    low = torch.maximum(wanted[:-1, None], edges[None, :-1])
    high = torch.minimum(wanted[1:, None], edges[None, 1:])
    axis = (high - low).clamp(min=0.0)  # (to, side) lengths shared
    axis = torch.where(axis < 1e-9, 0.0, axis)  # what rounding leaves of borders that meet
    axis = axis / axis.sum(1, keepdim=True)
    return torch.kron(axis, axis).float()


def moved(weights: Tensor, tokens: Tensor) -> Tensor:
    """Tokens (b, s, d) on the wanted cells (b, t, d)."""
    return torch.einsum("ts,bsd->btd", weights, tokens)
