"""HEST: `patches/<id>.h5` with pixels, corners and barcodes of spots, and HEST-bench embeddings of the same spots.

Read at HEST afd42c3 with hestcore 1.0.6. Pixels are left where they are: a store holds none. The corners are the spot's
centre less half a patch, cut to whole pixels, so that a centre comes back up to a pixel beside the spot.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...arrays import Floats, Strings
from ...errors import StoreError
from ...naming import SPOTS
from ..foreign import ExternalSlide, FileToImport, plain_number
from ..hdf import array_of, names_of, number, open_foreign, points_of, vectors_of

TOOL = "HEST"

ROUNDING_PX = 1.5
"""A corner is cut to whole pixels, and half of an odd side too."""

_NUMBERS = ("patch_size_src", "patch_size_target", "downsample", "pixel_size")


def find_hest(path: Path, *, coords: Path | None = None) -> tuple[FileToImport, ...]:
    """Embeddings below a folder, each with its patches file; patches of slides without; or the one file given.

    Patches files are those in a folder `patches`, and those named `<id>_patches.h5`.

    Parameters
    ----------
    coords
        Folder of the patches files; searched for below `path` where not given.
    """
    where = coords if coords is not None else path if path.is_dir() else path.parent
    places = [p for p in _h5_below(where) if coords is not None or _is_place(p)]
    if path.is_file():
        return (_found(path, [] if _is_place(path) else places),)
    files = _h5_below(path)
    embeddings = [p for p in files if not _is_place(p)]
    have = {_slide_id(p) for p in embeddings}
    alone = [p for p in files if _is_place(p) and _slide_id(p) not in have]
    return tuple([_found(p, places) for p in embeddings] + [FileToImport(_slide_id(p), p) for p in alone])


def _found(path: Path, places: list[Path]) -> FileToImport:
    """A file with all that could be its patches file; those named as one come before others under `--coords`."""
    mine = [p for p in places if _slide_id(p) == _slide_id(path) and p != path]
    mine = [p for p in mine if _is_place(p)] or mine
    return FileToImport(_slide_id(path), path, mine[0] if mine else None, tuple(mine[1:]))


def _h5_below(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*.h5") if not p.name.startswith("."))


def _is_place(path: Path) -> bool:
    return path.parent.name == "patches" or path.stem.endswith("_patches")


def _slide_id(path: Path) -> str:
    return path.stem.removesuffix("_patches").removesuffix("_embeddings")


def read_hest(found: FileToImport) -> ExternalSlide:
    """Read embeddings with the patches file beside them, or patches alone.

    Raises
    ------
    StoreError
        If coordinates are missing (patches of before August 2024), rows differ in number, or the patches file beside
        them holds other spots, or is one of several.
    """
    with open_foreign(found.path) as file:
        features = vectors_of(file, "embeddings") if "embeddings" in file else None
        if features is None and "img" not in file and "barcode" not in file:
            array_of(file, "embeddings")  # names what the file holds instead
        barcode = names_of(file, "barcodes" if "barcodes" in file else "barcode")
        corners = points_of(file) if "coords" in file else None
        details = _numbers(file)
    if corners is None:
        msg = f"{found.path} holds no 'coords': HEST wrote such files before August 2024; download or cut it again"
        raise StoreError(msg)
    lengths = {len(corners), len(barcode), len(corners if features is None else features)}
    if len(lengths) > 1:
        msg = f"{found.path}: coordinates, barcodes and embeddings have {sorted(lengths)} rows"
        raise StoreError(msg)
    if features is not None and found.partner is not None:
        details = _partner_numbers(found, barcode, corners) | details
    return ExternalSlide(
        found.slide_id,
        TOOL,
        corners,
        side=details.get("patch_size_src"),
        patch_px=details.get("patch_size_target"),
        features=features,
        hint=found.path.parent.name if features is not None else None,
        barcode=barcode,
        mpp=details.get("pixel_size"),
        patch_set=SPOTS,
        rounding_px=ROUNDING_PX,
        details=details,
        notes=("its pixels stay where they are: a store holds none",) if features is None else (),
    )


def _partner_numbers(found: FileToImport, barcode: Strings, corners: Floats) -> dict[str, Any]:
    """Scale attributes of the patches file, refused unless it is the only one and has the same spots."""
    assert found.partner is not None, "without a patches file there is nothing to compare"
    if found.rivals:
        msg = f"{found.path}: {found.partner} and {found.rivals[0]} could both be its patches; choose with --coords DIR"
        raise StoreError(msg)
    corner_of = dict(zip(barcode.tolist(), corners.tolist(), strict=True))
    repeated = len(corner_of) < len(barcode)  # which the store refuses, and names
    with open_foreign(found.partner) as file:
        names = names_of(file, "barcodes" if "barcodes" in file else "barcode").tolist()
        if not repeated and dict(zip(names, points_of(file).tolist(), strict=True)) != corner_of:
            msg = (
                f"{found.path}: its barcodes and coordinates are not those of {found.partner}; give the folder of its "
                "own with --coords DIR"
            )
            raise StoreError(msg)
        return _numbers(file)


def _numbers(file: Any) -> dict[str, Any]:
    """Scale attributes, which sit on `img` in files of hestcore 1.0.4, and on `coords` too in newer ones."""
    found: dict[str, Any] = {}
    for name in ("img", "coords"):
        if name in file:
            attributes = array_of(file, name).attrs
            found |= {key: plain_number(value) for key in _NUMBERS if (value := number(attributes, key)) is not None}
    return found
