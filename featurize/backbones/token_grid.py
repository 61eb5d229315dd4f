"""Coarser grids of patch tokens: area-weighted means, so that a spot can be stored as 7 x 7 tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from ...store.errors import BackboneError


def pooled_grid(tokens: Tensor, *, grid: tuple[int, int], to: tuple[int, int]) -> Tensor:
    """Average the tokens of a grid over the cells of a coarser one.

    Tokens are taken as a map that is constant over each token's square. A cell of the result is the integral of that
    map over the cell, divided by the cell's area: 14 x 14 -> 7 x 7 is the mean of 2 x 2 tokens, and in 16 x 16 -> 7 x 7
    a token on a border counts in both cells by the share that lies in each. So every token has the same total weight,
    the mean over all cells is that of all tokens, and equal tokens stay as they are. (The bins of
    `adaptive_avg_pool2d` overlap by whole tokens: those at borders count twice, and the mean is not kept.)

    Parameters
    ----------
    tokens
        (b, rows * columns, d), row by row.
    grid
        Rows and columns of the tokens.
    to
        Rows and columns wanted.

    Returns
    -------
    Tensor
        (b, rows * columns, d) of the wanted grid, in the tokens' dtype; sums are taken in float64.

    Raises
    ------
    BackboneError
        If there are not as many tokens as `grid` says, or `to` is finer than `grid`.
    """
    (height, width), (rows, columns) = grid, to
    if tokens.ndim != 3 or tokens.shape[1] != height * width:
        msg = f"tokens {tuple(tokens.shape)}: a grid of {height} x {width} wants (b, {height * width}, d)"
        raise BackboneError(msg)
    if not (1 <= rows <= height and 1 <= columns <= width):
        msg = f"a grid of {rows} x {columns} from {height} x {width} tokens: ask for at most {height} x {width}"
        raise BackboneError(msg)
    if grid == to:
        return tokens
    cells = tokens.double().view(len(tokens), height, width, -1)
    cells = torch.einsum("ri,bijd->brjd", _overlaps(height, rows, cells.device), cells)
    cells = torch.einsum("cj,brjd->brcd", _overlaps(width, columns, cells.device), cells)
    return (cells / (height * width)).flatten(1, 2).to(tokens.dtype)  # (b, r, c, d) -> (b, r * c, d)


def _overlaps(size: int, cells: int, device: torch.device) -> Tensor:
    """Lengths shared by `cells` equal cells and `size` equal tokens of one axis, whole numbers: (cells, size).

    The axis is `size * cells` long, so that borders of both fall on whole numbers; each row sums to `size`.
    """
    cell, token = torch.arange(cells, device=device)[:, None] * size, torch.arange(size, device=device) * cells
    return (torch.minimum(cell + size, token + cells) - torch.maximum(cell, token)).clamp(min=0).double()
