"""Prediction in blocks of rows, members averaged."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ...store.arrays import Ints
from .batches import make_batch
from .module import HeadModule
from .rows import RowData
from .training import half_precision

BLOCK = 2048


def predict_rows(
    modules: Sequence[HeadModule], data: RowData, *, rows: Ints | None = None, block: int = BLOCK
) -> NDArray[np.float32]:
    """Mean prediction (n, n_genes) of networks in evaluation mode.

    Rows go slide by slide in order of position, so that the neighbours of a block lie mostly inside it.
    """
    rows = np.arange(len(data)) if rows is None else rows
    order = rows[np.lexsort((data.place_um[rows, 0], data.slide[rows]))]
    parts = []
    with torch.inference_mode():
        for start in range(0, len(order), block):
            batch = make_batch(data, order[start : start + block])
            with half_precision(batch.weight.device):
                parts.append(torch.stack([module(batch).float() for module in modules]).mean(0).cpu().numpy())
    out = np.empty((len(rows), parts[0].shape[1]), dtype=np.float32)
    out[np.searchsorted(rows, order) if _ascending(rows) else _places(rows, order)] = np.concatenate(parts)
    return out


def _ascending(rows: Ints) -> bool:
    return bool(np.all(np.diff(rows) > 0))


def _places(rows: Ints, order: Ints) -> Ints:
    """Place in `rows` of each row of `order`."""
    by_row = np.argsort(rows)
    return np.asarray(by_row[np.searchsorted(rows[by_row], order)])
