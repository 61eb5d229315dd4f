"""TRIDENT: `<job>/<mag>x_<px>px_<overlap>px_overlap/{patches/<slide>_patches.h5, features_<encoder>/<slide>.h5}`.

Read at TRIDENT a91fa84. Coordinates are int64 corners at level 0; no file says um/px, and the magnification in it is
a label (0.69 um/px is called 10x), so that scale comes from `patch_size_level0` and the slide's real um/px only.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import Floats
from ..atomic import atomic_path
from ..errors import StoreError
from .clam import legacy_side
from .foreign import Foreign, Found, plain_number
from .hdf import extras_in, number, open_foreign, points_of, text, vectors_of
from .mark import MARK, mark_in
from .outgoing import Column, OutgoingSlide, kept, mark_of, overlap_share, write_extras

TOOL = "TRIDENT"

_LABELS = ((0.16, 80.0), (0.2, 60.0), (0.3, 40.0), (0.6, 20.0), (1.2, 10.0), (2.4, 5.0))
"""um/px below which TRIDENT calls level 0 so."""

_NUMBERS = (
    "patch_size",
    "patch_size_level0",
    "level0_magnification",
    "target_magnification",
    "overlap",
    "level0_width",
    "level0_height",
)


def find_trident(path: Path) -> tuple[Found, ...]:
    """Features below a job's folder, and patches of slides that have no features; or the one file given."""
    if path.is_file():
        return (_found(path),)
    files = sorted(p for p in path.rglob("*.h5") if not p.name.startswith("."))
    features = [p for p in files if p.parent.name.startswith("features_")]
    have = {(p.parent.parent, p.stem) for p in features}
    patches = [p for p in files if p.parent.name == "patches" and (p.parent.parent, _slide_id(p)) not in have]
    return tuple(_found(p) for p in features + patches or [p for p in files if p.parent == path])


def _found(path: Path) -> Found:
    return Found(_slide_id(path), path)


def _slide_id(path: Path) -> str:
    return path.stem if path.parent.name.startswith("features_") else path.stem.removesuffix("_patches")


def read_trident(found: Found) -> Foreign:
    """Read a features file, or a patches file.

    Raises
    ------
    StoreError
        If it holds one vector for a whole slide, or rows of features and coordinates differ in number.
    """
    with open_foreign(found.path) as file:
        corners = points_of(file)
        attributes = file["coords"].attrs
        numbers = {name: value for name in _NUMBERS if (value := number(attributes, name)) is not None}
        mark = mark_in(attributes)
        features = vectors_of(file, "features") if "features" in file else None
        encoder = text(file["features"].attrs, "encoder") if features is not None else None
        extras = extras_in(file)
        side = numbers.get("patch_size_level0") or legacy_side(attributes)
    if features is not None and len(features) != len(corners):
        msg = f"{found.path}: {len(features)} rows of features, {len(corners)} of coordinates"
        raise StoreError(msg)
    patch_px = numbers.get("patch_size")
    if mark:
        patch_px = mark.fov_um / mark.mpp
        if features is not None and mark.dtype == "float16":  # exports are float32, as this tool's files are
            half = features.astype(np.float16)
            features = half if np.array_equal(half, features) else features
    size = (numbers.get("level0_width"), numbers.get("level0_height"))
    folder = found.path.parent.name
    return Foreign(
        found.slide_id,
        TOOL,
        corners,
        side=side,
        patch_px=patch_px or None,
        center_px=extras.center_px,
        features=features,
        encoder=encoder,
        hint=folder.removeprefix("features_") if folder.startswith("features_") else None,
        barcode=extras.barcode,
        mpp=mark.slide_mpp if mark else None,
        label=_label(numbers),
        size_px=(int(size[0]), int(size[1])) if size[0] and size[1] else None,
        patch_set=mark.patches if mark else None,
        view=mark.view if mark else None,
        name=mark.encoder if mark else None,
        array=extras.array,
        overlap=numbers.get("overlap", 0.0) / patch_px if patch_px else 0.0,
        details={"attributes": {name: plain_number(value) for name, value in numbers.items()}},
    )


def write_trident(outgoing: OutgoingSlide, folder: Path) -> tuple[list[Path], list[str]]:
    """Write patches and features of a slide below `folder`, a job's folder; returns files, and what was left out.

    Raises
    ------
    StoreError
        If two keys would be one file, or share patches of different sides.
    """
    written: list[Path] = []
    notes: list[str] = []
    name = outgoing.slide.slide_id
    sides: dict[Path, float] = {}
    keys: dict[Path, str] = {}
    for column in outgoing.columns:
        if column.features.ndim != 2:
            notes.append(f"{column.key}: TRIDENT has no place for several vectors a patch")
            continue
        attributes = _attributes(outgoing, column)
        job = folder / _job_name(column, attributes)
        place = job / "patches" / f"{name}_patches.h5"
        path = job / f"features_{column.key.encoder}" / f"{name}.h5"
        if not math.isclose(sides.setdefault(job, column.side_px), column.side_px, rel_tol=1e-9):
            msg = f"slide {name}: {column.key} and another key would share the patches {place}: choose with --key"
            raise StoreError(msg)
        if path in keys:
            msg = f"slide {name}: {column.key} and {keys[path]} would both be {path}: choose with --key"
            raise StoreError(msg)
        keys[path] = str(column.key)
        for target in (place, path):
            if target in written:  # encoders of one view share their patches
                continue
            if target.exists():
                notes.append(kept(target))
                continue
            _write(target, outgoing, column, attributes=attributes, features=target == path)
            written.append(target)
    return written, notes


def _attributes(outgoing: OutgoingSlide, column: Column) -> dict[str, Any]:
    """Attributes of `coords`: those of the file the features came from, or the same made from um.

    TRIDENT cuts again what it reads by `patch_size * level0_magnification / target_magnification`, so the target is
    chosen such that this gives the side at level 0; the magnification of level 0 is its label for the slide's um/px.
    """
    slide = outgoing.slide
    own = column.of(TOOL).get("attributes", {})
    magnification = magnification_label(slide.mpp)
    share = overlap_share(outgoing.patch_set, column.header.fov_um)
    made = {
        "patch_size": column.patch_px,
        "patch_size_level0": plain_number(column.side_px),
        "level0_magnification": plain_number(magnification),
        "target_magnification": plain_number(round(magnification * column.patch_px / column.side_px, 12)),
        "overlap": round(share * column.patch_px),
        "level0_width": slide.width_px,
        "level0_height": slide.height_px,
    }
    return {**made, **own, "name": slide.slide_id, MARK: mark_of(outgoing, column).text()}


def magnification_label(mpp: float) -> float:
    """TRIDENT's label of a scale; coarser than it knows any, the label is halved with each factor of two."""
    return next((label for below, label in _LABELS if mpp < below), 5.0 * 2.0 ** -math.floor(math.log2(mpp / 1.2)))


def _label(numbers: dict[str, float]) -> tuple[str, float, float] | None:
    """What the file calls level 0, and the um/px that stand for it."""
    said = numbers.get("level0_magnification")
    bounds = [0.0, *(below for below, _ in _LABELS)]
    found = [i for i, (_, label) in enumerate(_LABELS) if label == said]
    return (f"{said:g}x", bounds[found[0]], bounds[found[0] + 1]) if found else None


def _job_name(column: Column, attributes: dict[str, Any]) -> str:
    """Folder of the patches; its magnification is nominal, so that slides of one view share it."""
    own = column.of(TOOL).get("attributes", {})
    magnification = own.get("target_magnification") or 10.0 / column.header.mpp
    return f"{magnification:.4g}x_{attributes['patch_size']}px_{attributes['overlap']}px_overlap"


def _write(
    path: Path, outgoing: OutgoingSlide, column: Column, *, attributes: dict[str, Any], features: bool = False
) -> None:
    """Write one file: datasets grow by rows in chunks of one row, attributes sit on the datasets."""
    import h5py

    side = float(attributes["patch_size_level0"])
    centers = outgoing.patches.center_px
    corners = np.rint(centers - side / 2).astype(np.int64)
    with atomic_path(path, once=True) as temporary, h5py.File(temporary, "w") as file:
        if features:
            rows = _growing(file, "features", np.asarray(column.features, dtype=np.float32))
            rows.attrs.update(
                {"name": outgoing.slide.slide_id, "savetodir": path.parent.name, "encoder": column.encoder}
            )
        coords = _growing(file, "coords", corners)
        coords.attrs.update({**attributes, "savetodir": path.parent.parent.name})
        write_extras(file, outgoing, again_px=corners + side / 2, corners_px=corners.astype(np.float64))


def _growing(file: Any, name: str, values: Floats | Any) -> Any:
    row = values.shape[1:]
    return file.create_dataset(
        name, data=values, maxshape=(None, *row), chunks=(1, *row) if len(values) else None, track_times=False
    )
