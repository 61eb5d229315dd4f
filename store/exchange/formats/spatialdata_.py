"""SpatialData: one `<slide>.zarr` with patches as shapes, a table of features and counts, and the thumbnail."""

from __future__ import annotations

import importlib
import re
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import MissingDependencyError, StoreError
from ...files.atomic import disk_errors
from ..exporting import ExportSlide, kept
from .h5ad import to_anndata

PIXELS, MICRONS = "global", "um"
"""Coordinate systems: level-0 pixels, and um from the slide's upper left."""

PATCHES, TABLE, THUMBNAIL = "patches", "table", "thumbnail"

_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]")


def check_spatialdata() -> None:
    """Refuse to begin where the library is missing.

    Raises
    ------
    MissingDependencyError
        If spatialdata is not installed.
    """
    _library("spatialdata")


def _library(name: str) -> Any:
    """Import an optional library, which need not be there when types are checked."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        msg = f'SpatialData is written with {name}: pip install "tissuary[spatialdata]"'
        raise MissingDependencyError(msg) from error


def to_spatialdata(outgoing: ExportSlide) -> Any:
    """One slide as SpatialData, in level-0 pixels ("global") and in um.

    Shapes `patches` are the patches' squares of the first feature key, or points of radius 1 where the slide has no
    features; their index is the row. Table `table` is the slide's AnnData, its names cut to what SpatialData allows.

    Raises
    ------
    MissingDependencyError
        If spatialdata is not installed.
    """
    models, moves = _library("spatialdata.models"), _library("spatialdata.transformations")
    to_um = moves.Scale([outgoing.slide.mpp] * 2, axes=("x", "y"))
    shapes = models.ShapesModel.parse(_frame(outgoing), transformations={PIXELS: moves.Identity(), MICRONS: to_um})
    images = {}
    if outgoing.thumbnail is not None:
        height, width = outgoing.thumbnail.shape[:2]
        up = moves.Scale([outgoing.slide.width_px / width, outgoing.slide.height_px / height], axes=("x", "y"))
        images[THUMBNAIL] = models.Image2DModel.parse(
            np.moveaxis(outgoing.thumbnail, -1, 0),
            dims=("c", "y", "x"),
            transformations={PIXELS: up, MICRONS: moves.Sequence([up, to_um])},
        )
    table = models.TableModel.parse(_table(outgoing), region=PATCHES, region_key="region", instance_key="instance_id")
    return _library("spatialdata").SpatialData(images=images, shapes={PATCHES: shapes}, tables={TABLE: table})


def _table(outgoing: ExportSlide) -> Any:
    """The slide's AnnData, its names cut to what SpatialData allows, each row pointing to its patch."""
    adata = to_anndata(outgoing)
    safe = {name: _UNSAFE.sub("_", name) for name in adata.obsm}
    if len(set(safe.values())) < len(safe):
        msg = f"slide {outgoing.slide.slide_id}: names {', '.join(safe)} are one in SpatialData: choose with --key"
        raise StoreError(msg)
    for name in [name for name in safe if safe[name] != name]:
        adata.obsm[safe[name]] = adata.obsm.pop(name)
    features = adata.uns["tissuary"]["features"]
    adata.uns["tissuary"]["features"] = {safe[name]: facts for name, facts in features.items()}
    del adata.uns["spatial"]  # the picture is an element of its own here
    adata.obs["region"] = PATCHES
    adata.obs["region"] = adata.obs["region"].astype("category")
    adata.obs["instance_id"] = np.arange(adata.n_obs)
    return adata


def _frame(outgoing: ExportSlide) -> Any:
    """Patches as a GeoDataFrame: squares, or circles where their side is not known."""
    geopandas, shapely = _library("geopandas"), _library("shapely")
    centers = outgoing.patches.center_px
    if not outgoing.columns:
        return geopandas.GeoDataFrame({"radius": np.ones(len(centers))}, geometry=shapely.points(centers))
    half = outgoing.columns[0].side_px / 2
    low, high = centers - half, centers + half
    return geopandas.GeoDataFrame(geometry=shapely.box(low[:, 0], low[:, 1], high[:, 0], high[:, 1]))


def write_spatialdata(outgoing: ExportSlide, folder: Path) -> tuple[list[Path], list[str]]:
    """Write one slide as `<slide>.zarr`, a folder that gets its name when all of it is there."""
    path = folder / f"{outgoing.slide.slide_id}.zarr"
    if path.exists():
        return [], [kept(path)]
    data = to_spatialdata(outgoing)
    with disk_errors(path):
        folder.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{path.name[:120]}.partial-", dir=folder))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of its own libraries, about versions to come
                data.write(beside / path.name)
            (beside / path.name).rename(path)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    return [path], []
