"""TRIPLEX: `emb/global/<model>/<id>.h5` (n, dim) and `emb/neighbor/<model>/<id>.h5` (n, 25, dim), without coordinates.

Read at TRIPLEX 4750051. Rows are the spots of the slide in their order, which the store must know already; the 25
vectors are the tiles of a square around the spot, row by row.
"""

from __future__ import annotations

import math
from pathlib import Path

from ..errors import StoreError
from ..naming import SPOTS
from .foreign import Foreign, Found
from .hdf import array_of, open_foreign, vectors_of

TOOL = "TRIPLEX"


def find_triplex(path: Path) -> tuple[Found, ...]:
    """Every file below a folder, `global` before `neighbor`, or the one given."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*.h5") if not p.name.startswith("."))
    return tuple(Found(p.stem, p) for p in files)


def read_triplex(found: Found) -> Foreign:
    """Read vectors of spots, or of the tiles around them.

    Raises
    ------
    StoreError
        If the tiles around a spot are no square.
    """
    notes: list[str] = ["rows were taken to be the store's spots in their order: the file names none"]
    with open_foreign(found.path) as file:
        name = "embeddings" if "embeddings" in file else "features"
        features = vectors_of(file, name, tokens=True)
        layout = None
        if features.ndim == 3:
            side = math.isqrt(features.shape[1])
            if side * side != features.shape[1] or side < 2:
                msg = f"{found.path}: {features.shape[1]} vectors a spot are no square of tiles"
                raise StoreError(msg)
            layout = f"tiles{side}x{side}"
            if "mask_tb" in file:
                absent = int((array_of(file, "mask_tb")[()] == 0).sum())
                notes.append(f"mask_tb marks {absent} tiles as absent; their vectors are kept as they are")
    return Foreign(
        found.slide_id,
        TOOL,
        None,
        features=features,
        hint=found.path.parent.name,
        patch_set=SPOTS,
        layout=layout,
        details={"kind": "global" if layout is None else "neighbor"},
        notes=tuple(notes),
    )
