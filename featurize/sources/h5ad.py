"""Counts and spot positions of one slide in an AnnData file."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, issparse

from ...store.arrays import Floats, Ints
from ...store.errors import CohortError
from ...store.naming import known_text, patient_name
from .images import Listing, image_named, images_below, reading
from .sample import MeasuredSpots, Refused, Sample, Spots, unknown_patient
from .spots import ARRAY, IN_TISSUE, CountMatrix, checked_matrix, label_columns, stated_diameter, under_tissue

HEST_PICTURE = "downscaled_fullres"
"""Key of the picture by which an AnnData of HEST is known, also outside its folders: its in_tissue means nothing."""

PREDICTION = "tissuary-prediction"
"""What an output of `tissuary predict` calls itself in `uns["tissuary"]["encoding-type"]`."""

DAMAGED = (OSError, RuntimeError, LookupError, ValueError, AttributeError, TypeError, ArithmeticError)
"""Built-in errors that anndata and h5py raise on files that are damaged or of another kind."""


def read_h5ad(path: Path, *, in_tissue: bool = True) -> MeasuredSpots:
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
    return MeasuredSpots(spots, matrix.counts, matrix.genes)


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


log = logging.getLogger(__name__)

PATIENT = ("patient_id", "patient", "donor_id", "donor")
"""Columns of `obs`, and keys of `uns`, that name the patient, in order of preference (`donor_id` is CELLxGENE's)."""

LIBRARY = ("library_id", "library", "slide_id")
"""Columns of `obs` that tell slides apart where several were put into one file."""


@dataclass(frozen=True)
class Said:
    """What an AnnData says of its slide beside spots and counts."""

    patient: str | None = None
    mpp: float | None = None


def h5ad_files(folder: Path) -> list[Path]:
    """AnnData files directly in a folder, by name."""
    with reading(folder):
        return sorted(p for p in folder.iterdir() if p.suffix.lower() == ".h5ad" and not p.name.startswith("."))


def h5ad_samples(source: Path) -> tuple[Sample | Refused, ...]:
    """One sample for each `<id>.h5ad`, its image `<id>.<ending>` beside it or in a folder `images` or `wsis`.

    The patient is what `obs` or `uns` names as `patient_id` or `patient`; um/px is `mpp` of a tissuary export, or
    `microns_per_pixel` among the scale factors of `uns["spatial"]`.

    Raises
    ------
    CohortError
        If there is no such file.
    """
    files = [source] if source.is_file() else h5ad_files(source)
    if not files:
        msg = f"{source} holds no .h5ad directly in it: give the folder that does, or one file"
        raise CohortError(msg)
    names = {path.stem for path in files}
    listing = images_below(files[0].parent)  # once for all files
    alone = [image.slide_id for image in listing.images if image.slide_id not in names]
    if alone and source.is_dir():
        log.warning(
            "%s: %d image(s) without an AnnData are left out, the first is %s; --format slides takes images alone",
            source, len(alone), alone[0],
        )  # fmt: skip
    return tuple(_sample(path, listing) for path in files)


def _sample(path: Path, listing: Listing) -> Sample | Refused:
    slide_id = path.stem
    try:
        image = image_named(listing, slide_id, folder=path.parent, wanted=f"{path}")
        said = read_said(path)
    except CohortError as error:
        return Refused(slide_id, error)
    return Sample(
        slide_id,
        said.patient or unknown_patient(slide_id),
        image,
        mpp=said.mpp,
        read_measured=partial(read_h5ad, path),
        declared_in="AnnData",
    )


def read_said(path: Path) -> Said:
    """Read what an AnnData says of its slide, leaving its counts where they are.

    Raises
    ------
    CohortError
        If it is damaged, a prediction, holds several slides or patients, or its um/px is no positive number.
    """
    import h5py
    from anndata.io import read_elem

    with reading(path):
        if not path.is_file():
            msg = f"{path} does not exist: correct the path"
            raise CohortError(msg)
    try:
        with h5py.File(path, "r") as file:

            def read(name: str) -> Any:
                return read_elem(file[name]) if name in file else None

            several = {name: distinct(read(f"obs/{name}"), known_text) for name in LIBRARY}
            libraries = _library_names(file)
            places = [f"{where}/{name}" for name in PATIENT for where in ("obs", "uns")]
            named = {place: distinct(read(place), patient_name) for place in (*places, "uns/tissuary/patient_id")}
            mpp, kind = _mpp(read, libraries), read("uns/tissuary/encoding-type")
    except damaged() as error:
        cause = next(iter(str(error).splitlines()), type(error).__name__)
        msg = f"{path} cannot be read as AnnData ({cause}): it is damaged or of another kind"
        raise CohortError(msg) from error
    refuse_prediction(kind, path)
    _check_one(path, several, libraries)
    if mpp is not None and not 0 < mpp < math.inf:
        msg = f"{path}: its um/px is {mpp:g}; wanted a positive number"
        raise CohortError(msg)
    return Said(one_patient(named, path), mpp)


def one_patient(named: Mapping[str, list[str]], where: Path) -> str | None:
    """Patient of a slide, from what each place says; a warning where places differ, of which the first is taken.

    Parameters
    ----------
    named
        Different patients by place, such as a column of `obs`, in order of preference.

    Raises
    ------
    CohortError
        If one place names several.
    """
    said = {place: values for place, values in named.items() if values}
    for place, values in said.items():
        if len(values) > 1:
            msg = (
                f"{where}: {place} names {len(values)} patients ({', '.join(values[:3])}): a slide has one; write one "
                "file a slide"
            )
            raise CohortError(msg)
    if len({values[0] for values in said.values()}) > 1:
        listed = ", ".join(f"{place} says {values[0]}" for place, values in said.items())
        log.warning("%s: %s; the first is taken as the patient", where, listed)
    return next((values[0] for values in said.values()), None)


def _library_names(file: Any) -> list[str]:
    """Slides that `uns["spatial"]` describes: beside them may stand marks and notes, or positions in their place."""
    spatial = file.get("uns/spatial")
    if not hasattr(spatial, "keys"):
        return []
    groups = {name: entry for name, entry in spatial.items() if hasattr(entry, "keys")}
    described = [name for name, entry in groups.items() if {"images", "scalefactors"} & set(entry)]
    return sorted(described or groups)


def _mpp(read: Callable[[str], Any], libraries: list[str]) -> float | None:
    places = ["uns/tissuary/mpp", *(f"uns/spatial/{one}/scalefactors/microns_per_pixel" for one in libraries)]
    return next((float(value) for value in map(read, places) if value is not None), None)


def _check_one(path: Path, columns: dict[str, list[str]], libraries: list[str]) -> None:
    """Refuse a file that says itself that it holds several slides: its positions would be of several images."""
    several = next(((f"obs[{name!r}]", values) for name, values in columns.items() if len(values) > 1), None)
    if several is None and len(libraries) > 1:
        several = ('uns["spatial"]', libraries)
    if several is not None:
        where, values = several
        msg = f"{path}: {where} names {len(values)} of them ({', '.join(values[:3])}): write one file a slide"
        raise CohortError(msg)


def distinct(values: Any, name_of: Callable[[Any], str | None]) -> list[str]:
    """Different names in a column or single entry, without cells that name nothing."""
    if values is None or isinstance(values, Mapping):
        return []
    cells = set(np.asarray(values, dtype=object).reshape(-1).tolist())
    return sorted({name for cell in cells if (name := name_of(cell))})
