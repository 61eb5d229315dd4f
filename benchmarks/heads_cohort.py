"""A cohort in memory for the benchmarks of heads: features of low rank, genes that follow a tenth of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..heads.protocols.targets import centre_by_slide, median_depth, spot_weights
from ..store.files.column import FeatureColumn
from ..store.table import Table

LATENT = 100
SPACING_UM = 200.0


@dataclass(frozen=True)
class Size:
    """Of a cohort."""

    rows: int = 13_600
    dim: int = 1024
    views: int = 3
    slides: int = 36
    patients: int = 8
    genes: int = 250


def cohort(size: Size) -> Table:
    """All rows, prepared: slides on square arrays, features in half precision as a store has them.

    Latent numbers fall off as 1 / sqrt(1 + i), views see them through loadings of their own with noise beside, and
    genes follow the first ten.
    """
    rng = np.random.default_rng(0)
    slide = np.sort(np.arange(size.rows) % size.slides).astype(np.int32)
    row = np.concatenate([np.arange(n) for n in np.bincount(slide)]).astype(np.int32)
    latent = rng.normal(size=(size.rows, LATENT)).astype(np.float32) / np.sqrt(1 + np.arange(LATENT, dtype=np.float32))
    columns = {}
    for view in range(size.views):
        x = latent @ rng.normal(size=(LATENT, size.dim)).astype(np.float32)
        x += 0.5 * rng.normal(size=x.shape).astype(np.float32)
        x = (x / x.std()).astype(np.float16)
        key = f"made-up-{view}@20x"
        columns[key] = FeatureColumn(key, "none", tuple(x[slide == one] for one in range(size.slides)))
    y = latent[:, :10] @ rng.normal(size=(10, size.genes)) + 3 * rng.normal(size=(size.rows, size.genes))
    depth = rng.lognormal(7.5, 0.8, size=size.rows)
    side = int(np.ceil(np.sqrt(row.max() + 1)))
    array = np.stack(np.divmod(row, side), axis=1).astype(np.int32)
    return Table(
        slide_ids=tuple(f"slide{i}" for i in range(size.slides)),
        patient_ids=tuple(f"patient{i * size.patients // size.slides}" for i in range(size.slides)),
        slide=slide,
        row=row,
        center_um=array[:, ::-1] * SPACING_UM,
        array=array,
        columns=columns,
        barcode=np.arange(size.rows).astype(np.str_),
        depth=depth,
        targets=centre_by_slide(y, slide).astype(np.float32),
        target_offset=np.zeros((size.slides, size.genes), dtype=np.float32),
        weights=spot_weights(depth, median_depth(depth)).astype(np.float32),
        panel=tuple(f"gene{g}" for g in range(size.genes)),
    )


def fold_of(table: Table, patient: str) -> tuple[Table, Table]:
    """Training and test tables that leave one patient out."""
    out = [i for i, one in enumerate(table.patient_ids) if one == patient]
    kept = [i for i in range(len(table.slide_ids)) if i not in out]
    return table.select_slides(kept), replace(table.select_slides(out), targets=None, weights=None, depth=None)
