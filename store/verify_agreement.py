"""Whether the files of one slide belong together; pure comparisons of what was read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isclose

import numpy as np

from .expression import Expression
from .feature_file import FeatureHeader
from .patch_file import Patches
from .slide_file import SAME_MPP, SlideRecord
from .verify_datasets import not_finite
from .verify_problem import MENDS, Problem, name_rows


def check_slide(path: str, record: SlideRecord) -> Iterator[Problem]:
    """Scale and size that no slide has."""
    if not (record.mpp > 0 and np.isfinite(record.mpp)) or record.width_px <= 0 or record.height_px <= 0:
        what = f"says {record.width_px} x {record.height_px} px at {record.mpp} um/px"
        yield Problem(path, "", "attributes", what, MENDS["slide"])


def check_patches(path: str, patches: Patches, others: Mapping[str, int | None]) -> Iterator[Problem]:
    """Centres that are numbers, barcodes that are unique, and parents that are there.

    Parameters
    ----------
    others
        Number of patches by patch set of the same slide; None where a set cannot be read.
    """
    mend = MENDS["patches"]
    bad = not_finite(patches.center_px)
    if len(bad):
        yield Problem(path, "center", name_rows(bad.tolist()), "NaN or infinity", mend)
    _, first, counts = np.unique(patches.barcode, return_index=True, return_counts=True)
    if (counts > 1).any():
        row = int(first[counts > 1].min())
        yield Problem(path, "barcode", f"row {row}", f"{patches.barcode[row]} occurs more than once", mend)
    if patches.parent is None:
        return
    if patches.parent_set is None or patches.parent_set not in others:
        grid = patches.parent_set or "(the attribute parent_set is missing)"
        what = f"names rows of the grid {grid}, of which this slide has no patches"
        yield Problem(path, "parent", "", what, mend)
        return
    count = others[patches.parent_set]
    outside = np.flatnonzero((patches.parent < -1) | (patches.parent >= (np.inf if count is None else count)))
    if len(outside):
        row = int(outside[0])
        what = f"parent {patches.parent[row]} is no row of {patches.parent_set}, which has {count}"
        yield Problem(path, "parent", name_rows(outside.tolist()), what, mend)


def check_features(
    path: str, header: FeatureHeader, rows: int, *, record: SlideRecord | None, patches: Patches | None
) -> Iterator[Problem]:
    """Features made from this slide's image, at its scale, on these patches."""
    mend = MENDS["features"]
    if record is not None:
        if header.source_digest != record.source_digest:
            what = f"source_digest {header.source_digest[:12]} is not the slide's, {record.source_digest[:12]}"
            yield Problem(path, "", "attributes", f"were made from another image: {what}", mend)
        if not isclose(header.slide_mpp, record.mpp, rel_tol=SAME_MPP):
            what = f"slide_mpp {header.slide_mpp:g} is not the slide's mpp, {record.mpp:g}"
            yield Problem(path, "", "attributes", f"were made at another scale: {what}", mend)
    if patches is None:
        return
    if header.patches_digest != patches.digest:
        what = f"patches_digest {header.patches_digest[:12]} is not that of the patch file, {patches.digest[:12]}"
        yield Problem(path, "", "attributes", f"belong to other patches: {what}", mend)
    if rows != len(patches):
        yield Problem(path, "features", "", f"has {rows} rows for {len(patches)} patches", mend)


def check_expression(
    path: str, expression: Expression, *, center_px: np.ndarray | None, spots: Patches | None
) -> Iterator[Problem]:
    """Counts that are counts, over genes that are unique, with the slide's spots as rows.

    Parameters
    ----------
    center_px
        (n, 2) `obsm["spatial"]`, where the file has it.
    """
    mend = MENDS["expression"]
    counts = expression.counts
    wrong = np.flatnonzero(~(np.isfinite(counts.data) & (counts.data >= 0)))
    if len(wrong):
        rows = np.unique(np.searchsorted(counts.indptr, wrong, side="right") - 1)
        yield Problem(path, "X/data", name_rows(rows.tolist()), "NaN, infinity or a count below zero", mend)
    if len(np.unique(expression.genes)) != len(expression.genes):
        yield Problem(path, "var", "", "gene names repeat", mend)
    if spots is None:
        return
    if len(expression.barcode) != len(spots):
        yield Problem(path, "obs", "", f"has {len(expression.barcode)} rows for {len(spots)} spots", mend)
        return
    differ = np.flatnonzero(expression.barcode != spots.barcode)
    if len(differ):
        row = int(differ[0])
        same = set(expression.barcode) == set(spots.barcode)
        problem = "rows are the spots in another order" if same else "rows are not the spots of patches/spots"
        what = f"{problem}: row {row} is {expression.barcode[row]}, wanted {spots.barcode[row]}"
        yield Problem(path, "obs", name_rows(differ.tolist()), what, mend)
    if center_px is not None and not np.array_equal(center_px, spots.center_px):
        yield Problem(path, "obsm/spatial", "", "is not the centres of patches/spots", mend)
