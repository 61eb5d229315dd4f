"""Raw counts of all genes beside the features, rows in the order of patches/spots."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from ..arrays import Strings
from ..errors import DamagedFileError, StoreError
from .atomic import atomic_path
from .checksums import seal_datasets
from .patches import Patches
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
    observations = pandas.DataFrame(index=names_index(expression.barcode, "barcode"))
    if patches.array is not None:
        observations["array_row"], observations["array_col"] = patches.array[:, 0], patches.array[:, 1]
    adata = anndata.AnnData(
        X=csr_matrix(expression.counts, dtype=np.float32),
        obs=observations,
        var=pandas.DataFrame(index=names_index(expression.genes, "gene")),
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
        genes, barcode = read_names(file["var"]), read_names(file["obs"])
        slide_id = read_text(file, "uns/slide_id") if "uns/slide_id" in file else None
    if counts.shape != (len(barcode), len(genes)):
        msg = (
            f"{path}: X has shape {counts.shape} for {len(barcode)} barcodes and {len(genes)} genes; "
            "delete it and run featurize again"
        )
        raise DamagedFileError(msg)
    return Expression(counts, genes, barcode, slide_id)


def names_index(names: Iterable[str], title: str | None = None) -> Any:
    """Index of `obs` or `var` that every version of anndata writes as a dataset `string-array`.

    Of an index with a string type, which pandas 3 gives to names by itself, anndata 0.13 makes a group
    `nullable-string-array`, and readers that go through h5py, ours of before and those of other tools, fail on it.
    """
    import pandas

    return pandas.Index([str(name) for name in names], dtype=object, name=title)


def read_names(frame: Any) -> Strings:
    """Names of the rows (n,) of `obs` or `var` in an AnnData file that h5py opened.

    Raises
    ------
    DamagedFileError
        If there is no index, or a name is missing.
    """
    index = frame.attrs.get("_index")
    if index is None or index not in frame:
        msg = f"{frame.file.filename}: {frame.name} has no index, so its rows have no names: make the file again"
        raise DamagedFileError(msg)
    return read_strings(frame[index])


def read_strings(item: Any) -> Strings:
    """Strings (n,) in either form that anndata writes, through h5py alone.

    A dataset `string-array`, or a group `nullable-string-array` of `values` and `mask` (True where one is missing),
    which anndata 0.13 with pandas 3 writes of its own accord. Source: anndata's on-disk format, fileformat-prose.

    Raises
    ------
    DamagedFileError
        If a string is missing, or it is in neither form.
    """
    import h5py

    if isinstance(item, h5py.Dataset):
        return np.asarray(item.asstr()[()], dtype=np.str_)
    form = item.attrs.get("encoding-type", "a group of no known kind")
    if form != "nullable-string-array":
        msg = f"{item.file.filename}: {item.name} is {form}; wanted string-array or nullable-string-array"
        raise DamagedFileError(msg)
    values, missing = item["values"].asstr()[()], item["mask"][()].astype(np.bool_)
    if values.shape != missing.shape or missing.any():
        msg = (
            f"{item.file.filename}: {item.name} lacks {int(missing.sum())} of {len(missing)} names "
            f"(values {values.shape}, mask {missing.shape}); wanted a name for every row"
        )
        raise DamagedFileError(msg)
    return np.asarray(values, dtype=np.str_)


def read_text(group: Any, name: str) -> str:
    """A single string of an AnnData file that h5py opened, such as an entry of `uns`."""
    return str(group[name].asstr()[()])
