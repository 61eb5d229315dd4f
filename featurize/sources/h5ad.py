"""Counts and spot positions of one slide in an AnnData file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from ...store.arrays import Ints
from ...store.errors import CohortError
from ..cohort import Measured, Spots
from .count_matrix import CountMatrix, checked_matrix

ARRAY = ("array_row", "array_col")


def read_h5ad(path: Path) -> Measured:
    """Read `X` as raw counts, `obsm["spatial"]` as centres in level-0 pixels, and `obs` array_row, array_col.

    Raises
    ------
    CohortError
        If the file is missing or damaged, has no positions, or its counts are none.
    """
    adata = _read(path)
    matrix = _matrix(adata, path)
    if "spatial" not in adata.obsm:
        msg = f'{path} has no obsm["spatial"]: add centres in level-0 pixels, or name a table of spots in the manifest'
        raise CohortError(msg)
    center = np.asarray(adata.obsm["spatial"], dtype=np.float64)
    if center.ndim != 2 or center.shape[1] != 2 or not np.isfinite(center).all():
        msg = f'{path}: obsm["spatial"] has shape {center.shape}; wanted x and y of every spot, all finite numbers'
        raise CohortError(msg)
    if not len(center):
        msg = f"{path} holds no spots: nothing to measure"
        raise CohortError(msg)
    return Measured(Spots(matrix.barcode, center, _array(adata, path)), matrix.counts, matrix.genes)


def read_h5ad_counts(path: Path) -> CountMatrix:
    """Read `X` as raw counts, leaving any positions aside.

    Raises
    ------
    CohortError
        If the file is missing or damaged, or its counts are none.
    """
    return _matrix(_read(path), path)


def _read(path: Path) -> Any:
    import anndata

    if not path.is_file():
        msg = f"{path} does not exist: correct the path in the manifest, or add the file"
        raise CohortError(msg)
    try:
        return anndata.read_h5ad(path)
    except (OSError, KeyError, ValueError, AttributeError, TypeError) as error:
        msg = f"{path} cannot be read as AnnData ({str(error).splitlines()[0]}): it is damaged or of another kind"
        raise CohortError(msg) from error


def _matrix(adata: Any, path: Path) -> CountMatrix:
    if adata.X is None:
        msg = f"{path} has no X: raw counts are wanted there"
        raise CohortError(msg)
    barcode, genes = (np.array(names.astype(str), dtype=np.str_) for names in (adata.obs_names, adata.var_names))
    return checked_matrix(path, barcode, genes, csr_matrix(adata.X))


def _array(adata: Any, path: Path) -> Ints | None:
    if not set(ARRAY) <= set(adata.obs.columns):
        return None
    try:
        values = np.asarray(adata.obs[list(ARRAY)], dtype=np.float64)  # (n, 2)
    except (ValueError, TypeError):
        values = np.full((1, 2), np.nan)
    if not ((values == np.rint(values)) & (np.abs(values) < 2**31)).all():
        msg = f"{path}: obs {' and '.join(ARRAY)} must be whole numbers"
        raise CohortError(msg)
    return values.astype(np.int32)
