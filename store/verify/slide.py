"""Everything a store holds of one slide: each file against its checksums, then the files against one another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isclose
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import Floats
from ..catalog import ENCODINGS, Contents, file_sha256, fill_in, read_contents
from ..catalog_file import Entry
from ..errors import InvalidNameError, StoreError
from ..files.expression import Expression, read_text
from ..files.features import FeatureFile, FeatureHeader
from ..files.patches import Patches
from ..files.schema import DAMAGE, FEATURES, open_h5
from ..files.slide import SAME_MPP, SlideRecord
from ..naming import FeatureKey, check_name
from .datasets import check_attributes, check_blocks, check_datasets, is_covered, not_finite
from .problem import MENDS, Problem, name_rows, of_error


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


@dataclass(frozen=True)
class FileFindings:
    """What re-reading one file found.

    Attributes
    ----------
    entry
        Its row as the catalogue should have it.
    contents
        None where it cannot be read.
    slide_id
        Of which slide it says that it is; empty where it does not say.
    covered
        Whether its datasets carry checksums.
    thumbnail
        Whether a slide file holds a picture of the slide; None of other files.
    center_px
        (n, 2) centres that a file of counts repeats.
    """

    entry: Entry
    contents: Contents | None = None
    slide_id: str = ""
    covered: bool = True
    thumbnail: bool | None = None
    center_px: Floats | None = None
    problems: tuple[Problem, ...] = ()


def examine_slide(root: Path, slide_id: str, entries: Sequence[Entry]) -> tuple[list[FileFindings], list[Problem]]:
    """Re-read all files of one slide; returns the findings, without what was read, and the problems."""
    files = [_examine_file(root, entry) for entry in entries]
    problems = [problem for file in files for problem in file.problems]
    problems += _check_names(slide_id, files)
    problems += _check_agreement(files)
    return [replace(file, contents=None, center_px=None) for file in files], problems


def _examine_file(root: Path, entry: Entry) -> FileFindings:
    """Read one file, and compare every byte of its datasets with the checksums."""
    found = FileFindings(entry)
    mend, path = MENDS[entry.kind], root / entry.path
    problems: list[Problem] = []
    try:
        with open_h5(path, ENCODINGS[entry.kind]) as file:
            problems += check_attributes(file, entry.path, kind=entry.kind)
            if entry.kind != "features":
                problems += check_datasets(file, entry.path, kind=entry.kind)
                found = replace(found, covered=is_covered(file))
            if entry.kind == "slide":
                found = replace(found, thumbnail="thumbnail" in file)
            found = replace(found, slide_id=_named_slide(file), center_px=_repeated_centres(file, entry.kind))
        contents = read_contents(path, entry.kind)
        if isinstance(contents, FeatureFile):
            problems += _check_rows(root, entry.path, contents)
        sha256 = file_sha256(path) if entry.kind == "expression" else ""
        found = replace(found, entry=fill_in(entry, contents, sha256=sha256), contents=contents)
    except (StoreError, OSError, MemoryError) as error:
        found = replace(found, entry=entry._replace(problem=str(error)))
        if not problems:  # else the dataset at fault is named already
            problems.append(of_error(root, entry.path, error, mend=mend))
    return replace(found, problems=tuple(problems))


def _check_rows(root: Path, path: str, opened: FeatureFile) -> Iterator[Problem]:
    with open_h5(root / path, FEATURES) as file:
        if "crc32" not in file:
            yield Problem(path, "crc32", "", "is missing: nothing says what the rows should be", MENDS["features"])
            return
        yield from check_blocks(root, path, opened, file)


def _named_slide(file: Any) -> str:
    """The slide that an opened file says it is of; counts say it in `uns`."""
    if "slide_id" in file.attrs:
        return str(file.attrs["slide_id"])
    try:
        return read_text(file, "uns/slide_id") if "uns/slide_id" in file else ""
    except DAMAGE:  # the checksum of the dataset tells
        return ""


def _repeated_centres(file: Any, kind: str) -> Floats | None:
    try:
        return np.asarray(file["obsm/spatial"]) if kind == "expression" and "obsm/spatial" in file else None
    except DAMAGE:
        return None


def _check_names(slide_id: str, files: Sequence[FileFindings]) -> Iterator[Problem]:
    """Names that the format does not allow, and files that were renamed."""
    for file in files:
        entry = file.entry
        try:
            check_name(slide_id, "slide id")
            if entry.kind in ("patches", "features"):
                check_name(entry.patches, "patch set")
            if entry.kind == "features":
                FeatureKey.parse(entry.key)
        except InvalidNameError as error:
            yield Problem(entry.path, "", "", f"has no name of the format: {error}", MENDS["place"])
        if file.slide_id not in ("", slide_id):
            what = f"says that it is of slide {file.slide_id}: it was renamed or copied"
            yield Problem(entry.path, "", "attributes", what, f"rename it to {file.slide_id}, or delete it")


def _check_agreement(files: Sequence[FileFindings]) -> Iterator[Problem]:
    """Files of one slide against one another."""
    present = {(file.entry.kind, file.entry.patches) for file in files}
    record = next((file.contents for file in files if isinstance(file.contents, SlideRecord)), None)
    places = {file.entry.patches: file.contents for file in files if isinstance(file.contents, Patches)}
    others = {file.entry.patches: None for file in files if file.entry.kind == "patches"} | {
        name: len(place) for name, place in places.items()
    }
    for file in files:
        entry, contents = file.entry, file.contents
        yield from _check_company(entry, present)
        if isinstance(contents, SlideRecord):
            yield from check_slide(entry.path, contents)
        elif isinstance(contents, Patches):
            yield from check_patches(entry.path, contents, others)
        elif isinstance(contents, FeatureFile):
            patches, rows = places.get(entry.patches), len(contents.features)
            yield from check_features(entry.path, contents.header, rows, record=record, patches=patches)
        elif isinstance(contents, Expression):
            yield from check_expression(entry.path, contents, center_px=file.center_px, spots=places.get("spots"))


def _check_company(entry: Entry, present: set[tuple[str, str]]) -> Iterator[Problem]:
    """Files that cannot be used because another one is gone."""
    needed = [] if entry.kind == "slide" else [("slide", "", f"slides/{entry.slide_id}.h5")]
    if entry.kind in ("features", "expression"):
        patches = entry.patches or "spots"
        needed.append(("patches", patches, f"patches/{patches}/{entry.slide_id}.h5"))
    for kind, patches, path in needed:
        if (kind, patches) not in present:
            mend = f"run `tissuary featurize` again, which makes {path}, or delete this file"
            yield Problem(entry.path, "", "", f"is of no use without {path}, which is missing", mend)
