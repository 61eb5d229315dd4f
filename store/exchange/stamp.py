"""STAMP: `<out>/<extractor>-<hash>/<slide>.h5` with `feats` float16 and `coords` float32 corners in microns.

Read at STAMP c54ce06 (versions 2.0 to 2.5). um per level-0 pixel is in no file. Tiles are cut as whole pixels, rounded
up, so that their real side (514 px of 0.499 um: 256.486 um) is not the attribute `tile_size_um` (256).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import Floats
from ..atomic import atomic_path
from ..errors import StoreError
from ..naming import check_name
from .foreign import Foreign, Found, digits
from .hdf import extras_in, number, open_foreign, points_of, text, vectors_of
from .lattice import lattice_step
from .mark import MARK, mark_in
from .outgoing import Column, OutgoingSlide, kept, mark_of, write_extras
from .whole_tiles import WholeTiles

TOOL = "STAMP"

EXTRACTORS = {"uni": "uni", "uni2-h": "uni2", "conch": "conch", "virchow2.cls": "virchow2"}
"""Encoder of a key -> STAMP's name of the same vectors; its slide encoders accept no other name."""

FIRST_VERSION = "2.1.0"
"""Version written on export: the first with this layout. STAMP refuses files of versions newer than itself."""

_HISTORIC_STEP, _HISTORIC_UM = 224.0, 256.0  # files without `unit` count in pixels of the tile: get_coords


def find_stamp(path: Path) -> tuple[Found, ...]:
    """Every file below a folder, or the one given; the slide is the file's name."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*.h5") if not p.name.startswith("."))
    return tuple(Found(p.stem, p) for p in files)


def read_stamp(found: Found) -> Foreign:
    """Read features of tiles.

    Raises
    ------
    StoreError
        If the file holds a vector of a slide or a patient, no coordinates, or coordinates in an unknown unit.
    """
    with open_foreign(found.path) as file:
        _check_tiles(file, found.path)
        corners = points_of(file)
        features = vectors_of(file, "feats")
        attributes = file.attrs
        tile_um = number(attributes, "tile_size_um") or number(attributes, "tile_size")
        mark = mark_in(attributes)
        details = _details(attributes)
        extras = extras_in(file)
        unit = text(attributes, "unit")
    if len(features) != len(corners):
        msg = f"{found.path}: {len(features)} rows of features, {len(corners)} of coordinates"
        raise StoreError(msg)
    notes: tuple[str, ...] = ()
    if unit is None and len(corners):
        corners = _historic(corners, found.path)
        tile_um, notes = _HISTORIC_UM, ("its coordinates are of the historic kind: a step of 224 was taken as 256 um",)
    elif unit not in (None, "um"):
        msg = f"{found.path}: its coordinates are in {unit!r}; wanted 'um'"
        raise StoreError(msg)
    patch_px = details.get("tile_size_px")
    told = f"{digits(tile_um)}um-{digits(tile_um / patch_px)}" if tile_um and patch_px else None
    return Foreign(
        found.slide_id,
        TOOL,
        corners,
        unit="um",
        side=mark.fov_um if mark else tile_um,
        cut="exact" if mark or unit is None else "whole",
        patch_px=mark.fov_um / mark.mpp if mark else patch_px,
        center_px=extras.center_px,
        features=features,
        encoder=details.get("extractor"),
        barcode=extras.barcode,
        mpp=mark.slide_mpp if mark else None,
        patch_set=mark.patches if mark else None,
        view=mark.view if mark else told,
        name=mark.encoder if mark else None,
        array=extras.array,
        identity={"code_hash": details["code_hash"]} if "code_hash" in details else {},
        details=details,
        notes=notes,
    )


def _check_tiles(file: Any, path: Path) -> None:
    kind = text(file.attrs, "feat_type") or "tile"
    if kind != "tile" or "coords" not in file:
        held = f"features of a {kind}" if kind != "tile" else "no coordinates"
        msg = f"{path} holds {held}: a store holds features of patches, and needs to know where they lie"
        raise StoreError(msg)


def _historic(corners: Floats, path: Path) -> Floats:
    """Corners in um from coordinates that step by about 224 per tile of 256 um."""
    step = lattice_step(corners)
    if step is None or abs(step - _HISTORIC_STEP) > 1.0:
        msg = (
            f"{path} does not say the unit of its coordinates, which step by {step or 0:g} (of old files: "
            f"{_HISTORIC_STEP:g} for a tile of {_HISTORIC_UM:g} um): extract the slide again with STAMP 2.1 or newer"
        )
        raise StoreError(msg)
    return corners * (_HISTORIC_UM / _HISTORIC_STEP)


def _details(attributes: Any) -> dict[str, Any]:
    texts = {name: text(attributes, name) for name in ("extractor", "stamp_version", "code_hash")}
    numbers = {name: number(attributes, name) for name in ("tile_size_um", "tile_size", "tile_size_px")}
    return {name: value for name, value in {**texts, **numbers}.items() if value is not None}


def write_stamp(outgoing: OutgoingSlide, folder: Path) -> tuple[list[Path], list[str]]:
    """Write the features of a slide below `folder`; returns files, and what was left out or rounded.

    Raises
    ------
    StoreError
        If features leave the range of float16.
    """
    written: list[Path] = []
    notes: list[str] = []
    for column in outgoing.columns:
        if column.features.ndim != 2:
            notes.append(f"{column.key}: STAMP has no place for several vectors a patch")
            continue
        attributes = _attributes(column)
        extractor = check_name(f"{attributes['extractor']}-{attributes['code_hash']}", "extractor")
        path = folder / extractor / f"{outgoing.slide.slide_id}.h5"
        if path in written:
            msg = (
                f"slide {outgoing.slide.slide_id}: {column.key} and another key would both be {path}: choose with --key"
            )
            raise StoreError(msg)
        if path.exists():
            notes.append(kept(path))
            continue
        rows = np.asarray(column.features)
        with np.errstate(over="ignore"):
            half = rows.astype(np.float16)
        if not np.isfinite(half).all():
            msg = f"slide {outgoing.slide.slide_id}: {column.key} leaves the range of float16, which STAMP's files are"
            raise StoreError(msg)
        if not np.array_equal(half, rows):
            notes.append(f"{column.key}: rounded from {rows.dtype} to float16, which STAMP's files are")
        _write(path, outgoing, column, attributes=attributes, feats=half)
        written.append(path)
    return written, notes


def _attributes(column: Column) -> dict[str, Any]:
    """Root attributes: those of the file the features came from, or the same made from the store's."""
    made = {
        "stamp_version": FIRST_VERSION,
        "extractor": EXTRACTORS.get(column.encoder, column.encoder),
        "tile_size_um": float(column.header.fov_um),
        "tile_size_px": column.patch_px,
        "code_hash": hashlib.sha256(column.header.fingerprint.encode()).hexdigest()[:8],
    }
    own = {name: value for name, value in column.of(TOOL).items() if name in made and name != "tile_size_px"}
    return {**made, **own, "unit": "um", "feat_type": "tile"}


def _write(path: Path, outgoing: OutgoingSlide, column: Column, *, attributes: dict[str, Any], feats: Floats) -> None:
    import h5py

    mpp = outgoing.slide.mpp
    corners = _corners_um(outgoing, column, tile_um=float(attributes["tile_size_um"])).astype("<f4")
    with atomic_path(path, once=True) as temporary, h5py.File(temporary, "w") as file:
        file.create_dataset("coords", data=corners, track_times=False)
        file.create_dataset("feats", data=feats, track_times=False)
        file.attrs.update({**attributes, MARK: mark_of(outgoing, column).text()})
        again = np.asarray(corners, dtype=np.float64) / mpp
        write_extras(file, outgoing, again_px=again + column.header.fov_um / mpp / 2, corners_px=again)


def _corners_um(outgoing: OutgoingSlide, column: Column, *, tile_um: float) -> Floats:
    """Corners (n, 2) in um; of features that came from STAMP exactly as it wrote them."""
    mpp, side_px = outgoing.slide.mpp, column.side_px
    corners_px = outgoing.patches.center_px - side_px / 2
    per_supertile = column.of(TOOL).get("tiles_per_supertile")
    index = np.rint(corners_px / side_px)
    if per_supertile and np.allclose(corners_px, index * round(side_px), rtol=0, atol=1e-6):
        tiles = WholeTiles(index.astype(np.int64), round(side_px), int(per_supertile))
        return tiles.coords_um(tile_um=tile_um, mpp=mpp)
    corners = corners_px * mpp
    return np.where(np.abs(corners) < 1e-9, 0.0, corners)  # 0 survives the way through the centre
