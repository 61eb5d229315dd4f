"""Prediction in blocks of rows, members averaged."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ...store.arrays import Ints
from .batch import make_batch
from .network import HeadModule
from .rows import RowData
from .training import half_precision

BLOCK = 2048


def predict_rows(
    modules: Sequence[HeadModule], data: RowData, *, rows: Ints | None = None, block: int = BLOCK
) -> NDArray[np.float32]:
    """Mean prediction (n, n_genes) of networks in evaluation mode.

    Rows go slide by slide in order of position, so that the neighbours of a block lie mostly inside it, and a slide is
    in one block unless it has more rows than `block`: networks may relate the rows of a slide to each other.
    """
    rows = np.arange(len(data)) if rows is None else rows
    order = rows[np.lexsort((data.place_um[rows, 0], data.slide[rows]))]
    parts = []
    with torch.inference_mode():
        for here in blocks_of(data.slide[order], block):
            batch = make_batch(data, order[here])
            with half_precision(batch.weight.device):
                parts.append(torch.stack([module(batch).float() for module in modules]).mean(0).cpu().numpy())
    out = np.empty((len(rows), parts[0].shape[1]), dtype=np.float32)
    out[np.searchsorted(rows, order) if _ascending(rows) else _places(rows, order)] = np.concatenate(parts)
    return out


def blocks_of(slide: Ints, block: int) -> list[slice]:
    """Runs of at most `block` rows, (n,) sorted by slide; a slide is cut only where it alone has more."""
    ends = np.append(np.flatnonzero(np.diff(slide)) + 1, len(slide))
    cuts, start = [0], 0  # where blocks start; where the slide at hand starts
    for end in ends.tolist():
        if end - cuts[-1] > block:
            if start > cuts[-1]:
                cuts.append(start)
            cuts += range(cuts[-1] + block, end, block)
        start = end
    return [slice(a, b) for a, b in zip(cuts, [*cuts[1:], len(slide)], strict=True)]


def _ascending(rows: Ints) -> bool:
    return bool(np.all(np.diff(rows) > 0))


def _places(rows: Ints, order: Ints) -> Ints:
    """Place in `rows` of each row of `order`."""
    by_row = np.argsort(rows)
    return np.asarray(by_row[np.searchsorted(rows[by_row], order)])
