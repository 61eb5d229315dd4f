"""STAMP: `<out>/<extractor>-<hash>/<slide>.h5` with `feats` float16 and `coords` float32 corners in microns.

Read at STAMP c54ce06 (versions 2.0 to 2.5). um per level-0 pixel is in no file. Tiles are cut as whole pixels, rounded
up, so that their real side (514 px of 0.499 um: 256.486 um) is not the attribute `tile_size_um` (256).
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from math import isclose
from pathlib import Path
from typing import Any

import numpy as np

from ...arrays import Floats, Ints
from ...errors import ScaleError, StoreError
from ...files.atomic import atomic_path
from ...files.slide import SAME_MPP
from ...naming import check_name
from ..exporting import ExportColumn, ExportSlide, kept, mark_of, write_extras
from ..foreign import MARK, Declared, ExternalSlide, FileToImport, digits, mark_in
from ..hdf import extras_in, lattice_step, number, open_foreign, points_of, text, vectors_of

LARGEST_SUPERTILE_PX = 16384
"""Largest square that STAMP is believed to read at once."""

SUPERTILE_PX = 4096
"""The square that it reads unless told otherwise; tiles that drift on beyond it speak against the scale."""

_SLACK_UM, _SLACK_SHARE = 0.002, 2e-6  # of float32 coordinates, and of an um/px with seven digits


@dataclass(frozen=True)
class WholeTiles:
    """Tiles of a slide as STAMP cut them.

    Attributes
    ----------
    index
        (n, 2) column and row of each tile, counted from the slide's upper left.
    side_px
        Side of a tile in level-0 pixels.
    per_supertile
        Tiles along the square that was read at once.
    told
        Whether coordinates bear the scale out, and do not only leave it possible.
    """

    index: Ints
    side_px: int
    per_supertile: int
    told: bool = True

    def coords_um(self, *, tile_um: float, mpp: float) -> Floats:
        """Corners (n, 2) in um, exactly as STAMP writes them."""
        inner = self.index % self.per_supertile
        return (self.index - inner) * self.side_px * mpp + inner * tile_um


def whole_tiles(corners_um: Floats, *, tile_um: float, mpp: float) -> WholeTiles | None:
    """Find the tiles at corners (n, 2) in um; None where STAMP would not have cut such tiles at this scale.

    A tile is `ceil(tile_um / mpp)` pixels. STAMP reads squares of m x m tiles: their corner is written as pixels times
    um/px, tile j of the square as `j * tile_um` more, so that it falls short of its pixels by j times what rounding up
    added (`tiling.py`, `_supertiles` and `_tiles`). That shortfall gives a wrong scale away.
    """
    side_px = math.ceil(tile_um / mpp)
    side_um = side_px * mpp
    added_um = side_um - tile_um
    slack = _SLACK_UM + _SLACK_SHARE * np.abs(corners_um)
    index = np.rint(corners_um / side_um)
    short = index * side_um - corners_um
    most = max(1, LARGEST_SUPERTILE_PX // side_px)
    if added_um <= 2 * slack.max():  # too little to count with: all of the largest square at once
        fits = (short >= -slack).all() and (short <= (most - 1) * added_um + slack).all()
        return _as_written(index.astype(np.int64), side_px, corners_um, tile_um=tile_um, mpp=mpp) if fits else None
    inner = np.rint(short / added_um)
    if (inner < 0).any() or (np.abs(short - inner * added_um) > slack).any():
        return None
    starts = (index - inner).astype(np.int64)
    least = int(inner.max(initial=0.0)) + 1
    fitting = [m for m in range(least, most + 1) if not (starts % m).any()]
    if not fitting:
        return None
    told = bool(index.any()) and fitting[0] <= max(1, int(SUPERTILE_PX * mpp // tile_um))
    return WholeTiles(index.astype(np.int64), side_px, fitting[0], told)


def _as_written(index: Ints, side_px: int, corners_um: Floats, *, tile_um: float, mpp: float) -> WholeTiles:
    """Tiles whose shortfall is below what float32 tells: in squares that give these very numbers, if any do."""
    written = corners_um.astype(np.float32)
    for per_supertile in range(1, max(1, LARGEST_SUPERTILE_PX // side_px) + 1):
        tiles = WholeTiles(index, side_px, per_supertile, told=False)
        if np.array_equal(tiles.coords_um(tile_um=tile_um, mpp=mpp).astype(np.float32), written):
            return tiles
    return WholeTiles(index, side_px, 1, told=False)


def on_whole_pixels(foreign: ExternalSlide, declared: Declared, *, mpp: float) -> ExternalSlide:
    """The same patches with corners and side in level-0 pixels.

    Raises
    ------
    ScaleError
        If the tiles are not of this scale, or another side is declared than they have.
    """
    if foreign.cut != "whole" or foreign.top_left is None or foreign.side is None:
        return foreign
    tiles = whole_tiles(foreign.top_left, tile_um=foreign.side, mpp=mpp)
    if tiles is not None:
        corners = (tiles.index * tiles.side_px).astype(np.float64)
        doubt = (
            f"its coordinates do not tell whether {foreign.tool} read {mpp:g} um/px: they fit it, and others as well"
        )
        return replace(
            foreign,
            top_left=corners,
            unit="px",
            side=float(tiles.side_px),
            details={**foreign.details, "tiles_per_supertile": tiles.per_supertile},
            notes=foreign.notes if tiles.told else (*foreign.notes, doubt),
        )
    nominal, said = math.ceil(foreign.side / mpp), declared.patch_px
    if said is None or isclose(said, nominal, rel_tol=SAME_MPP):
        step = lattice_step(foreign.top_left)
        stepping = "lie on no such lattice" if step is None else f"step by {step:g} um"
        msg = (
            f"slide {foreign.slide_id}: {mpp:g} um/px is not what {foreign.tool} read: a tile of {foreign.side:g} um "
            f"would be {nominal} px there and step by {nominal * mpp:g} um, its coordinates {stepping}. Give the um/px "
            "that it read, all digits, with --mpp X or the images with --slides DIR; or declare the real side of a "
            "tile in level-0 pixels with --patch-px N, and corners are taken as um over um/px."
        )
        raise ScaleError(msg)
    note = f"corners were taken as um over {mpp:g} um/px; {foreign.tool} itself cut at other whole pixels"
    return replace(
        foreign, top_left=foreign.top_left / mpp, unit="px", side=said, view=None, notes=(*foreign.notes, note)
    )


TOOL = "STAMP"

EXTRACTORS = {"uni": "uni", "uni2-h": "uni2", "conch": "conch", "virchow2.cls": "virchow2"}
"""Encoder of a key -> STAMP's name of the same vectors; its slide encoders accept no other name."""

FIRST_VERSION = "2.1.0"
"""Version written on export: the first with this layout. STAMP refuses files of versions newer than itself."""

_HISTORIC_STEP, _HISTORIC_UM = 224.0, 256.0  # files without `unit` count in pixels of the tile: get_coords


def find_stamp(path: Path) -> tuple[FileToImport, ...]:
    """Every file below a folder, or the one given; the slide is the file's name."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*.h5") if not p.name.startswith("."))
    return tuple(FileToImport(p.stem, p) for p in files)


def read_stamp(found: FileToImport) -> ExternalSlide:
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
    return ExternalSlide(
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


def write_stamp(outgoing: ExportSlide, folder: Path) -> tuple[list[Path], list[str]]:
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


def _attributes(column: ExportColumn) -> dict[str, Any]:
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


def _write(
    path: Path, outgoing: ExportSlide, column: ExportColumn, *, attributes: dict[str, Any], feats: Floats
) -> None:
    import h5py

    mpp = outgoing.slide.mpp
    corners = _corners_um(outgoing, column, tile_um=float(attributes["tile_size_um"])).astype("<f4")
    with atomic_path(path, once=True) as temporary, h5py.File(temporary, "w") as file:
        file.create_dataset("coords", data=corners, track_times=False)
        file.create_dataset("feats", data=feats, track_times=False)
        file.attrs.update({**attributes, MARK: mark_of(outgoing, column).text()})
        again = np.asarray(corners, dtype=np.float64) / mpp
        write_extras(file, outgoing, again_px=again + column.header.fov_um / mpp / 2, corners_px=again)


def _corners_um(outgoing: ExportSlide, column: ExportColumn, *, tile_um: float) -> Floats:
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
