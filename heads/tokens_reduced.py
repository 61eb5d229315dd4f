"""Tokens with fewer numbers each: the leading principal components of a cohort's tokens, taken once before training."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from ..store.feature_column import FeatureColumn
from ..store.table import Table

SAMPLE = 20_000
"""Tokens of a key, over all training rows, from which components are learnt."""

BLOCK = 512
"""Rows that are reduced together."""

Components = dict[str, NDArray[np.float32]]
"""Under `mean KEY` (dim,), under `basis KEY` (dim, k): orthonormal directions over one spread, so that coordinates of
all tokens together have unit variance per number."""


def learn_components(table: Table, columns: tuple[FeatureColumn, ...], *, size: int, seed: int) -> Components:
    """Principal components of the tokens of each key with more than `size` numbers, from a sample of training rows.

    Parameters
    ----------
    size
        Components kept.
    seed
        Of the sample.
    """
    found: Components = {}
    for column in columns:
        if len(column.row_shape) == 1 or column.dim <= size:
            continue
        rng = np.random.default_rng(seed)
        rows = rng.permutation(len(table))[: max(1, SAMPLE // column.row_shape[0])]
        tokens = column.gather(table.slide[rows], table.row[rows]).reshape(-1, column.dim)
        mean = tokens.mean(axis=0, dtype=np.float64).astype(np.float32)
        centred = torch.from_numpy(tokens - mean)
        values, vectors = (part.numpy() for part in torch.linalg.eigh((centred.T @ centred).double() / len(centred)))
        kept = vectors[:, ::-1][:, :size].copy()
        kept *= np.sign(kept[np.abs(kept).argmax(axis=0), np.arange(size)])  # an eigenvector has no sign of its own
        spread = np.sqrt(max(values[::-1][:size].mean(), 1e-12))
        found[f"mean {column.key}"] = mean
        found[f"basis {column.key}"] = (kept / spread).astype(np.float32)
    return found


def reduced(table: Table, column: FeatureColumn, components: Components) -> FeatureColumn:
    """A column of the coordinates of its tokens, in memory as float16, with zeros for rows that the table leaves out.

    The column itself where no components were learnt for it.
    """
    basis = components.get(f"basis {column.key}")
    if basis is None:
        return column
    mean = components[f"mean {column.key}"]
    parts = []
    for one, stored in enumerate(column.parts):
        rows = np.flatnonzero(table.slide == one)
        part = np.zeros((len(stored), *column.row_shape[:-1], basis.shape[1]), dtype=np.float16)
        for start in range(0, len(rows), BLOCK):
            here = rows[start : start + BLOCK]
            tokens = torch.from_numpy(column.gather(table.slide[here], table.row[here]))
            part[table.row[here]] = ((tokens - torch.from_numpy(mean)) @ torch.from_numpy(basis)).half().numpy()
        parts.append(part)
    digest = hashlib.sha256(basis.tobytes() + mean.tobytes()).hexdigest()[:16]
    fingerprint = f"{column.fingerprint} on components {digest}"
    return replace(column, fingerprint=fingerprint, parts=tuple(parts), shift=None, scale=None)
