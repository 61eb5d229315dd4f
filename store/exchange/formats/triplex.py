"""TRIPLEX: `emb/global/<model>/<id>.h5` (n, dim) and `emb/neighbor/<model>/<id>.h5` (n, 25, dim).

Read at TRIPLEX 4750051. Rows are spots of the slide, which the store must know already: they are found by `barcodes`
where the file has them. Its `coords` are left alone, being corners in one kind of its inputs and centres in another.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ...arrays import Strings
from ...errors import StoreError
from ...naming import SPOTS
from ..foreign import ExternalSlide, FileToImport
from ..hdf import array_of, names_of, open_foreign, values_of, vectors_of

TOOL = "TRIPLEX"

_ORDER = "rows were taken to be the store's spots in their order: the file names none"
_TILES = "tiles around a spot stay in the file's order, which differs between versions of TRIPLEX (x or y outer)"


def find_triplex(path: Path) -> tuple[FileToImport, ...]:
    """Every file below a folder, `global` before `neighbor`, or the one given."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*.h5") if not p.name.startswith("."))
    return tuple(FileToImport(p.stem, p) for p in files)


def read_triplex(found: FileToImport) -> ExternalSlide:
    """Read vectors of spots, or of the tiles around them.

    Raises
    ------
    StoreError
        If the tiles around a spot are no square.
    """
    notes: list[str] = []
    with open_foreign(found.path) as file:
        features = vectors_of(file, "embeddings" if "embeddings" in file else "features", tokens=True)
        barcode = _barcodes(file)
        layout = None
        if features.ndim == 3:
            side = math.isqrt(features.shape[1])
            if side * side != features.shape[1] or side < 2:
                msg = f"{found.path}: {features.shape[1]} vectors a spot are no square of tiles"
                raise StoreError(msg)
            layout = f"tiles{side}x{side}"
            notes.append(_TILES)
            if "mask_tb" in file:
                absent = int((values_of(file, "mask_tb") == 0).sum())
                notes.append(f"mask_tb marks {absent} tiles as absent; their vectors are kept as they are")
    if barcode is not None and len(barcode) != len(features):
        msg = f"{found.path}: {len(features)} rows of features, {len(barcode)} barcodes"
        raise StoreError(msg)
    if barcode is None:
        notes.append(_ORDER)
    kind = "global" if layout is None else "neighbor"
    return ExternalSlide(
        found.slide_id,
        TOOL,
        None,
        features=features,
        hint=f"{kind}/{found.path.parent.name}",
        barcode=barcode,
        patch_set=SPOTS,
        layout=layout,
        details={"kind": kind},
        notes=tuple(notes),
    )


def _barcodes(file: Any) -> Strings | None:
    """Names of the rows; None where there are none, in whose place TRIPLEX writes zeros."""
    name = next((name for name in ("barcodes", "barcode") if name in file), None)
    return None if name is None or array_of(file, name).dtype.kind == "f" else names_of(file, name)
