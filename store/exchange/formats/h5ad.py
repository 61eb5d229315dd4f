"""AnnData: one `<slide>.h5ad` with centres, features and counts, as scanpy and squidpy read it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import MissingDependencyError
from ...files.atomic import atomic_path
from ...files.expression import names_index
from ...files.slide import coordinate_frame, scanned_bounds
from ..exporting import ExportColumn, ExportSlide, kept


def to_anndata(outgoing: ExportSlide) -> Any:
    """One slide as AnnData.

    `X` holds raw counts (n, n_genes), or nothing (n, 0); `obsm["spatial"]` the centres (n, 2) in level-0 pixels;
    `obsm["X_<backbone>"]` features as stored, under the whole key where a backbone has several; `uns["tissuary"]`
    scale, fingerprints and records; `uns["spatial"]` thumbnail and scale factors as scanpy has them.

    Raises
    ------
    MissingDependencyError
        If anndata is not installed.
    """
    try:
        import anndata
        import pandas
    except ImportError as error:
        msg = 'AnnData is written with anndata: pip install "anndata>=0.12"'
        raise MissingDependencyError(msg) from error
    patches, counts = outgoing.patches, outgoing.counts
    rows = pandas.DataFrame(index=names_index(patches.barcode, "barcode"))
    if patches.array is not None:
        rows["array_row"], rows["array_col"] = patches.array[:, 0], patches.array[:, 1]
    genes = [] if counts is None else counts.genes.tolist()
    names = _column_names(outgoing.columns)
    return anndata.AnnData(
        X=None if counts is None else counts.counts,
        obs=rows,
        var=pandas.DataFrame(index=names_index(genes, "gene")),
        obsm={
            "spatial": np.asarray(patches.center_px, dtype=np.float64),
            **{name: np.asarray(column.features) for name, column in names.items()},
        },
        uns={"tissuary": _facts(outgoing, names), "spatial": {outgoing.slide.slide_id: _scanpy(outgoing)}},
    )


def _column_names(columns: tuple[ExportColumn, ...]) -> dict[str, ExportColumn]:
    """`X_<backbone>`, or `X_<key>` where the slide has several keys of one backbone."""
    keys_of = Counter(column.key.encoder for column in columns)
    return {f"X_{c.key.encoder if keys_of[c.key.encoder] == 1 else c.key}": c for c in columns}


def _facts(outgoing: ExportSlide, names: dict[str, ExportColumn]) -> dict[str, Any]:
    slide = outgoing.slide
    return {
        "slide_id": slide.slide_id,
        "patient_id": slide.patient_id,
        "mpp": slide.mpp,
        "mpp_source": slide.mpp_source,
        "width": slide.width_px,
        "height": slide.height_px,
        "coordinates": coordinate_frame(scanned_bounds(slide)),
        "patches": outgoing.patch_set,
        "features": {
            name: {
                "key": str(column.key),
                "fingerprint": column.header.fingerprint,
                "record": json.dumps(column.header.record, sort_keys=True),
                "fov_um": column.header.fov_um,
                "mpp": column.header.mpp,
                "precision": column.header.precision,
                "upsampling": column.header.upsampling,
            }
            for name, column in names.items()
        },
    }


def _scanpy(outgoing: ExportSlide) -> dict[str, Any]:
    """Pictures and scale factors as `scanpy.pl.spatial` and squidpy look for them."""
    factors: dict[str, float] = {}
    if outgoing.columns:
        factors["spot_diameter_fullres"] = outgoing.columns[0].side_px
    if outgoing.thumbnail is None:
        return {"images": {}, "scalefactors": factors}
    factors["tissue_hires_scalef"] = outgoing.thumbnail.shape[1] / outgoing.slide.width_px
    return {"images": {"hires": outgoing.thumbnail}, "scalefactors": factors}


def write_h5ad(outgoing: ExportSlide, folder: Path) -> tuple[list[Path], list[str]]:
    """Write one slide as `<slide>.h5ad`."""
    path = folder / f"{outgoing.slide.slide_id}.h5ad"
    if path.exists():
        return [], [kept(path)]
    adata = to_anndata(outgoing)
    with atomic_path(path, once=True) as temporary:
        adata.write_h5ad(temporary)
    return [path], []
