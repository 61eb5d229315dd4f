"""Counts and spot positions of one slide in an AnnData file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, issparse

from ...store.arrays import Floats, Ints
from ...store.errors import CohortError
from ..cohort import Measured, Spots
from .access import reading
from .count_matrix import CountMatrix, checked_matrix
from .spot_table import ARRAY, IN_TISSUE, label_columns, stated_diameter, under_tissue

HEST_PICTURE = "downscaled_fullres"
"""Key of the picture by which an AnnData of HEST is known, also outside its folders: its in_tissue means nothing."""

PREDICTION = "tissuary-prediction"
"""What an output of `tissuary predict` calls itself in `uns["tissuary"]["encoding-type"]`."""

DAMAGED = (OSError, RuntimeError, LookupError, ValueError, AttributeError, TypeError, ArithmeticError)
"""Built-in errors that anndata and h5py raise on files that are damaged or of another kind."""


def read_h5ad(path: Path, *, in_tissue: bool = True) -> Measured:
    """Read `X` as raw counts, `obsm["spatial"]` as centres in level-0 pixels, and `obs` array_row, array_col.

    Parameters
    ----------
    in_tissue
        Whether `obs` in_tissue, where it is there, says which spots lie on tissue; the others are left out.

    Raises
    ------
    CohortError
        If the file is missing or damaged, has no positions, or its counts are none.
    """
    adata = on_tissue(_read(path), path) if in_tissue else _read(path)
    matrix = matrix_of(adata, path)
    if "spatial" not in adata.obsm:
        msg = f'{path} has no obsm["spatial"]: add centres in level-0 pixels, or name a table of spots in the manifest'
        raise CohortError(msg)
    center = _numbers(adata.obsm["spatial"], f'{path}: obsm["spatial"]')
    if center.ndim != 2 or center.shape[1] != 2 or not np.isfinite(center).all():
        msg = f'{path}: obsm["spatial"] has shape {center.shape}; wanted x and y of every spot, all finite numbers'
        raise CohortError(msg)
    if not len(center):
        msg = f"{path} holds no spots: nothing to measure"
        raise CohortError(msg)
    spots = Spots(matrix.barcode, center, array_of(adata, path), _diameter_px(adata), labels_of(adata))
    return Measured(spots, matrix.counts, matrix.genes)


def on_tissue(adata: Any, path: Path) -> Any:
    """The rows of an AnnData in memory whose `obs` in_tissue is 1; all where there is no such column, or HEST wrote it.

    Raises
    ------
    CohortError
        If it holds anything but 0 and 1, or only 0.
    """
    pictures = [one.get("images") for one in _libraries(adata)]
    if IN_TISSUE not in adata.obs or any(isinstance(one, Mapping) and HEST_PICTURE in one for one in pictures):
        return adata
    rows = under_tissue(adata.obs[IN_TISSUE], path)
    return adata if len(rows) == adata.n_obs else adata[rows].copy()


def labels_of(adata: Any) -> dict[str, NDArray[np.object_]]:
    """Columns of `obs` that may tell sections apart."""
    return label_columns((name, adata.obs[name]) for name in adata.obs.columns if name not in (*ARRAY, IN_TISSUE))


def _libraries(adata: Any) -> list[Mapping[str, Any]]:
    """Entries of `uns["spatial"]` that can describe a slide."""
    spatial = adata.uns.get("spatial")
    return [one for one in spatial.values() if isinstance(one, Mapping)] if isinstance(spatial, Mapping) else []


def _diameter_px(adata: Any) -> float | None:
    """Diameter of a spot in level-0 pixels, where one library of `uns["spatial"]` says it."""
    factors = [one.get("scalefactors") for one in _libraries(adata)]
    said = [one.get("spot_diameter_fullres") for one in factors if isinstance(one, Mapping)]
    return stated_diameter(said[0]) if len(said) == 1 else None


def read_h5ad_counts(path: Path) -> CountMatrix:
    """Read `X` as raw counts, leaving any positions aside.

    Raises
    ------
    CohortError
        If the file is missing or damaged, or its counts are none.
    """
    return matrix_of(_read(path), path)


def _read(path: Path) -> Any:
    import anndata

    with reading(path):
        if not path.is_file():
            msg = f"{path} does not exist: correct the path in the manifest, or add the file"
            raise CohortError(msg)
    try:
        return anndata.read_h5ad(path)
    except damaged() as error:
        cause = next(iter(str(error).splitlines()), type(error).__name__)
        msg = f"{path} cannot be read as AnnData ({cause}): it is damaged or of another kind"
        raise CohortError(msg) from error


def damaged() -> tuple[type[Exception], ...]:
    """What a file that is damaged or of another kind raises."""
    try:
        from anndata._io.specs.registry import IORegistryError  # of an unknown encoding; public nowhere
    except ImportError:  # anndata may move it
        return DAMAGED
    return (*DAMAGED, IORegistryError)


def _numbers(positions: Any, what: str) -> Floats:
    """Positions as float64; a table with named columns is one of numbers too."""
    wanted = "wanted a dense array of numbers, x and y of every spot in level-0 pixels"
    if issparse(positions):
        msg = f"{what} is sparse ({type(positions).__name__}); {wanted}"
        raise CohortError(msg)
    values = np.asarray(positions)
    try:
        if values.dtype.kind not in "iufO":
            raise TypeError
        return values.astype(np.float64)
    except (ValueError, TypeError) as error:
        msg = f"{what} holds {_kind(values)}; {wanted}"
        raise CohortError(msg) from error


def matrix_of(adata: Any, path: Path) -> CountMatrix:
    """Raw counts `X` of an AnnData in memory.

    Raises
    ------
    CohortError
        If there are none, they are no counts or predicted, or names of spots repeat.
    """
    about = adata.uns.get("tissuary")
    refuse_prediction(about.get("encoding-type") if isinstance(about, Mapping) else None, path)
    if adata.X is None:
        msg = f"{path} has no X: raw counts are wanted there"
        raise CohortError(msg)
    barcode, genes = (np.array(names.astype(str), dtype=np.str_) for names in (adata.obs_names, adata.var_names))
    return checked_matrix(path, barcode, genes, _counts(adata.X, (len(barcode), len(genes)), path))


def refuse_prediction(kind: object, path: Path) -> None:
    """Refuse what says that it is an output of `tissuary predict`: nobody measured what it holds.

    Raises
    ------
    CohortError
        If it says so.
    """
    if kind == PREDICTION:
        msg = (
            f"{path} was made by `tissuary predict`: its X is predicted expression, no counts that were measured. Give "
            "measured counts, or leave it out; --format slides takes the image alone"
        )
        raise CohortError(msg)


def _counts(matrix: Any, shape: tuple[int, int], path: Path) -> csr_matrix:
    """`X` as compressed rows of numbers."""
    values = matrix if issparse(matrix) else np.asarray(matrix)
    if values.dtype.kind not in "biuf" or values.shape != shape:
        msg = (
            f"{path}: X holds {_kind(values)} of shape {values.shape}; wanted raw counts, numbers of shape {shape} "
            "(spots, genes)"
        )
        raise CohortError(msg)
    try:
        # scipy has no half precision.
        counts = csr_matrix(values.astype(np.float32) if values.dtype == np.float16 else values)
        counts.check_format(full_check=True)  # an index beyond the matrix would be followed into foreign memory
    except (ValueError, TypeError) as error:
        msg = f"{path}: X is no sound matrix ({error}); wanted raw counts of shape {shape} (spots, genes)"
        raise CohortError(msg) from error
    return counts


def _kind(values: Any) -> str:
    """What an array that should hold numbers holds."""
    return "text" if values.dtype.kind in "OSUT" else str(values.dtype)


def array_of(adata: Any, path: Path) -> Ints | None:
    """`obs` array_row and array_col (n, 2), where they are there.

    Raises
    ------
    CohortError
        If they are no whole numbers.
    """
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
