"""SpatialData: tables of counts that annotate shapes, over an image in the same coordinate system.

Read through spatialdata (an optional library), which knows all versions of the format; the pixels then come from the
image's own zarr group. Marconato, L. et al. (2024). SpatialData. Nat Methods 22, 58-62.
"""

from __future__ import annotations

import importlib
import math
import re
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...store.arrays import Floats
from ...store.errors import CohortError, MissingDependencyError
from ...store.files.schema import is_lazyslide
from ...store.naming import patient_name
from .h5ad import PATIENT, array_of, damaged, distinct, labels_of, matrix_of, on_tissue, one_patient
from .images import reading
from .sample import MeasuredSpots, Refused, Sample, Spots, unknown_patient

DECLARED_IN = "SpatialData"

MICRONS = ("um", "µm", "micron", "microns", "micrometer", "micrometers", "micrometre")
"""Names of coordinate systems that are taken for um."""

_BIN = re.compile(r"square_0*(\d+)um")


@dataclass(frozen=True)
class SpatialDataSlide:
    """One image of a SpatialData, and the part of a table whose shapes lie on it.

    Attributes
    ----------
    system
        The coordinate system that both are in.
    """

    slide_id: str
    image: str
    table: str | None
    region: str | None
    system: str


def is_spatialdata(path: Path) -> bool:
    """Whether a folder is a SpatialData on disk; those of LazySlide hold tiles and features, and no slide."""
    with reading(path):
        groups = ("images", "tables", "table", "shapes")
        is_group = any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zattrs"))
        return is_group and any((path / name).is_dir() for name in groups) and not is_lazyslide(path)


def spatialdata_folders(source: Path) -> list[Path]:
    """The SpatialData that a folder is, or those directly in it, by name."""
    if is_spatialdata(source):
        return [source]
    with reading(source):
        return sorted(path for path in source.iterdir() if path.is_dir() and is_spatialdata(path))


def spatialdata_samples(source: Path) -> tuple[Sample | Refused, ...]:
    """One sample for each region of shapes that a table annotates, `<folder>` or `<folder>.<region>`.

    Its image is the largest in a coordinate system that both are in. Of the bins of Visium HD the coarsest are taken.

    Raises
    ------
    CohortError
        If there is no SpatialData.
    MissingDependencyError
        If spatialdata is not installed.
    """
    folders = spatialdata_folders(source)
    if not folders:
        msg = f"{source} is no SpatialData and holds none directly in it: give the folder <name>.zarr"
        raise CohortError(msg)
    _library("spatialdata")
    return tuple(sample for folder in folders for sample in _samples_of(folder))


def _samples_of(folder: Path) -> list[Sample | Refused]:
    name = folder.resolve().name.removesuffix(".zarr")
    try:
        data = _read(folder)
        slides = _slides(folder, name, data)
    except CohortError as error:
        return [Refused(name, error)]
    return [_sample(folder, data, slide) for slide in slides]


def _library(name: str) -> Any:
    """Import an optional library, which need not be there when types are checked."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        msg = f'SpatialData is read with {name}: pip install "tissuary[spatialdata]"'
        raise MissingDependencyError(msg) from error


def _read(folder: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its own libraries, about versions to come
            return _library("spatialdata").read_zarr(folder)
    except damaged() as error:
        cause = next(iter(str(error).splitlines()), type(error).__name__)
        msg = f"{folder} cannot be read as SpatialData ({cause}): it is damaged or of another kind"
        raise CohortError(msg) from error


def _slides(folder: Path, name: str, data: Any) -> list[SpatialDataSlide]:
    """What can be featurized."""
    table = _table_name(folder, list(data.tables))
    regions = [] if table is None else _regions(folder, data.tables[table])
    if not regions:
        image, system = _image(folder, data, None)
        return [SpatialDataSlide(name, image, None, None, system)]
    found = []
    for region in regions:
        if region not in data.shapes:
            msg = f"{folder}: table {table} annotates {region!r}, which is no element of shapes: annotate shapes"
            raise CohortError(msg)
        image, system = _image(folder, data, data.shapes[region])
        found.append(SpatialDataSlide(name if len(regions) == 1 else f"{name}.{region}", image, table, region, system))
    return found


def _table_name(folder: Path, tables: list[str]) -> str | None:
    """The only table, or of the bins of Visium HD the coarsest."""
    if len(tables) <= 1:
        return next(iter(tables), None)
    bins = [(int(match[1]), table) for table in tables if (match := _BIN.search(table))]
    if len(bins) == len(tables):
        return max(bins)[1]
    msg = f"{folder} holds the tables {', '.join(tables)}: keep the one with raw counts of the spots"
    raise CohortError(msg)


def _regions(folder: Path, table: Any) -> list[str]:
    told = table.uns.get("spatialdata_attrs", {}).get("region")
    if told is None:
        msg = f"{folder}: its table annotates no shapes, so that nobody knows where its spots lie: set a region"
        raise CohortError(msg)
    return [str(told)] if isinstance(told, str) else [str(one) for one in told]


def _image(folder: Path, data: Any, shapes: Any) -> tuple[str, str]:
    """The largest image in a coordinate system that the shapes are in too, and that system."""
    wanted = None if shapes is None else set(_systems(shapes))
    fitting = [
        (int(np.prod(_size(data.images[name]))), name, system)
        for name in data.images
        for system in sorted(_systems(data.images[name]))
        if wanted is None or system in wanted
    ]
    if not fitting:
        msg = f"{folder} holds no image in a coordinate system of its shapes: add the H&E image, aligned to them"
        raise CohortError(msg)
    _, image, system = max(fitting, key=lambda one: (one[0], one[2] == "global"))
    return image, system


def _size(image: Any) -> tuple[int, int]:
    """Height and width at full resolution; an image of several levels is a tree of them."""
    finest = next(iter(image["scale0"].values())) if hasattr(image, "children") else image
    return int(finest.sizes["y"]), int(finest.sizes["x"])


def _systems(element: Any) -> dict[str, Any]:
    found: dict[str, Any] = _library("spatialdata.transformations").get_transformation(element, get_all=True)
    return found


def _affine(element: Any, system: str) -> Floats:
    """(3, 3) from an element's own x, y to a coordinate system."""
    matrix: Floats = _systems(element)[system].to_affine_matrix(("x", "y"), ("x", "y"))
    return matrix


def _sample(folder: Path, data: Any, slide: SpatialDataSlide) -> Sample | Refused:
    image = data.images[slide.image]
    micron = next((name for name in sorted(_systems(image)) if name.lower() in MICRONS), None)
    mpp = None if micron is None else math.sqrt(abs(np.linalg.det(_affine(image, micron)[:2, :2])))
    rows = None if slide.table is None else _rows(data.tables[slide.table], slide)
    try:
        patient = None if rows is None else _patient(rows, folder)
    except CohortError as error:
        return Refused(slide.slide_id, error)
    return Sample(
        slide.slide_id,
        patient or unknown_patient(slide.slide_id),
        folder / "images" / slide.image,
        mpp=mpp,
        read_measured=None if rows is None else partial(_read_measured, folder, slide),
        declared_in=DECLARED_IN,
    )


def _rows(table: Any, slide: SpatialDataSlide) -> Any:
    """The rows of a table that annotate the region of a slide."""
    key = table.uns["spatialdata_attrs"]["region_key"]
    return table[(table.obs[key].astype(str) == slide.region).to_numpy()]


def _patient(rows: Any, folder: Path) -> str | None:
    """The patient that all rows name, those left out that name none."""
    named = {f"obs/{name}": distinct(rows.obs[name], patient_name) for name in PATIENT if name in rows.obs}
    return one_patient(named, folder)


def _read_measured(folder: Path, slide: SpatialDataSlide) -> MeasuredSpots:
    """Centres of the shapes in pixels of the image, and the counts of the table."""
    data = _read(folder)
    rows = on_tissue(_rows(data.tables[slide.table], slide).copy(), folder)
    instance = rows.obs[rows.uns["spatialdata_attrs"]["instance_key"]]
    shapes = data.shapes[slide.region]
    missing = [one for one in instance if one not in shapes.index]
    if missing:
        msg = (
            f"{folder}: {len(missing)} of {len(instance)} rows annotate shapes that are not there ({missing[0]!r}, ...)"
        )
        raise CohortError(msg)
    middle = shapes.geometry.loc[instance].centroid
    own = np.stack([middle.x, middle.y, np.ones(len(middle))])  # (3, n)
    onto = np.linalg.solve(_affine(data.images[slide.image], slide.system), _affine(shapes, slide.system))
    center: Floats = (onto @ own)[:2].T
    if not len(center) or not np.isfinite(center).all():
        msg = f"{folder}: {len(center)} spots of {slide.region} have finite places; wanted some, and all"
        raise CohortError(msg)
    matrix = matrix_of(rows, folder)
    center = np.ascontiguousarray(center, dtype=np.float64)
    spots = Spots(matrix.barcode, center, array_of(rows, folder), labels=labels_of(rows))
    return MeasuredSpots(spots, matrix.counts, matrix.genes)
