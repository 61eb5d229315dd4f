"""Geometry, patches and counts into the store: written once, and never changed behind anyone's back."""

from __future__ import annotations

import hashlib
import os
from importlib.metadata import version
from math import isclose
from pathlib import Path

import numpy as np

from ..store.arrays import Bools, Pixels
from ..store.errors import StoreError
from ..store.files.expression import Expression, read_expression, write_expression
from ..store.files.patches import Patches, read_patches, write_patches
from ..store.files.schema import expression_path, patches_path, slide_path
from ..store.files.slide import SAME_MPP, SlideRecord, read_slide, write_slide
from ..store.scale import Scale
from .slides.metadata import is_synthetic
from .slides.patches_h5 import PrecutSlide
from .slides.slide import Slide
from .sources.sample import MeasuredSpots, Sample

DIGEST_BYTES = 1 << 20
HEAD_BYTES = 4096
"""Of a DICOM file: its head holds the identifiers that no two files share."""

ZARR_METADATA = ("zarr.json", ".zattrs", ".zarray", ".zgroup")


def deposit_slide(
    root: Path, sample: Sample, slide: Slide, *, scale: Scale, thumbnail: Pixels, tissue: Bools
) -> SlideRecord:
    """Write the slide file, or check that the one in the store says the same.

    Raises
    ------
    StoreError
        If the store holds another slide, scale or patient under this id.
    """
    record = slide_record(sample, slide, scale)
    path = slide_path(root, sample.slide_id)
    if not path.exists():
        write_slide(path, record, thumbnail=thumbnail, tissue=tissue)
        return record
    found = read_slide(path)
    for name in ("patient_id", "width_px", "height_px", "mpp", "source_digest"):
        old, new = getattr(found, name), getattr(record, name)
        if old != new and not (name == "mpp" and isclose(old, new, rel_tol=SAME_MPP)):
            msg = (
                f"slide {sample.slide_id} is in the store with {name} {old}, the source now says {new}. A store never "
                f"changes a file: use another store, or delete every file named {sample.slide_id}.* in {root}."
            )
            raise StoreError(msg)
    return found


def slide_record(sample: Sample, slide: Slide, scale: Scale) -> SlideRecord:
    """What a slide file says of a slide."""
    return SlideRecord(
        slide_id=sample.slide_id,
        patient_id=sample.patient_id,
        width_px=slide.width,
        height_px=slide.height,
        mpp=scale.mpp,
        mpp_source=scale.source,
        mpp_candidates=scale.candidates,
        source=os.fspath(sample.image),
        source_digest=source_digest(sample.image),
        created_by=f"tissuary {version('tissuary')}",
        synthetic=is_synthetic(sample.image),
        # Of patches that were cut already nobody knows what the scanner filled.
        bounds_px=slide.bounds_px or (None if isinstance(slide, PrecutSlide) else (0, 0, slide.width, slide.height)),
    )


def deposit_patches(root: Path, slide_id: str, patches: Patches, *, name: str) -> bool:
    """Write a patch set, or check that the one in the store is the same; tell whether it was written.

    Raises
    ------
    StoreError
        If it is another.
    """
    path = patches_path(root, slide_id, patches=name)
    if not path.exists():
        write_patches(path, patches, slide_id=slide_id)
        return True
    found = read_patches(path)
    if found.digest != patches.digest:
        msg = (
            f"slide {slide_id}: the store's patch set {name!r} has {len(found)} patches, the source now gives "
            f"{len(patches)} or others. Use another store, or delete {path} and the features made from it."
        )
        raise StoreError(msg)
    if patches.parent_set not in (None, found.parent_set):
        msg = (
            f"slide {slide_id}: the store's patch set {name!r} has its parents in {found.parent_set or 'no grid'}, now "
            f"they would be in {patches.parent_set}. Use another store, or delete {path}: its features stay valid."
        )
        raise StoreError(msg)
    return False


def deposit_counts(root: Path, slide_id: str, measured: MeasuredSpots, patches: Patches) -> None:
    """Write the raw counts, or check that those in the store are the same.

    Raises
    ------
    StoreError
        If they are others.
    """
    path = expression_path(root, slide_id)
    if not path.exists():
        expression = Expression(measured.counts, measured.genes, measured.spots.barcode)
        write_expression(path, expression, patches, slide_id=slide_id)
        return
    found = read_expression(path)
    same = found.counts.shape == measured.counts.shape and np.array_equal(found.genes, measured.genes)
    if not same or (found.counts != measured.counts).nnz:
        msg = f"slide {slide_id}: the counts in the store are not those of the source; delete {path} and run again"
        raise StoreError(msg)


def source_digest(image: Path) -> str:
    """sha256 over size, first and last MiB: names a gigabyte file without reading all of it.

    Of a folder, as OME-Zarr and DICOM have, over the names and sizes of all its files, and the bytes that say what is
    in it: zarr's small files of metadata, the head of each DICOM file.
    """
    if image.is_dir():
        return _folder_digest(image)
    size = image.stat().st_size
    sha = hashlib.sha256(str(size).encode())
    with image.open("rb") as file:
        sha.update(file.read(DIGEST_BYTES))
        file.seek(max(0, size - DIGEST_BYTES))
        sha.update(file.read(DIGEST_BYTES))
    return sha.hexdigest()


def _folder_digest(folder: Path) -> str:
    sha = hashlib.sha256()
    is_dicom = not any((folder / name).is_file() for name in ZARR_METADATA)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        sha.update(f"{path.relative_to(folder).as_posix()} {path.stat().st_size}\n".encode())
        if path.name in ZARR_METADATA:
            sha.update(path.read_bytes())
        elif is_dicom:
            with path.open("rb") as file:
                sha.update(file.read(HEAD_BYTES))
    return sha.hexdigest()
