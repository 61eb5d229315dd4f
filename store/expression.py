"""Raw counts of all genes beside the features, rows in the order of patches/spots."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from .arrays import Strings
from .atomic import atomic_path
from .checksums import seal_datasets
from .errors import DamagedFileError, StoreError
from .patch_file import Patches
from .schema import EXPRESSION, open_h5


@dataclass(frozen=True)
class Expression:
    """Raw counts of one slide.

    Attributes
    ----------
    counts
        (n_spots, n_genes) float32, sparse rows.
    genes
        (n_genes,) names.
    barcode
        (n_spots,) names of the rows.
    slide_id
        The slide that the file names; None before it is written.
    """

    counts: csr_matrix
    genes: Strings
    barcode: Strings
    slide_id: str | None = None


def write_expression(path: Path, expression: Expression, patches: Patches, *, slide_id: str) -> None:
    """Write counts as AnnData (`X` raw counts, `obsm["spatial"]` level-0 centres), a checksum on every dataset.

    Raises
    ------
    StoreError
        If rows are not those of the patch set, in its order, or genes repeat.
    """
    import anndata
    import h5py
    import pandas

    if len(expression.barcode) != len(patches) or (expression.barcode != patches.barcode).any():
        msg = f"slide {slide_id}: rows of the counts are not the spots of the slide, in their order"
        raise StoreError(msg)
    if len(np.unique(expression.genes)) != len(expression.genes):
        msg = f"slide {slide_id}: gene names repeat; make them unique before storing"
        raise StoreError(msg)
    observations = pandas.DataFrame(index=pandas.Index(expression.barcode.astype(object), name="barcode"))
    if patches.array is not None:
        observations["array_row"], observations["array_col"] = patches.array[:, 0], patches.array[:, 1]
    adata = anndata.AnnData(
        X=csr_matrix(expression.counts, dtype=np.float32),
        obs=observations,
        var=pandas.DataFrame(index=pandas.Index(expression.genes.astype(object), name="gene")),
        obsm={"spatial": np.asarray(patches.center_px, dtype=np.float64)},
        uns={"slide_id": slide_id},
    )
    with atomic_path(path, once=True) as temporary:
        adata.write_h5ad(temporary)
        with h5py.File(temporary, "r+") as file:
            seal_datasets(file)


def read_expression(path: Path) -> Expression:
    """Read counts through h5py alone, so that machines without anndata can train.

    Raises
    ------
    StoreError
        If the file is missing, damaged, no AnnData, or does not hold sparse rows as written here.
    """
    if not path.is_file():
        msg = f"{path} does not exist: this slide has no counts"
        raise StoreError(msg)
    with open_h5(path, EXPRESSION) as file:
        matrix = file["X"]
        if matrix.attrs.get("encoding-type") != "csr_matrix":
            msg = f"{path}: X is {matrix.attrs.get('encoding-type', 'of no known kind')}; wanted csr_matrix"
            raise StoreError(msg)
        counts = csr_matrix(
            (matrix["data"][()], matrix["indices"][()], matrix["indptr"][()]), shape=tuple(matrix.attrs["shape"])
        )
        counts.check_format(full_check=True)  # scipy trusts indices, and would read beyond its arrays
        genes, barcode = _index(file["var"]), _index(file["obs"])
        named = file.get("uns/slide_id")
        slide_id = None if named is None else str(named.asstr()[()])
    if counts.shape != (len(barcode), len(genes)):
        msg = (
            f"{path}: X has shape {counts.shape} for {len(barcode)} barcodes and {len(genes)} genes; "
            "delete it and run featurize again"
        )
        raise DamagedFileError(msg)
    return Expression(counts, genes, barcode, slide_id)


def _index(frame: Any) -> Strings:
    return np.asarray(frame[frame.attrs["_index"]].asstr()[()], dtype=np.str_)
